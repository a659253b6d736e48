"""Files and folders that are either whole or not there: written beside their place, then moved into it."""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from callbacks.disk import naming

LOCK = ".lock"  # of a folder that somebody holds; says who
UNFINISHED = re.compile(r"\..+\.\d+\.part(\.\w+)?")  # names of files and folders that are not in their place yet


def write_atomically(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Call write(temporary path in the same folder), then move the file to path; makes folders, leaves nothing over.

    Raises:
        OSError: whatever the disk says; path is then as it was before. Where the disk is full the error names path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as PIL choose their format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    temporary.unlink(missing_ok=True)  # which might be a link
    try:
        with naming(path):
            write(temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())  # or a power cut leaves an empty file under the final name
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(root: str | Path, seconds: float = 0.0) -> None:
    """Delete what processes that were killed have left unfinished below root, where nobody else is at work.

    A folder below it that has a lock of its own is left alone: whoever takes it sees to it.

    Args:
        seconds: that nothing was written to it, where somebody may be at work; what may not be deleted stays there.
    """
    for folder, names, files in os.walk(root):
        if folder != str(root) and LOCK in files:
            names.clear()
            continue
        for name in filter(UNFINISHED.fullmatch, [*files, *names]):
            left = Path(folder, name)
            with contextlib.suppress(OSError if seconds else FileNotFoundError):
                if time.time() - left.lstat().st_mtime < seconds:
                    continue
                if name in names:
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink()
        names[:] = [name for name in names if not UNFINISHED.fullmatch(name)]


def write_text(path: str | Path, text: str) -> None:
    """Write text in UTF-8, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder to write into, which is moved to path at the end; if anything is raised, nothing is left of it.

    Its files may then be read by whoever may read the folder, which some writers see to and others do not.
    What an earlier process that was killed has left beside path is deleted.

    Raises:
        FileExistsError: path is there.
        OSError: whatever the disk says.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} is there already")
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.iterdir():
        if re.fullmatch(rf"\.{re.escape(path.name)}\.\d+\.part", left.name):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.mkdir()
    try:
        with naming(path):
            yield temporary
            readable = temporary.stat().st_mode & 0o666
            for part in (*temporary.rglob("*"), temporary):
                if part.is_file():
                    part.chmod(readable)
                _to_disk(part)
            os.rename(temporary, path)
            _to_disk(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
