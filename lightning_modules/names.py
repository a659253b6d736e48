"""Choose an entry of a table by name; an unknown name lists the known ones and the nearest."""

from collections.abc import Iterable

from datamodules.errors import UserError, did_you_mean


def check_name(variable: str, value: str, known: Iterable[str]) -> str:
    """Return `value` if it is one of `known`.

    Raises:
        ValueError: names the variable, its value, the known names and the nearest of them.
    """
    known = tuple(known)
    if value in known:
        return value
    raise UserError(f"{variable}={value!r} is unknown. Known: {', '.join(known)}.{did_you_mean(value, known)}")
