"""The image cache: built once, resumed after a kill, never served partial or for something else."""

import errno
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
from numbered import REPO, SCRIPT, check, paths, reads
from refusals import refuses

from datamodules import cache as cache_module
from datamodules import cache_workers
from datamodules.cache import CacheError, ImageCache, cache_folder
from datamodules.field_of_view import NotAFundusError
from datamodules.images import ImageError


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
    with refuses(ValueError, "read-only"):
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
    monkeypatch.setattr(cache_workers, "LEAST_PER_WORKER", 4)
    many = ImageCache.build(numbered(), paths(40), 8, tmp_path / "b", num_workers=2)
    check(many, 40)
    for name in (cache_module.IMAGES, cache_module.ROWS, cache_module.COMPLETE, cache_module.REASONS):
        assert (alone.folder / name).read_bytes() == (many.folder / name).read_bytes()


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
    with refuses(CacheError, tmp_path / "images", "finished", "prepare_data()"):
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
    with refuses(ValueError, "numbered", "'0'", "[4, 4, 3]", "[8, 8, 3]"):
        ImageCache.build(source, paths(3), 8, tmp_path)


def test_a_file_that_is_away_is_no_rejection(tmp_path, numbered):
    source = numbered()
    plain_read = source.read

    def read(path, image_size):
        if path == "5":
            raise TimeoutError(errno.ETIMEDOUT, "the share is away", path)
        return plain_read(path, image_size)

    source.read = read
    with refuses(TimeoutError, "the share is away", "'5'"):
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
    with refuses(OSError, "the disk is ill"):
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
    with refuses(CacheError, tmp_path / "images", "3,840", "3,000", "cache_dir="):
        ImageCache.build(numbered(), paths(20), 8, tmp_path)
    assert reads(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_that_fills_up_on_the_way_is_said(tmp_path, numbered, monkeypatch):
    real = cache_workers.open_own

    def full(path, mode):
        return open("/dev/full", mode) if str(path).endswith(cache_module.IMAGES) else real(path, mode)

    monkeypatch.setattr(cache_workers, "open_own", full)
    monkeypatch.setattr(cache_module.os, "fsync", lambda number: None)
    with refuses(CacheError, tmp_path / "images", "3,840", "cache_dir=") as caught:
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
