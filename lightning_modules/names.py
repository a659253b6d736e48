"""Choose an entry of a table by name; an unknown name lists the known ones and the nearest."""

import difflib
from collections.abc import Iterable

from datamodules.errors import UserError


def check_name(variable: str, value: str, known: Iterable[str]) -> str:
    """Return `value` if it is one of `known`.

    Raises:
        ValueError: names the variable, its value, the known names and the nearest of them.
    """
    known = tuple(known)
    if value in known:
        return value
    nearest = difflib.get_close_matches(str(value), known, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise UserError(f"{variable}={value!r} is unknown. Known: {', '.join(known)}.{hint}")
