"""The files of an image cache, read back: checked before they are used, and mended where a row can be made again."""

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np

from datamodules.errors import UserError
from datamodules.files import open_own, read_json, refuse_link

FORMAT = 1
PENDING, STORED, REJECTED = 0, 1, 2
ROW = np.dtype([("state", "u1"), ("digest", "V8")])
IMAGES, ROWS, REASONS, COMPLETE = "images.uint8", "rows.bin", "rejected.jsonl", "complete.json"
# Reasons that earlier versions recorded of errors that were none of the image's: they may be over.
PASSING = re.compile(
    r"\[Errno \d+\]|cannot be decoded: ?$|out of memory|unable to allocate|insufficient memory|cannot allocate memory",
    re.IGNORECASE,
)


class CacheError(UserError, RuntimeError):
    """A cache that cannot be made or must not be used; the message names the folder and the remedy."""


def remedy(folder: Path) -> str:
    """What helps against a damaged cache."""
    return f"delete the folder {str(folder)!r}, and run again: it is made anew"


def check_size(path: Path, num_bytes: int) -> None:
    """Raise CacheError unless a file of a cache has its size."""
    size = path.stat().st_size if path.is_file() else None
    if size != num_bytes:
        found = "is not there" if size is None else f"has {size:,} bytes"
        raise CacheError(
            f"the cache {str(path.parent)!r} is damaged: {path.name} {found}, and must have {num_bytes:,}. Remedy: "
            f"{remedy(path.parent)}."
        )


def marker(num_images: int, picture: tuple[int, int, int]) -> dict[str, int]:
    """What a finished cache says of itself."""
    return {"format": FORMAT, "num_images": num_images, "image_size": picture[0]}


def check_complete(folder: Path, num_images: int, picture: tuple[int, int, int]) -> None:
    """Raise CacheError unless a finished cache of so many pictures is there, its files whole as far as sizes tell."""
    if not (folder / COMPLETE).is_file():
        raise CacheError(f"there is no finished image cache in {str(folder)!r}. Remedy: call prepare_data() first.")
    expected = marker(num_images, picture)
    found = read_json(folder / COMPLETE, dict, remedy(folder), CacheError)
    if found != expected:
        raise CacheError(
            f"the image cache {str(folder)!r} is damaged: {COMPLETE} says {found}, and must say {expected}. Remedy: "
            f"{remedy(folder)}."
        )
    check_size(folder / IMAGES, num_images * prod(picture))
    check_size(folder / ROWS, num_images * ROW.itemsize)


def read_rows(folder: Path) -> tuple[np.ndarray, dict[int, str]]:
    """The rows of a cache, ROW [N], and why each was rejected that was; lines that cannot be read tell nothing."""
    rows = np.fromfile(folder / ROWS, dtype=ROW)
    reasons: dict[int, str] = {}
    text = (folder / REASONS).read_text("utf-8", errors="replace") if (folder / REASONS).is_file() else ""
    for line in text.splitlines():
        row, reason = _entry(line)
        if 0 <= row < len(rows):
            reasons[row] = reason
    return rows, {row: reasons[row] for row in np.flatnonzero(rows["state"] == REJECTED).tolist() if row in reasons}


def _entry(line: str) -> tuple[int, str]:
    """Row and reason of a line; row -1 where there are none, as at the end of a build that was killed."""
    try:
        entry = json.loads(line)
        row, reason = entry["row"], entry["reason"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return -1, ""
    return (row, reason) if type(row) is int and isinstance(reason, str) else (-1, "")


def unmade(rows: np.ndarray, reasons: Mapping[int, str]) -> np.ndarray:
    """Which rows are neither stored nor rejected with a reason, int64."""
    told = np.zeros(len(rows), dtype=bool)
    told[list(reasons)] = True
    return np.flatnonzero((rows["state"] != STORED) & ~told)


def to_make_again(folder: Path) -> list[int]:
    """Rows of a cache that are to be made again: unmade, or rejected for an error that may have passed."""
    rows, reasons = read_rows(folder)
    passing = [row for row, reason in reasons.items() if PASSING.search(reason)]
    return sorted({*unmade(rows, reasons).tolist(), *passing})


def reopen(folder: Path, building: Path, again: list[int]) -> None:
    """Make a finished cache an unfinished one, with these rows pending; what was made of its pixels is deleted."""
    refuse_link(folder)
    with open_own(folder / ROWS, "r+b") as file:
        for row in again:
            file.seek(row * ROW.itemsize)
            file.write(bytes(ROW.itemsize))
        file.flush()
        os.fsync(file.fileno())
    for other in folder.iterdir():
        if other.name not in (IMAGES, ROWS, REASONS, COMPLETE) and not other.is_dir():
            other.unlink(missing_ok=True)
    if building.is_dir():
        shutil.rmtree(building)  # left over: this one was finished later
    try:
        os.rename(folder, building)
    except FileNotFoundError:  # another process was first
        if not building.is_dir() and not (folder / COMPLETE).is_file():
            raise


def held(path: Path, done_bytes: int) -> int:
    """Bytes on the disk that an unfinished cache holds for rows which are still to be made."""
    blocks = getattr(path.stat(), "st_blocks", 0) * 512
    return max(0, blocks - done_bytes)


def check_space(folder: Path, num_bytes: int, held: int = 0) -> None:
    """Raise CacheError where there is no room for so many bytes, some of which the cache holds already."""
    free = shutil.disk_usage(folder.parent).free
    if num_bytes - held > free:
        raise _space_error(folder, num_bytes, free)


def disk_error(error: OSError, folder: Path, num_bytes: int) -> Exception:
    """What to raise for an error of the disk while a cache is made."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return _space_error(folder, num_bytes, shutil.disk_usage(folder.parent).free)
    return error


def _space_error(folder: Path, num_bytes: int, free: int) -> CacheError:
    return CacheError(
        f"the disk of the image cache is full: {str(folder.parent)!r} needs {num_bytes:,} bytes and {free:,} are free. "
        "Remedy: delete caches that are no longer used there (each folder can be made again), choose another "
        "folder with cache_dir=…, or a smaller data.image_size. What was made so far is kept."
    )
