"""A disk that takes no more, known by whatever was raised because of it, and said of which file."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # full, a quota, `ulimit -f`, mounted read-only
NUMBER = re.compile(r"\b(?:os error|errno)\W+(\d+)", re.IGNORECASE)  # as Rust and Arrow tell it
CUT_SHORT = ("unexpected pos", "iostream error", "PytorchStreamWriter failed writing")  # torch, of a file cut short


def refusal(error: BaseException | None) -> OSError | None:
    """The error of a disk that takes no more by which `error` came about, itself included; None for another error.

    Libraries wrap it, raise another one while they clean up, tell it in words without its number, and whoever wants to
    note what happened finds the disk as full. Of several it is the first to have named a file; else the last that has
    the system's number.
    """
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    numbered = [one for one in chain if isinstance(one, OSError) and one.errno in REFUSALS]
    named = [one for one in numbered if one.filename is not None]
    told = (one for one in map(_told_in_words, chain) if one is not None)
    return named[-1] if named else numbered[0] if numbered else next(told, None)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Whatever is raised within because the disk takes no more, is raised as an OSError that names `path`."""
    try:
        yield
    except Exception as error:
        found = refusal(error)
        if found is None:
            raise
        if found.filename is None or os.path.basename(str(found.filename)).startswith("."):
            found.filename = str(path)  # for what is written has no name, or that of a file beside its place
        if found is error:
            raise
        raise OSError(found.errno, found.strerror, str(path)) from error


def _told_in_words(error: BaseException) -> OSError | None:
    text = str(error)
    number = next((int(told) for told in NUMBER.findall(text)), None)
    if number is None and isinstance(error, RuntimeError) and any(words in text for words in CUT_SHORT):
        number = errno.ENOSPC
    if number is None:
        number = next((one for one in REFUSALS if os.strerror(one) in text), None)
    return OSError(number, os.strerror(number)) if number in REFUSALS else None
