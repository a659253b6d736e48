"""Shards: whole or not there, each with its checksum, readable by what the field reads them with."""

import errno
import hashlib
import io
import json
import re
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from refusals import refuses

import callbacks.shard_writer as module
from callbacks.shard_writer import ImageEncoder, ShardWriter

FINDINGS = ["dr_grade", "is_gc"]
SIDE = 8


def batch(first: int, num: int, shard: int, is_last: bool) -> dict:
    index = torch.arange(first, first + num)
    return {"index": index, "labels": torch.stack([index % 5, index % 2], 1), "shard": shard, "is_last": is_last}


def outputs(of: dict, accepted: bool = False) -> dict:
    num = len(of["index"])
    images = (torch.arange(num * 3 * SIDE * SIDE) * 7 + of["index"][0]).reshape(num, 3, SIDE, SIDE) % 256
    found = {"image": images.to(torch.uint8), "seed": of["index"] + 100, "attempts": torch.ones(num, dtype=torch.int64)}
    return found | ({"accepted": of["index"] % 3 == 0} if accepted else {})


def writer(root, **settings) -> ShardWriter:
    names = [f"shard-{number:05d}-of-00002" for number in range(2)]
    places = [(root / "data" / f"{name}.parquet", root / "checksums" / f"{name}.json") for name in names]
    made = ShardWriter(root, places, FINDINGS, settings.pop("encoder", ImageEncoder()), "abcd-", **settings)
    made.on_predict_start(None, None)
    return made


def feed(made: ShardWriter, batches, accepted: bool = False) -> None:
    for one in batches:
        made.on_predict_batch_end(None, None, outputs(one, accepted), one, 0)


def write(made: ShardWriter, batches, accepted: bool = False) -> None:
    """The same, to the end."""
    feed(made, batches, accepted)
    made.on_predict_end(None, None)


WHOLE = [batch(0, 4, 0, False), batch(4, 4, 0, False), batch(8, 3, 0, True)]


def test_a_shard_appears_with_its_last_batch_and_not_before(tmp_path):
    made = writer(tmp_path, rows_per_group=5)
    feed(made, WHOLE[:2])
    assert not list(tmp_path.glob("data/*.parquet")) and not list(tmp_path.glob("checksums/*"))
    [partial] = (tmp_path / "data").iterdir()
    assert partial.name.startswith(".shard-00000-of-00002.") and partial.suffix == ".part"
    feed(made, WHOLE[2:])
    made.on_predict_end(None, None)
    [path] = (tmp_path / "data").iterdir()
    assert path.name == "shard-00000-of-00002.parquet"
    written = json.loads((tmp_path / "checksums" / "shard-00000-of-00002.json").read_text())
    content = path.read_bytes()
    assert written == {"file": f"data/{path.name}", "sha256": hashlib.sha256(content).hexdigest(), "num_rows": 11,
                       "num_bytes": len(content)}  # fmt: skip
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [5, 5, 1]
    rows = file.read().to_pylist()
    assert [row["id"] for row in rows] == [f"abcd-{number:08d}" for number in range(11)]
    assert [row["seed"] for row in rows] == list(range(100, 111))
    assert [(row["dr_grade"], row["is_gc"]) for row in rows] == [(n % 5, n % 2) for n in range(11)]
    assert "accepted" not in rows[0] and rows[0]["attempts"] == 1
    pixels = torch.cat([outputs(one)["image"] for one in WHOLE]).permute(0, 2, 3, 1).numpy()
    for row, wanted in zip(rows, pixels, strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))), wanted)


def test_the_same_batches_give_the_same_bytes_and_row_groups_do_not_depend_on_batches(tmp_path):
    for name, batches in (("a", WHOLE), ("b", WHOLE)):
        write(writer(tmp_path / name, rows_per_group=5), batches)
    first, second = ((tmp_path / name / "data/shard-00000-of-00002.parquet").read_bytes() for name in "ab")
    assert first == second


def test_what_a_filter_says_is_written(tmp_path):
    made = writer(tmp_path)
    write(made, WHOLE, accepted=True)
    rows = pq.read_table(tmp_path / "data/shard-00000-of-00002.parquet").to_pylist()
    assert [row["accepted"] for row in rows] == [number % 3 == 0 for number in range(11)]


def test_an_interruption_leaves_nothing_half_made(tmp_path):
    made = writer(tmp_path)
    feed(made, WHOLE[:2])
    made.on_exception(None, None, KeyboardInterrupt())
    assert not list((tmp_path / "data").iterdir())
    write(writer(tmp_path), WHOLE)
    assert pq.read_metadata(tmp_path / "data/shard-00000-of-00002.parquet").num_rows == 11


def test_a_full_disk_says_what_is_wanted_and_leaves_what_is_written(tmp_path, monkeypatch):
    write(writer(tmp_path), WHOLE)
    made = writer(tmp_path)

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(module.os, "fsync", full)
    with refuses(OSError, "no space", "shard-00001-of-00002.parquet", "1 of 2") as info:
        write(made, [batch(11, 2, 1, True)])
    assert info.value.errno == errno.ENOSPC and "GB are free" in str(info.value)
    assert re.search(r"they take about \S+e-0[56] GB", str(info.value)), "as what an earlier run has written"
    made.on_exception(None, None, info.value)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["shard-00000-of-00002.parquet"]
    monkeypatch.undo()
    write(writer(tmp_path), [batch(11, 2, 1, True)])
    assert len(list((tmp_path / "data").iterdir())) == 2


def test_a_batch_is_encoded_while_the_next_one_is_made(tmp_path):
    free = threading.Event()

    class Slow(ImageEncoder):
        def __call__(self, image):
            assert free.wait(20)
            return super().__call__(image)

    made = writer(tmp_path, encoder=Slow())
    feed(made, WHOLE[:1])  # or this would wait for ever
    free.set()
    write(made, WHOLE[1:])
    assert made.num_images == pq.read_metadata(tmp_path / "data/shard-00000-of-00002.parquet").num_rows == 11


@pytest.mark.parametrize(("format", "quality", "ending", "lossless"),
                         [("png", None, "png", True), ("webp", None, "webp", True), ("webp", 80, "webp", False),
                          ("jpeg", None, "jpg", False), ("jpeg", 60, "jpg", False)])  # fmt: skip
def test_formats(format, quality, ending, lossless):
    encoder = ImageEncoder(format, quality)
    image = np.asarray(Image.linear_gradient("L").resize((64, 64)).convert("RGB")).copy()
    image[20:30, 20:30] = (255, 0, 0)
    back = Image.open(io.BytesIO(encoder(image)))
    assert encoder.ending == ending and back.format.lower() == format
    assert np.array_equal(np.asarray(back.convert("RGB")), image) == lossless
    assert np.abs(np.asarray(back.convert("RGB")).astype(int) - image).mean() < 3


@pytest.mark.parametrize(("format", "quality", "facts"), [("png", 90, ("quality=90", "format=png")),
                                                          ("jpeg", 0, ("quality=0", "1..100")),
                                                          ("gif", None, ("'gif'", "png, jpeg, webp"))])  # fmt: skip
def test_formats_that_there_are_not(format, quality, facts):
    with refuses(ValueError, *facts):
        ImageEncoder(format, quality)
