"""A source of numbered images, and what a cache of it must hold."""

import sys
from pathlib import Path

import numpy as np
import pytest

from datamodules.cache import ImageCache

REPO = Path(__file__).parents[2]

# A source that draws its image from the path's number, refuses every seventh, and notes each read in a file.
SOURCE = """
import time
import numpy as np
from datamodules.images import ImageError

class Numbered:
    name = "numbered"

    def __init__(self, reads, identity="1", seconds=0.0):
        self.reads, self.id, self.seconds = reads, identity, seconds

    def index(self):
        raise NotImplementedError

    def identity(self):
        return self.id

    def read(self, path, image_size):
        with open(self.reads, "a") as file:
            file.write(path + "\\n")
        time.sleep(self.seconds)
        if int(path) % 7 == 3:
            raise ImageError(f"number {path} is refused")
        return np.random.default_rng(int(path)).integers(0, 256, (image_size, image_size, 3), dtype=np.uint8)
"""


SCRIPT = """
import sys
from datamodules import cache, cache_workers
from datamodules.cache import ImageCache
from numbered_source import Numbered

cache.SYNC_SECONDS = 0.05
cache_workers.LEAST_PER_WORKER = 4
if __name__ == "__main__":
    folder, workers = sys.argv[1], int(sys.argv[2])
    ImageCache.build(Numbered(folder + "/reads.txt", seconds=0.02), [str(i) for i in range(200)], 8, folder, workers)
"""


@pytest.fixture
def numbered(tmp_path, monkeypatch):
    (tmp_path / "numbered_source.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "numbered_source", raising=False)
    import numbered_source

    return lambda **options: numbered_source.Numbered(str(tmp_path / "reads.txt"), **options)


def reads(tmp_path) -> list[str]:
    path = tmp_path / "reads.txt"
    return path.read_text().split() if path.exists() else []


def paths(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def check(cache: ImageCache, n: int, size: int = 8) -> None:
    assert cache.images.shape == (n, size, size, 3) and cache.images.dtype == np.uint8
    for i in range(n):
        if i % 7 == 3:
            assert cache.rejected[i] == f"number {i} is refused"
            assert cache.images[i].max() == 0
        else:
            expected = np.random.default_rng(i).integers(0, 256, (size, size, 3), dtype=np.uint8)
            assert (cache.images[i] == expected).all()
    assert len(cache.rejected) == sum(i % 7 == 3 for i in range(n))
