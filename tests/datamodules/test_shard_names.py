"""What the names of shards tell: their split, and whether all of them are there."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refusals import refuses

from datamodules.shard_files import ShardError, find_shards, split_of_name
from datamodules.shards import ShardSource

HASHES = ("0123456789abcdef", "fedcba9876543210", "00ff00ff00ff00ff")


def save(folder, *names, **columns):
    """Files of two rows each, whose ids begin with the file's name, in `<folder>/data`; gives the folder."""
    (folder / "data").mkdir(parents=True)
    for name in names:
        image = pa.array([{"bytes": b"x", "path": "x.png"}] * 2, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
        table = pa.table({"image": image, "id": [f"{name.partition('.')[0]}-{row}" for row in range(2)], **columns})
        (folder / "data" / name).parent.mkdir(exist_ok=True)
        pq.write_table(table, folder / "data" / name)
    return folder


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("train-00000-of-00002-0123456789abcdef.parquet", "train"),
        ("test.parquet", "test"),
        ("Test.PARQUET", "test"),
        ("train-2.parquet", "train"),
        ("train2.parquet", "train"),
        ("fundus_validation-00000-of-00001.parquet", "val"),
        ("dev.parquet", "val"),
        ("eyes-eval.parquet", "test"),
        ("0000_testing.parquet", "test"),
        ("shard-00000-of-00008.parquet", ""),
        ("contest.parquet", ""),
        ("trained.parquet", ""),
    ],
)
def test_a_name_tells_the_split(tmp_path, name, split):
    assert split_of_name(tmp_path / name, tmp_path) == split


def test_a_name_of_two_splits_is_refused_and_a_column_tells_them_apart(tmp_path):
    with refuses(ShardError, "train-and-test.parquet", "test and train", "'split'"):
        ShardSource(save(tmp_path / "a", "train-and-test.parquet")).index()
    root = save(tmp_path / "b", "train-and-test.parquet", split=["train", "test"])
    assert ShardSource(root).index().splits == ["train", "test"]


def test_rows_of_a_test_file_are_tests(tmp_path):
    """As Hugging Face's push_to_hub named files in 2022 and 2023, and as people name them."""
    names = [f"train-0000{n}-of-00002-{HASHES[n]}.parquet" for n in range(2)]
    for test in (f"test-00000-of-00001-{HASHES[2]}.parquet", "test.parquet"):
        index = ShardSource(save(tmp_path / test, *names, test)).index()
        told = dict(zip(index.ids, index.splits, strict=True))
        assert len(told) == 6 and all((name.startswith("test")) == (split == "test") for name, split in told.items())
    blank = ShardSource(save(tmp_path / "blank", "test.parquet", split=["", None])).index()
    assert blank.splits == ["test", "test"]


def test_a_shard_is_missed_whatever_follows_its_number(tmp_path):
    names = [f"train-0000{n}-of-00003-{HASHES[n]}.parquet" for n in range(2)]
    with refuses(ShardError, "1 of 3", "train-00002-of-00003", "data.partial=true"):
        find_shards(save(tmp_path, *names))
    assert len(find_shards(tmp_path, partial=True)) == 2
    assert len(find_shards(save(tmp_path / "from_one", "x-1-of-2.parquet", "x-2-of-2.parquet"))) == 2
    with refuses(ShardError, "999999999 of 1000000000", "x-00001-of-1000000000"):
        find_shards(save(tmp_path / "many", "x-0-of-1000000000.parquet"))


def test_one_shard_of_two_versions_is_refused(tmp_path):
    names = [f"train-00000-of-00001-{digits}.parquet" for digits in HASHES[:2]]
    with refuses(ShardError, *names):
        find_shards(save(tmp_path, *names))


def test_files_that_tell_no_split_beside_others_are_named(tmp_path, caplog):
    ShardSource(save(tmp_path, "train.parquet", "holdout.parquet")).index()
    assert "1 of 2 files tell no split by their names (holdout.parquet)" in caplog.text


@pytest.mark.parametrize("name", ["testset", "trainset", "tests", "TrainSplit", "myTestSet", "xval", "validate"])
def test_a_name_that_nearly_tells_a_split_is_named_though_none_tells_one(tmp_path, caplog, name):
    ShardSource(save(tmp_path, f"{name}-00000-of-00001.parquet")).index()
    assert f"1 of 1 files tell no split by their names ({name}-00000" in caplog.text


@pytest.mark.parametrize("name", ["shard", "contest", "interval", "strain"])
def test_a_name_that_tells_nothing_is_not_warned_of(tmp_path, caplog, name):
    ShardSource(save(tmp_path, f"{name}.parquet")).index()
    assert "tell no split" not in caplog.text


def test_parquet_files_that_are_left_out_are_counted_by_folder(tmp_path, caplog):
    names = ["train/0.parquet", "eval/0.parquet", "test_set/0.parquet", "test_set/1.PARQUET", "holdout/0.parquet"]
    root = save(tmp_path / "set", *names)
    (root / "test").mkdir()
    for name in ("test/0.parquet", "annotations/0.parquet", ".cache/0.parquet", "plan.parquet", "trained_on.parquet"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"")
    assert [file.parent.name for file in find_shards(root)] == ["eval", "train"]
    assert "left out 4 Parquet files: 2 in 'data/test_set', 1 in " in caplog.text and "'data/holdout'" in caplog.text
    assert "1 in 'test'" in caplog.text and "data.root is the folder of the shards" in caplog.text
    caplog.clear()
    assert len(find_shards(save(tmp_path / "plain", "train.parquet"))) == 1 and caplog.text == ""


def test_columns_that_are_not_read_may_be_of_any_type(tmp_path):
    others = {"boxes": [[1, 2], []], "meta": [{"a": 1}, {"a": 2}], "raw": [b"\xff", b"\xfe"]}
    others["map"] = pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int8()))
    assert len(ShardSource(save(tmp_path, "train.parquet", **others)).index()) == 2


def test_shards_whose_ids_tell_eyes_but_not_people_say_so(tmp_path, caplog):
    ShardSource(save(tmp_path / "told", "train.parquet", patient=["p", "p"])).index()
    assert "one person" not in caplog.text
    root = save(tmp_path / "untold", "P1_OD.parquet", "P1_OS.parquet")
    ShardSource(root).index()
    assert "'P1_OD-0' and 'P1_OD-1' may show the eyes of one person" in caplog.text


def test_folders_tell_the_split(tmp_path):
    """As the Hub converts a dataset to Parquet; the folder that the user names tells nothing."""
    names = ["train/0000.parquet", "train/0001.parquet", "Validation/0000.parquet", "test/0000.parquet"]
    root = save(tmp_path / "test", *names)
    index = ShardSource(root).index()
    assert index.splits == ["val"] * 2 + ["test"] * 2 + ["train"] * 4
    assert index.paths[0] == "data/Validation/0000.parquet#0"
    assert ShardSource(root / "data" / "test").index().splits == ["", ""]
    with refuses(ShardError, "train/test-0.parquet", "test and train", "'split'"):
        ShardSource(save(tmp_path / "two", "train/test-0.parquet")).index()


def test_shards_of_one_name_in_two_folders_are_two_sets(tmp_path):
    names = [f"{split}/shard-0000{n}-of-00002.parquet" for split in ("test", "train") for n in range(2)]
    assert ShardSource(save(tmp_path / "whole", *names)).index().splits == ["test"] * 4 + ["train"] * 4
    with refuses(ShardError, tmp_path / "part/data/test", "1 of 2", "shard-00000-of-00002.parquet"):
        find_shards(save(tmp_path / "part", *names[1:]))
