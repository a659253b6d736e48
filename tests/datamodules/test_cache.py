"""The image cache: built once, resumed after a kill, never served partial or for something else."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from datamodules import cache as cache_module
from datamodules.cache import CacheError, ImageCache, cache_folder
from datamodules.images import ImageError, NotAFundusError

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


def test_a_refused_row_leaves_no_hole_in_the_file(numbered, tmp_path):
    """To read a hole through the map takes room on a disk in memory: where there is none the process is killed."""
    folder = ImageCache.build(numbered(), paths(5), 64, tmp_path).folder
    with open(folder / "images.uint8", "rb") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 5 * 64 * 64 * 3


def test_built_once_and_then_opened(tmp_path, numbered, capfd):
    check(ImageCache.build(numbered(), paths(20), 8, tmp_path), 20)
    assert "20/20" in capfd.readouterr().err
    check(ImageCache.build(numbered(), paths(20), 8, tmp_path), 20)
    cache = ImageCache.open(numbered(), paths(20), 8, tmp_path)
    check(cache, 20)
    assert reads(tmp_path) == paths(20)
    assert [entry.name for entry in (tmp_path / "images").iterdir()] == [cache.folder.name]
    with pytest.raises(ValueError, match="read-only|WRITEABLE"):
        cache.images[0] = 1


def test_the_folder_depends_on_all_that_the_pixels_depend_on(tmp_path, numbered):
    plain = cache_folder(numbered(), paths(5), 8, tmp_path)
    other = numbered()
    other.name = "other"
    variants = [(numbered(identity="2"), paths(5), 8), (other, paths(5), 8), (numbered(), paths(6), 8)]
    variants += [(numbered(), paths(5), 9), (numbered(), paths(5)[::-1], 8)]
    folders = {cache_folder(*variant, tmp_path) for variant in variants} | {plain}
    assert len(folders) == 6
    assert cache_folder(numbered(), paths(5), 8, tmp_path) == plain


def test_workers_make_the_same_cache(tmp_path, numbered, monkeypatch):
    alone = ImageCache.build(numbered(), paths(40), 8, tmp_path / "a")
    monkeypatch.setattr(cache_module, "LEAST_PER_WORKER", 4)
    many = ImageCache.build(numbered(), paths(40), 8, tmp_path / "b", num_workers=2)
    check(many, 40)
    for name in (cache_module.IMAGES, cache_module.ROWS, cache_module.COMPLETE, cache_module.REASONS):
        assert (alone.folder / name).read_bytes() == (many.folder / name).read_bytes()


SCRIPT = """
import sys
from datamodules import cache
from datamodules.cache import ImageCache
from numbered_source import Numbered

cache.SYNC_SECONDS = 0.05
cache.LEAST_PER_WORKER = 4
if __name__ == "__main__":
    folder, workers = sys.argv[1], int(sys.argv[2])
    ImageCache.build(Numbered(folder + "/reads.txt", seconds=0.02), [str(i) for i in range(200)], 8, folder, workers)
"""


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_killed_build_goes_on_where_it_stopped(tmp_path, numbered, num_workers):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{tmp_path}"}
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path), str(num_workers)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(reads(tmp_path)) < 60 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    before = len(reads(tmp_path))
    assert 60 <= before < 200
    with pytest.raises(CacheError, match="no finished image cache.*prepare_data"):
        ImageCache.open(numbered(), paths(200), 8, tmp_path)
    time.sleep(0.3)
    assert len(reads(tmp_path)) == before, "a worker outlived its killed parent"
    check(ImageCache.build(numbered(), paths(200), 8, tmp_path), 200)
    again = len(reads(tmp_path)) - before
    assert 200 - before <= again < 200 - before + (50 if num_workers == 0 else 180)
    if num_workers == 0:
        assert again < 180, "nothing that was made before the kill was kept"


def test_an_interrupted_build_keeps_what_it_made(tmp_path, numbered, monkeypatch):
    source = numbered()
    plain_read = source.read

    def read(path, image_size):
        if path == "12":
            raise KeyboardInterrupt
        return plain_read(path, image_size)

    source.read = read
    with pytest.raises(KeyboardInterrupt):
        ImageCache.build(source, paths(20), 8, tmp_path)
    assert reads(tmp_path) == paths(12)
    check(ImageCache.build(numbered(), paths(20), 8, tmp_path), 20)
    assert reads(tmp_path) == paths(20), "rejected rows, too, are remembered"


def test_an_error_of_the_program_is_no_rejection(tmp_path, numbered):
    source = numbered()
    source.read = lambda path, image_size: np.zeros((4, 4, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"numbered read '0' as uint8 \[4, 4, 3\]"):
        ImageCache.build(source, paths(3), 8, tmp_path)


def test_a_file_that_is_away_is_no_rejection(tmp_path, numbered):
    source = numbered()
    plain_read = source.read

    def read(path, image_size):
        if path == "5":
            raise TimeoutError(errno.ETIMEDOUT, "the share is away", path)
        return plain_read(path, image_size)

    source.read = read
    with pytest.raises(TimeoutError, match="the share is away"):
        ImageCache.build(source, paths(20), 8, tmp_path)
    check(ImageCache.build(numbered(), paths(20), 8, tmp_path), 20)
    assert reads(tmp_path) == paths(20), "what was made before is kept"


def test_what_was_not_written_is_made_again(tmp_path, numbered, monkeypatch):
    """The first flush fails, and the next would succeed, as Linux forgets the pages that it could not write."""
    fsync, fail = os.fsync, [OSError(errno.EIO, "the disk is ill")]

    def once(number):
        if fail:
            raise fail.pop()
        fsync(number)

    monkeypatch.setattr(cache_module.os, "fsync", once)
    monkeypatch.setattr(cache_module, "SYNC_SECONDS", 0)
    with pytest.raises(OSError, match="the disk is ill"):
        ImageCache.build(numbered(), paths(20), 8, tmp_path)
    assert reads(tmp_path) == ["0"]
    check(ImageCache.build(numbered(), paths(20), 8, tmp_path), 20)
    assert reads(tmp_path) == ["0", *paths(20)]


def test_a_reason_that_was_cut_off_by_a_kill_takes_no_other_with_it(tmp_path, numbered):
    source = numbered()
    source.read = lambda path, image_size: 1 / 0
    with pytest.raises(ZeroDivisionError):
        ImageCache.build(source, paths(20), 8, tmp_path)
    [building] = (tmp_path / "images").iterdir()
    with open(building / cache_module.REASONS, "a") as file:
        file.write('{"row": 3, "reas')
    check(ImageCache.build(numbered(), paths(20), 8, tmp_path), 20)


@pytest.mark.parametrize("error", [ImageError("cut off"), NotAFundusError("a cat")])
def test_reasons_are_kept_whatever_their_letters(tmp_path, numbered, error):
    source = numbered()

    def read(path, image_size):
        raise type(error)(f"{error} — „ü“\n2")

    source.read = read
    ImageCache.build(source, paths(2), 8, tmp_path)
    assert ImageCache.open(source, paths(2), 8, tmp_path).rejected == dict.fromkeys((0, 1), f"{error} — „ü“\n2")


Usage = namedtuple("Usage", "total used free")


def test_too_little_space_is_said_before_anything_is_read(tmp_path, numbered, monkeypatch):
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 3000))
    with pytest.raises(CacheError, match="needs 3,840 bytes and 3,000 are free.*delete.*with cache_dir=") as caught:
        ImageCache.build(numbered(), paths(20), 8, tmp_path)
    assert str(tmp_path / "images") in str(caught.value)
    assert reads(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_that_fills_up_on_the_way_is_said(tmp_path, numbered, monkeypatch):
    real = cache_module.open_own

    def full(path, mode):
        return open("/dev/full", mode) if str(path).endswith(cache_module.IMAGES) else real(path, mode)

    monkeypatch.setattr(cache_module, "open_own", full)
    monkeypatch.setattr(cache_module.os, "fsync", lambda number: None)
    with pytest.raises(CacheError, match="the disk of the image cache is full.*needs 3,840 bytes") as caught:
        ImageCache.build(numbered(), paths(20), 8, tmp_path)
    assert caught.value.__cause__.errno == errno.ENOSPC
    monkeypatch.undo()
    check(ImageCache.build(numbered(), paths(20), 8, tmp_path), 20)


def test_a_folder_that_somebody_began_to_delete_is_made_again(tmp_path, numbered):
    cache = ImageCache.build(numbered(), paths(5), 8, tmp_path)
    (cache.folder / "complete.json").unlink()
    again = ImageCache.build(numbered(), paths(5), 8, tmp_path)
    assert np.array_equal(again.images, cache.images)


def test_a_cache_has_the_rights_that_the_umask_gives(tmp_path, numbered):
    before = os.umask(0o022)
    try:
        folder = ImageCache.build(numbered(), paths(5), 8, tmp_path).folder
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_damaged_cache_is_refused(tmp_path, numbered):
    folder = ImageCache.build(numbered(), paths(5), 8, tmp_path).folder
    pixels = (folder / cache_module.IMAGES).read_bytes()
    (folder / cache_module.IMAGES).write_bytes(pixels[:-1])
    with pytest.raises(CacheError, match="is damaged.*delete"):
        ImageCache.open(numbered(), paths(5), 8, tmp_path)
    (folder / cache_module.IMAGES).write_bytes(pixels)
    marker = json.loads((folder / cache_module.COMPLETE).read_text())
    (folder / cache_module.COMPLETE).write_text(json.dumps({**marker, "format": 0}))
    with pytest.raises(CacheError, match="is damaged"):
        ImageCache.build(numbered(), paths(5), 8, tmp_path)


@pytest.mark.parametrize("error", [OSError(errno.ENOTCONN, "the share is away"), MemoryError("12 MiB")])
def test_no_error_of_the_machine_is_kept(tmp_path, numbered, error):
    source = numbered()
    plain_read = source.read

    def read(path, image_size):
        if path == "5":
            raise error
        return plain_read(path, image_size)

    source.read = read
    with pytest.raises((OSError, CacheError), match="the share is away|no memory to read '5'.*cache_workers=1"):
        ImageCache.build(source, paths(20), 8, tmp_path)
    check(ImageCache.build(numbered(), paths(20), 8, tmp_path), 20)
    assert reads(tmp_path) == paths(20), "what was made before is kept"


PASSED = [
    "cannot be decoded: [Errno 107] Transport endpoint is not connected: '5'",
    "cannot be decoded: ",  # of a MemoryError that says nothing
    "cannot be decoded: Unable to allocate 12.0 MiB for an array",
    "cannot be decoded: out of memory",
]


@pytest.mark.parametrize("reason", PASSED)
def test_what_an_earlier_version_rejected_for_an_error_of_the_machine_is_read_again(tmp_path, numbered, caplog, reason):
    folder = ImageCache.build(numbered(), paths(20), 8, tmp_path).folder
    reject(folder, 5, json.dumps({"row": 5, "reason": reason}))
    (folder / "duplicates-v1.json").write_text("[]")
    check(ImageCache.build(numbered(), paths(20), 8, tmp_path), 20)
    assert reads(tmp_path) == [*paths(20), "5"]
    assert "1 of 20 images of numbered were rejected for an error of the machine" in caplog.text
    assert not (folder / "duplicates-v1.json").exists(), "it is of other pixels"
    assert [entry.name for entry in (tmp_path / "images").iterdir()] == [folder.name]
    check(ImageCache.build(numbered(), paths(20), 8, tmp_path), 20)
    assert reads(tmp_path) == [*paths(20), "5"]


def reject(folder, row, line):
    """Make a finished cache one that has rejected a row."""
    rows = np.fromfile(folder / cache_module.ROWS, dtype=cache_module.ROW)
    rows[row] = (cache_module.REJECTED, bytes(8))
    rows.tofile(folder / cache_module.ROWS)
    images = np.memmap(folder / cache_module.IMAGES, dtype=np.uint8, mode="r+", shape=(len(rows), 8, 8, 3))
    images[row] = 0
    with open(folder / cache_module.REASONS, "a") as file:
        file.write(line + "\n")


LINES = {"cut": '{"row": 5, "rea', "a list": "[5]", "another row": '{"row": 99, "reason": "x"}', "nested": "[" * 9999,
         "a number for a text": '{"row": 5, "reason": 7}', "no line": ""}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_a_rejected_row_whose_reason_cannot_be_read_is_read_again(tmp_path, numbered, name):
    folder = ImageCache.build(numbered(), paths(20), 8, tmp_path).folder
    reject(folder, 5, LINES[name])
    with pytest.raises(CacheError, match="lacks row 5.*prepare_data"):
        ImageCache.open(numbered(), paths(20), 8, tmp_path)
    check(ImageCache.build(numbered(), paths(20), 8, tmp_path), 20)


def test_reasons_that_are_lost_and_states_that_are_flipped_are_made_again(tmp_path, numbered):
    folder = ImageCache.build(numbered(), paths(20), 8, tmp_path).folder
    (folder / cache_module.REASONS).write_bytes(b"\xff\xfe\0")
    rows = np.fromfile(folder / cache_module.ROWS, dtype=cache_module.ROW)
    rows["state"][[2, 4]] = 77, 0
    rows.tofile(folder / cache_module.ROWS)
    check(ImageCache.build(numbered(), paths(20), 8, tmp_path), 20)
    assert sorted(map(int, reads(tmp_path)[20:])) == [2, 3, 4, 10, 17]


MARKERS = {"empty": b"", "cut": b'{"format": 1, "num', "a list": b"[]", "null": b"null", "not utf-8": b"\xff\xfe"}


@pytest.mark.parametrize("name", [*MARKERS, "images", "rows", "no images"])
def test_a_damaged_cache_names_the_folder_to_delete(tmp_path, numbered, name):
    folder = ImageCache.build(numbered(), paths(5), 8, tmp_path).folder
    if name in MARKERS:
        (folder / cache_module.COMPLETE).write_bytes(MARKERS[name])
    elif name == "no images":
        (folder / cache_module.IMAGES).unlink()
    else:
        (folder / {"images": cache_module.IMAGES, "rows": cache_module.ROWS}[name]).write_bytes(b"")
    for make in (ImageCache.build, ImageCache.open):
        with pytest.raises(CacheError, match="delete the folder") as caught:
            make(numbered(), paths(5), 8, tmp_path)
        assert str(folder) in str(caught.value)


@pytest.mark.parametrize("moment", ["1", "19"])
def test_another_process_may_finish_first(tmp_path, numbered, moment):
    source = numbered()
    plain_read = source.read

    def read(path, image_size):
        if path == moment:
            check(ImageCache.build(numbered(), paths(20), 8, tmp_path), 20)
        return plain_read(path, image_size)

    source.read = read
    check(ImageCache.build(source, paths(20), 8, tmp_path), 20)
    assert len(list((tmp_path / "images").iterdir())) == 1


@pytest.mark.parametrize("link", ["", "images.uint8", "rows.bin", "rejected.jsonl"])
def test_an_unfinished_cache_that_is_a_link_or_holds_one_is_not_written_through(tmp_path, numbered, link):
    source = numbered()
    folder = ImageCache.build(source, paths(20), 8, tmp_path).folder
    building = folder.rename(folder.with_name(f"{folder.name}.building"))
    (building / "rows.bin").write_bytes(bytes((building / "rows.bin").stat().st_size))
    mine = tmp_path / "mine"
    (building / link).rename(mine) if (building / link).exists() else mine.write_bytes(b"mine")
    (building / link).symlink_to(mine)
    before = {path: path.read_bytes() for path in [mine, *mine.glob("*")] if path.is_file()}
    with pytest.raises(ValueError, match=f"{link or '.building'} is a link to .*mine.*Remedy: delete the link"):
        ImageCache.build(source, paths(20), 8, tmp_path)
    assert before and {path: path.read_bytes() for path in before} == before


def test_a_link_in_the_place_of_the_unfinished_marker_is_not_written_through(tmp_path, numbered):
    source, mine = numbered(), tmp_path / "mine"
    folder = ImageCache.build(source, paths(20), 8, tmp_path).folder
    building = folder.rename(folder.with_name(f"{folder.name}.building"))
    (building / "rows.bin").write_bytes(bytes((building / "rows.bin").stat().st_size))
    mine.write_bytes(b"mine")
    (building / f".complete.{os.getpid()}.part.json").symlink_to(mine)
    check(ImageCache.build(source, paths(20), 8, tmp_path), 20)
    assert mine.read_bytes() == b"mine"


def test_a_finished_cache_may_be_a_link_and_is_not_made_again_through_it(tmp_path, numbered):
    source = numbered()
    folder = ImageCache.build(source, paths(20), 8, tmp_path).folder
    elsewhere = folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(elsewhere)
    check(ImageCache.build(source, paths(20), 8, tmp_path), 20)
    rows = elsewhere / "rows.bin"
    rows.write_bytes(bytes(rows.stat().st_size - 9) + b"\1" * 9)
    with pytest.raises(ValueError, match=f"{folder} is a link to .*elsewhere"):
        ImageCache.build(source, paths(20), 8, tmp_path)
    assert rows.read_bytes().endswith(b"\0" * 9 + b"\1" * 9)


def test_two_processes_at_once_make_one_cache(tmp_path, numbered):
    (tmp_path / "script.py").write_text(SCRIPT.replace("seconds=0.02", "seconds=0.002"))
    environment = {**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{tmp_path}"}
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path), "0"]
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    check(ImageCache.open(numbered(identity="1"), paths(200), 8, tmp_path), 200)
    assert [entry.name for entry in (tmp_path / "images").iterdir()] == [
        cache_folder(numbered(), paths(200), 8, tmp_path).name
    ]
