"""A cache that is damaged, unfinished, a link, or made by two processes at once; errors of the machine are not kept."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from numbered import REPO, SCRIPT, check, paths, reads
from refusals import refuses

from datamodules import cache as cache_module
from datamodules.cache import CacheError, ImageCache, cache_folder


def test_a_damaged_cache_is_refused(tmp_path, numbered):
    folder = ImageCache.build(numbered(), paths(5), 8, tmp_path).folder
    pixels = (folder / cache_module.IMAGES).read_bytes()
    (folder / cache_module.IMAGES).write_bytes(pixels[:-1])
    with refuses(CacheError, folder, cache_module.IMAGES, 959, 960):
        ImageCache.open(numbered(), paths(5), 8, tmp_path)
    (folder / cache_module.IMAGES).write_bytes(pixels)
    marker = json.loads((folder / cache_module.COMPLETE).read_text())
    (folder / cache_module.COMPLETE).write_text(json.dumps({**marker, "format": 0}))
    with refuses(CacheError, folder, cache_module.COMPLETE, "'format': 0", "'format': 1"):
        ImageCache.build(numbered(), paths(5), 8, tmp_path)


@pytest.mark.parametrize(
    ("error", "facts"),
    [
        (OSError(errno.ENOTCONN, "the share is away"), ("the share is away",)),
        (MemoryError("12 MiB"), ("'5'", "numbered", "data.cache_workers=1")),
    ],
)
def test_no_error_of_the_machine_is_kept(tmp_path, numbered, error, facts):
    source = numbered()
    plain_read = source.read

    def read(path, image_size):
        if path == "5":
            raise error
        return plain_read(path, image_size)

    source.read = read
    with refuses((OSError, CacheError), *facts):
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
    with refuses(CacheError, folder, "row 5", "prepare_data()"):
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
        with refuses(CacheError, repr(str(folder)), "delete", "anew"):
            make(numbered(), paths(5), 8, tmp_path)


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
    with refuses(ValueError, building / link, repr(str(mine))):
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
    with refuses(ValueError, folder, elsewhere):
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
