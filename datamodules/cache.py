"""Every image of an index, cropped and resized once, in one memory-mapped file that survives whatever stops its making.

`<cache_dir>/images/<fingerprint>/` holds `images.uint8` [N, S, S, C], `rows.bin` (for each row its state and a digest
of its pixels), `rejected.jsonl` and, written last, `complete.json`. It is made in `<fingerprint>.building` and renamed
when it is finished, so a folder of that name is complete. The fingerprint covers all that the pixels depend on: the
source, the state of its files, the paths, the size. A row's state is written after its pixels, so that a killed build
goes on where it stopped; two processes that build the same cache write the same bytes, and the first to finish
renames.
"""

import errno
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datamodules.images import ImageError, NotAFundusError
from datamodules.sources.base import Source

log = logging.getLogger(__name__)

FORMAT = 1
PENDING, STORED, REJECTED = 0, 1, 2
ROW = np.dtype([("state", "u1"), ("digest", "V8")])
SYNC_SECONDS = 1.0  # between two flushes to the disk: a killed build loses no more
LEAST_PER_WORKER = 500  # rows for which it pays to start a process (which imports the program anew)
IMAGES, ROWS, REASONS, COMPLETE = "images.uint8", "rows.bin", "rejected.jsonl", "complete.json"


class CacheError(RuntimeError):
    """A cache that cannot be made or must not be used; the message names the folder and the remedy."""


class ImageCache:
    """A finished cache: `images` uint8 [N, *picture] (memory-mapped), `rejected` row -> reason, `digests` [N].

    `picture` is [S, S, 3], or [S, S, 1] for a source of masks, which says so by its `depth`.
    """

    def __init__(self, folder: Path, num_images: int, picture: tuple[int, int, int]) -> None:
        self.folder = folder
        _check_complete(folder, num_images, picture)
        shape = (num_images, *picture)
        self.images = np.memmap(folder / IMAGES, dtype=np.uint8, mode="r", shape=shape)
        self.digests = np.fromfile(folder / ROWS, dtype=ROW)["digest"]
        self.rejected = _read_reasons(folder)

    @classmethod
    def open(cls, source: Source, paths: Sequence[str], image_size: int, cache_dir: str | Path) -> "ImageCache":
        """Open the finished cache of these images; raises CacheError when there is none."""
        return cls(cache_folder(source, paths, image_size, cache_dir), len(paths), _picture(source, image_size))

    @classmethod
    def build(
        cls, source: Source, paths: Sequence[str], image_size: int, cache_dir: str | Path, num_workers: int = 0
    ) -> "ImageCache":
        """Open the cache of these images, making what is missing of it, in `num_workers` processes when more than one.

        An image that `source.read` refuses is kept as rejected, with the reason. Raises CacheError when the disk is
        full.
        """
        folder = cache_folder(source, paths, image_size, cache_dir)
        picture = _picture(source, image_size)
        if not (folder / COMPLETE).is_file():
            if folder.exists():  # somebody began to delete it
                shutil.rmtree(folder)
            building = _open_building(folder, len(paths), picture)
            try:
                _fill(building, source, paths, picture, num_workers)
                _finish(building, folder, len(paths), picture)
            except OSError as error:
                if not (folder / COMPLETE).is_file():  # else another process finished it, and took the folder away
                    raise _disk_error(error, folder, len(paths) * prod(picture)) from error
                shutil.rmtree(building, ignore_errors=True)
        return cls(folder, len(paths), picture)


def _picture(source: Source, image_size: int) -> tuple[int, int, int]:
    """Height, width and channels of what a source reads."""
    return image_size, image_size, getattr(source, "depth", 3)


def _marker(num_images: int, picture: tuple[int, int, int]) -> dict[str, int]:
    """What a finished cache says of itself."""
    return {"format": FORMAT, "num_images": num_images, "image_size": picture[0]}


def cache_folder(source: Source, paths: Sequence[str], image_size: int, cache_dir: str | Path) -> Path:
    """The folder whose name is the fingerprint of all that the pixels depend on."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{FORMAT}\0{source.name}\0{source.identity()}\0{image_size}\0{len(paths)}\n".encode())
    for start in range(0, len(paths), 1 << 20):
        digest.update("\n".join(paths[start : start + (1 << 20)]).encode())
        digest.update(b"\n")
    return Path(cache_dir) / "images" / digest.hexdigest()


def _check_complete(folder: Path, num_images: int, picture: tuple[int, int, int]) -> None:
    if not (folder / COMPLETE).is_file():
        raise CacheError(f"there is no finished image cache in {str(folder)!r}. Remedy: call prepare_data() first.")
    expected = _marker(num_images, picture)
    found = json.loads((folder / COMPLETE).read_text())
    sizes = ((folder / IMAGES).stat().st_size, (folder / ROWS).stat().st_size)
    if found != expected or sizes != (num_images * prod(picture), num_images * ROW.itemsize):
        raise CacheError(f"the image cache {str(folder)!r} is damaged: {found}, sizes {sizes}. Remedy: delete it.")


def _open_building(folder: Path, num_images: int, picture: tuple[int, int, int]) -> Path:
    """The folder of an unfinished cache, made all at once, or found as another process or an earlier one left it."""
    building = folder.with_name(f"{folder.name}.building")
    if building.is_dir():
        return building
    folder.parent.mkdir(parents=True, exist_ok=True)
    num_bytes = num_images * prod(picture)
    _check_space(folder, num_bytes)
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
    states = np.fromfile(building / ROWS, dtype=ROW)["state"]
    pending = np.flatnonzero(states == PENDING).tolist()
    done = len(paths) - len(pending)
    _check_space(building, len(pending) * prod(picture), held=_held(building / IMAGES, done * prod(picture)))
    if done:
        log.info("image cache: %d of %d images are there already", done, len(paths))
    tasks = ((row, paths[row]) for row in pending)
    store = partial(_store, source, str(building / IMAGES), picture)
    unsynced: list[tuple[int, int, bytes]] = []
    last = time.monotonic()
    with (
        open(building / IMAGES, "r+b") as images,
        open(building / ROWS, "r+b") as rows,
        open(building / REASONS, "a", encoding="utf-8") as reasons,
        _bar(len(paths), done, f"caching {source.name} at {picture[0]} px") as bar,
    ):
        reasons.write("\n")  # ends a line that was cut off when an earlier build was killed
        try:
            for row, digest, reason in _results(store, tasks, len(pending), num_workers, bar):
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


def _results(store, tasks: Iterator, num_tasks: int, num_workers: int, bar: tqdm) -> Iterator:
    num_workers = min(num_workers, num_tasks // LEAST_PER_WORKER)
    if num_workers <= 1:
        for task in tasks:
            result = store(task)
            bar.update()
            yield result
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads can hang
    try:
        with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_die_with_parent) as pool:
            for chunk in _bounded(pool, store, tasks, 4 * num_workers):
                for result in chunk:
                    bar.update()
                    yield result
    except BrokenProcessPool as error:
        raise CacheError(
            "a process that reads images died: out of memory, or the main script lacks `if __name__ == '__main__':`. "
            "What it made is kept. Remedy: run again with data.cache_workers=1."
        ) from error


def _bounded(pool: ProcessPoolExecutor, store, tasks: Iterator, ahead: int, size: int = 16) -> Iterator[list]:
    """Results of chunks of tasks in order, with no more than `ahead` chunks waiting, however many tasks there are."""
    waiting = []
    while chunk := [task for _, task in zip(range(size), tasks, strict=False)]:
        waiting.append(pool.submit(_store_all, store, chunk))
        if len(waiting) >= ahead:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def _store_all(store, tasks: list) -> list:
    return [store(task) for task in tasks]


def _store(
    source: Source, file_name: str, picture: tuple[int, int, int], task: tuple[int, str]
) -> tuple[int, bytes, str | None]:
    """Read one image and write its pixels to its place; (row, digest, None), or the reason why it was refused.

    Written with `write`, not through the map: a full disk then raises OSError where a map would kill the process.
    """
    row, path = task
    try:
        image = source.read(path, picture[0])
    except (ImageError, NotAFundusError) as error:
        return row, bytes(8), str(error)
    if image.shape != picture or image.dtype != np.uint8:
        found = f"{image.dtype} {list(image.shape)}"
        raise ValueError(f"{source.name} read {path!r} as {found}, not uint8 {list(picture)}.")
    pixels = np.ascontiguousarray(image).tobytes()
    with open(file_name, "r+b") as file:
        file.seek(row * len(pixels))
        file.write(pixels)
    return row, hashlib.blake2b(pixels, digest_size=8).digest(), None


def _die_with_parent() -> None:
    """End this worker when its parent is killed: a killed parent closes no pool."""
    import cv2

    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _finish(building: Path, folder: Path, num_images: int, picture: tuple[int, int, int]) -> None:
    with open(building / f"{COMPLETE}.{os.getpid()}", "w") as file:
        json.dump(_marker(num_images, picture), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, building / COMPLETE)
    os.rename(building, folder)


def _read_reasons(folder: Path) -> dict[int, str]:
    states = np.fromfile(folder / ROWS, dtype=ROW)["state"]
    reasons: dict[int, str] = {}
    for line in (folder / REASONS).read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # the last line of a build that was killed; its row was made again
            continue
        reasons[entry["row"]] = entry["reason"]
    return {row: reasons[row] for row in np.flatnonzero(states == REJECTED).tolist()}


def _held(path: Path, done_bytes: int) -> int:
    """Bytes on the disk that an unfinished cache holds for rows which are still to be made."""
    blocks = getattr(path.stat(), "st_blocks", 0) * 512
    return max(0, blocks - done_bytes)


def _check_space(folder: Path, num_bytes: int, held: int = 0) -> None:
    free = shutil.disk_usage(folder.parent).free
    if num_bytes - held > free:
        raise _space_error(folder, num_bytes, free)


def _disk_error(error: OSError, folder: Path, num_bytes: int) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return _space_error(folder, num_bytes, shutil.disk_usage(folder.parent).free)
    return error


def _space_error(folder: Path, num_bytes: int, free: int) -> CacheError:
    return CacheError(
        f"the disk of the image cache is full: {str(folder.parent)!r} needs {num_bytes:,} bytes and {free:,} are free. "
        "Remedy: delete caches that are no longer used there (each folder can be made again), choose another "
        "folder with cache_dir=…, or a smaller data.image_size. What was made so far is kept."
    )
