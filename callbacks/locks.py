"""Locks on files that a killed process lets go of by itself."""

import contextlib
import errno
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from callbacks.files import LOCK, open_own, remove_unfinished
from datamodules.errors import UserError

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


class HeldError(UserError):
    """Somebody else is at work in a folder; the message says who, and what to do."""


@contextmanager
def alone(root: Path, remedy: str = "wait for it, stop it, or name another folder") -> Iterator[None]:
    """Hold a folder against a second run; nothing of that stays behind, not even the folder where nothing came into it.

    What processes that were killed have left unfinished there is taken away.

    The system lets go of it when this process ends, however it does. In a folder where nothing can be written nothing
    is held, and whatever is to be written there says so.

    Raises:
        HeldError: another run holds it.
        ValueError: its lock file is a link, or none.
        OSError: whatever the disk says.
    """
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        file: IO | None = _hold(root, remedy)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise
        file = None
    process = os.getpid()
    try:
        if file is not None:
            remove_unfinished(root)
        yield
    finally:
        if file is not None and os.getpid() == process:  # and not a fork
            (root / LOCK).unlink(missing_ok=True)
            _held.remove(file)
            file.close()
            for folder in made:
                with contextlib.suppress(OSError):  # something is in it
                    folder.rmdir()


def _hold(root: Path, remedy: str) -> IO:
    path = root / LOCK
    while True:
        file = open_own(path, "a+")
        if not lock(file):
            file.seek(0)
            who = file.read(100).strip()
            file.close()
            raise HeldError(
                f"another run is at work in {str(root)!r}{f': process {who}' if who else ''}. Remedy: {remedy}."
            )
        if _is(file, path):
            break
        file.close()  # its last holder took it away in between
    _held.append(file)
    file.truncate(0)
    with contextlib.suppress(OSError):  # a full disk, of which the first file that matters is to tell
        os.write(file.fileno(), f"{os.getpid()} on {socket.gethostname()}\n".encode())
    return file


_held: list[IO] = []  # by this process


def _forget_in_a_fork() -> None:
    """Close a fork's copies, by which it would hold what its parent, once killed, no longer does."""
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_forget_in_a_fork)


def _is(file: IO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
