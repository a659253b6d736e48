"""The one class of a user's mistake, and what is suggested for a misspelt name.

It is the only module that every room may import from another.
"""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What was asked for cannot be. The message names the file, row or key, its value and the remedy.

    The entry point prints the message alone. Any other exception keeps its traceback.
    """


def nearest(name: object, known: Iterable[object], num: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names most like `name`, the nearest first; empty where none is near. Case does not count.

    Args:
        name: what was given; anything else than text is taken as its text.
        known: the names that there are.
        num: how many names at most.
        cutoff: how alike they must be, 0 (anything) to 1 (the same letters), as `difflib` measures it.
    """
    spellings: dict[str, list[str]] = {}
    for one in map(str, known):
        spellings.setdefault(one.lower(), []).append(one)
    close = difflib.get_close_matches(str(name).strip().lower(), spellings, num, cutoff)
    return [one for match in close for one in spellings[match]][:num]


def did_you_mean(name: object, known: Iterable[object], num: int = 1, cutoff: float = 0.6) -> str:
    """A sentence for the end of a message, ` Did you mean 'a' or 'b'?`; "" where no name is near. As `nearest`."""
    near = nearest(name, known, num, cutoff)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
