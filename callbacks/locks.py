"""Locks on files that a killed process lets go of by itself."""

import errno
import fcntl
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

NOT_HERE = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)  # some file systems of clusters cannot lock


def lock(file: IO, shared: bool = False) -> bool:
    """Hold an open file until it is closed, without waiting; False where somebody else holds it.

    True on a file system that cannot lock, with a warning: there nobody can be seen to be at work.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NOT_HERE:
            raise
        warnings.warn(
            f"the file system of {file.name} cannot lock: see that no other run is at work there.", stacklevel=2
        )
    return True


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold a set's folder against a second run of the same; nothing of it stays behind.

    Raises:
        ValueError: another run holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    path = root / ".lock"
    while True:
        with open(path, "w") as file:
            if not lock(file):
                raise ValueError(
                    f"another run is at work on the set in {str(root)!r}. Remedy: wait for it, stop it, or name "
                    "another."
                )
            if not _is(file, path):  # its last holder took it away in between
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is(file: IO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
