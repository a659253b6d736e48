"""Every image of an index, cropped and resized once, in one memory-mapped file that survives whatever stops its making.

`<cache_dir>/images/<fingerprint>/` holds `images.uint8` [N, S, S, C], `rows.bin` (for each row its state and a digest
of its pixels), `rejected.jsonl` and, written last, `complete.json`. It is made in `<fingerprint>.building` and renamed
when it is finished, so a folder of that name is complete. The fingerprint covers all that the pixels depend on: the
source, the state of its files, the paths, the size. A row's state is written after its pixels, so that a killed build
goes on where it stopped; two processes that build the same cache write the same bytes, and the first to finish
renames.
"""

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datamodules.cache_files import (
    COMPLETE,
    FORMAT,
    IMAGES,
    REASONS,
    REJECTED,
    ROW,
    ROWS,
    STORED,
    CacheError,
    check_complete,
    check_size,
    check_space,
    disk_error,
    held,
    marker,
    read_rows,
    reopen,
    to_make_again,
    unmade,
)
from datamodules.cache_workers import results, store_image
from datamodules.files import open_own, refuse_link, write_text
from datamodules.sources.base import Source

log = logging.getLogger(__name__)

SYNC_SECONDS = 1.0  # between two flushes to the disk: a killed build loses no more


class ImageCache:
    """A finished cache: `images` uint8 [N, *picture] (memory-mapped), `rejected` row -> reason, `digests` [N].

    `picture` is [S, S, 3], or [S, S, 1] for a source of masks, which says so by its `depth`.
    """

    def __init__(self, folder: Path, num_images: int, picture: tuple[int, int, int]) -> None:
        self.folder = folder
        check_complete(folder, num_images, picture)
        rows, self.rejected = read_rows(folder)
        if len(missing := unmade(rows, self.rejected)):
            raise CacheError(
                f"the image cache {str(folder)!r} lacks row {missing[0]} and {len(missing) - 1} others. Remedy: call "
                "prepare_data() first, which makes them again."
            )
        shape = (num_images, *picture)
        self.images = np.memmap(folder / IMAGES, dtype=np.uint8, mode="r", shape=shape)
        self.digests = rows["digest"]

    @classmethod
    def open(cls, source: Source, paths: Sequence[str], image_size: int, cache_dir: str | Path) -> "ImageCache":
        """Open the finished cache of these images; raises CacheError when there is none."""
        return cls(cache_folder(source, paths, image_size, cache_dir), len(paths), _picture(source, image_size))

    @classmethod
    def build(
        cls, source: Source, paths: Sequence[str], image_size: int, cache_dir: str | Path, num_workers: int = 0
    ) -> "ImageCache":
        """Open the cache of these images, making what is missing of it, in `num_workers` processes when more than one.

        An image that `source.read` refuses is kept as rejected, with the reason; those that a finished cache rejected
        for an error that may have passed are read again. Raises CacheError when the disk is full, when there is no
        memory, or for a cache that is damaged; OSError where an image cannot be had at the moment.
        """
        folder = cache_folder(source, paths, image_size, cache_dir)
        picture = _picture(source, image_size)
        if (folder / COMPLETE).is_file():
            _mend(folder, source, len(paths), picture)
        if not (folder / COMPLETE).is_file():
            if folder.exists():  # somebody began to delete it
                shutil.rmtree(folder)
            building = _open_building(folder, len(paths), picture)
            try:
                _fill(building, source, paths, picture, num_workers)
                _finish(building, folder, len(paths), picture)
            except OSError as error:
                if not (folder / COMPLETE).is_file():  # else another process finished it, and took the folder away
                    raise disk_error(error, folder, len(paths) * prod(picture)) from error
                shutil.rmtree(building, ignore_errors=True)
        return cls(folder, len(paths), picture)


def _picture(source: Source, image_size: int) -> tuple[int, int, int]:
    """Height, width and channels of what a source reads."""
    return image_size, image_size, getattr(source, "depth", 3)


def cache_folder(source: Source, paths: Sequence[str], image_size: int, cache_dir: str | Path) -> Path:
    """The folder whose name is the fingerprint of all that the pixels depend on."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{FORMAT}\0{source.name}\0{source.identity()}\0{image_size}\0{len(paths)}\n".encode())
    for start in range(0, len(paths), 1 << 20):
        digest.update("\n".join(paths[start : start + (1 << 20)]).encode())
        digest.update(b"\n")
    return Path(cache_dir) / "images" / digest.hexdigest()


def _mend(folder: Path, source: Source, num_images: int, picture: tuple[int, int, int]) -> None:
    """Make a finished cache an unfinished one where rows of it are to be made again."""
    check_complete(folder, num_images, picture)
    if again := to_make_again(folder):
        log.warning(
            "image cache: %d of %d images of %s were rejected for an error of the machine, not of theirs, or without a "
            "reason that can be read: they are read again", len(again), num_images, source.name,
        )  # fmt: skip
        reopen(folder, _building(folder), again)


def _building(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.building")


def _open_building(folder: Path, num_images: int, picture: tuple[int, int, int]) -> Path:
    """The folder of an unfinished cache, made all at once, or found as another process or an earlier one left it."""
    building = _building(folder)
    refuse_link(building)
    if building.is_dir():
        return building
    folder.parent.mkdir(parents=True, exist_ok=True)
    num_bytes = num_images * prod(picture)
    check_space(folder, num_bytes)
    fresh = folder.with_name(f"{folder.name}.new-{uuid.uuid4().hex}")
    fresh.mkdir()  # with the rights that the umask gives: users may share caches
    for name, size in ((IMAGES, num_bytes), (ROWS, num_images * ROW.itemsize), (REASONS, 0)):
        with open(fresh / name, "wb") as file:
            file.truncate(size)
    try:
        os.rename(fresh, building)
    except OSError:  # another process was first
        shutil.rmtree(fresh, ignore_errors=True)
        if not building.is_dir():
            raise
    return building


def _fill(
    building: Path, source: Source, paths: Sequence[str], picture: tuple[int, int, int], num_workers: int
) -> None:
    """Make the pending rows: pixels first, then the reason if any, then the row's state."""
    check_size(building / IMAGES, len(paths) * prod(picture))
    check_size(building / ROWS, len(paths) * ROW.itemsize)
    pending = to_make_again(building)
    done = len(paths) - len(pending)
    check_space(building, len(pending) * prod(picture), held=held(building / IMAGES, done * prod(picture)))
    if done:
        log.info("image cache: %d of %d images are there already", done, len(paths))
    tasks = ((row, paths[row]) for row in pending)
    store = partial(store_image, source, str(building / IMAGES), picture)
    unsynced: list[tuple[int, int, bytes]] = []
    last = time.monotonic()
    with (
        open_own(building / IMAGES, "r+b") as images,
        open_own(building / ROWS, "r+b") as rows,
        open_own(building / REASONS, "a") as reasons,
        _bar(len(paths), done, f"caching {source.name} at {picture[0]} px") as bar,
    ):
        reasons.write("\n")  # ends a line that was cut off when an earlier build was killed
        try:
            for row, digest, reason in results(store, tasks, len(pending), num_workers, bar):
                if reason is not None:
                    reasons.write(json.dumps({"row": row, "reason": reason}) + "\n")
                unsynced.append((row, STORED if reason is None else REJECTED, digest))
                if time.monotonic() - last > SYNC_SECONDS:
                    _sync(images, reasons, rows, unsynced)
                    last = time.monotonic()
        finally:
            _sync(images, reasons, rows, unsynced)


def _bar(total: int, done: int, what: str) -> tqdm:
    return tqdm(total=total, initial=done, desc=what, unit="image", mininterval=0.5)


def _sync(images, reasons, rows, unsynced: list[tuple[int, int, bytes]]) -> None:
    """Make pixels and reasons durable, and only then the states of their rows."""
    made = unsynced.copy()
    unsynced.clear()  # first: after one that failed, a second sync succeeds without having written anything
    os.fsync(images.fileno())
    reasons.flush()
    os.fsync(reasons.fileno())
    for row, state, digest in made:
        rows.seek(row * ROW.itemsize)
        rows.write(bytes([state]) + digest)
    rows.flush()
    os.fsync(rows.fileno())


def _finish(building: Path, folder: Path, num_images: int, picture: tuple[int, int, int]) -> None:
    write_text(building / COMPLETE, json.dumps(marker(num_images, picture)))
    os.rename(building, folder)
