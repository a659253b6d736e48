"""The images of a cache read and written to their places, one after the other or by several processes."""

import hashlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from math import prod

import numpy as np
from tqdm import tqdm

from datamodules.cache_files import CacheError
from datamodules.errors import UserError
from datamodules.field_of_view import NotAFundusError
from datamodules.files import open_own
from datamodules.images import ImageError
from datamodules.sources.base import Source

LEAST_PER_WORKER = 500  # rows for which it pays to start a process (which imports the program anew)

Task = tuple[int, str]  # row and path
Result = tuple[int, bytes, str | None]  # row, digest of its pixels, why it was refused
Store = Callable[[Task], Result]


def results(store: Store, tasks: Iterator[Task], num_tasks: int, num_workers: int, bar: tqdm) -> Iterator[Result]:
    """What `store` returns for each task, in order, by `num_workers` processes where so many pay; `bar` counts them.

    Raises:
        CacheError: a process died.
    """
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


def _bounded(
    pool: ProcessPoolExecutor, store: Store, tasks: Iterator[Task], ahead: int, size: int = 16
) -> Iterator[list[Result]]:
    """Results of chunks of tasks in order, with no more than `ahead` chunks waiting, however many tasks there are."""
    waiting = []
    while chunk := [task for _, task in zip(range(size), tasks, strict=False)]:
        waiting.append(pool.submit(_store_all, store, chunk))
        if len(waiting) >= ahead:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def _store_all(store: Store, tasks: list[Task]) -> list[Result]:
    return [store(task) for task in tasks]


def store_image(source: Source, file_name: str, picture: tuple[int, int, int], task: Task) -> Result:
    """Read one image and write its pixels to its place; (row, digest, None), or the reason why it was refused.

    Written with `write`, not through the map: a full disk then raises OSError where a map would kill the process. For
    the same reason no row is left out of the file, where there would be a hole: a disk in memory finds room for one
    when it is read.
    """
    row, path = task
    try:
        image = source.read(path, picture[0])
    except (ImageError, NotAFundusError) as error:
        _write_row(file_name, row, bytes(prod(picture)))
        return row, bytes(8), str(error)
    except MemoryError as error:
        raise CacheError(
            f"there is no memory to read {path!r} of {source.name} ({error}). Remedy: free some, or read fewer at "
            "once: data.cache_workers=1; then the same command. What was made so far is kept."
        ) from error
    if image.shape != picture or image.dtype != np.uint8:
        found = f"{image.dtype} {list(image.shape)}"
        raise UserError(f"{source.name} read {path!r} as {found}, not uint8 {list(picture)}.")
    pixels = np.ascontiguousarray(image).tobytes()
    _write_row(file_name, row, pixels)
    return row, hashlib.blake2b(pixels, digest_size=8).digest(), None


def _write_row(file_name: str, row: int, pixels: bytes) -> None:
    with open_own(file_name, "r+b") as file:
        file.seek(row * len(pixels))
        file.write(pixels)


def _die_with_parent() -> None:
    """End this worker when its parent is killed: a killed parent closes no pool."""
    import cv2

    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
