"""Shards that cannot be used: what is said of them names the file, the row and the remedy."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refusals import refuses
from shard_files import SECOND, broken, encode, replace, write

from datamodules.findings import NAMES
from datamodules.manifest import ManifestError
from datamodules.shard_files import ShardError
from datamodules.shards import ShardSource


@pytest.mark.parametrize("kept", [0, 3, 11, 0.5, 0.999])
def test_a_truncated_shard_is_named(tmp_path, shard_tables, kept):
    source = broken(tmp_path, shard_tables, lambda table: table)
    file = tmp_path / "data" / SECOND
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with refuses(ShardError, SECOND, "Parquet"):
        source.index()


@pytest.mark.parametrize("name", ["id", "image", "is_amd"])
def test_a_missing_column_is_named(tmp_path, shard_tables, name):
    source = broken(tmp_path, shard_tables, lambda table: table.drop_columns([name]))
    with refuses(ShardError, SECOND, f"'{name}'"):
        source.index()


CELLS = {
    "level": ("dr_grade", 7, ManifestError, ("row 3", "'dr_grade'", 7, "0 (none)")),
    "blank": ("id", "", ManifestError, ("row 3", "'id'", "''", "blank")),
}


@pytest.mark.parametrize("case", CELLS)
def test_a_cell_that_cannot_be_is_named(tmp_path, shard_tables, case):
    name, value, kind, facts = CELLS[case]
    with refuses(kind, SECOND, *facts):
        broken(tmp_path, shard_tables, lambda table: replace(table, name, value, 3)).index()


def test_an_id_of_another_shard_is_named(tmp_path, shard_tables):
    with refuses(ManifestError, "row 43", "'id'", "'00004'", "row 4."):
        broken(tmp_path, shard_tables, lambda table: replace(table, "id", "00004", 3)).index()


def test_unknown_labels_may_be_null_or_absent(open_shards, tmp_path, shard_tables):
    def change(table):
        table = replace(table, "is_amd", None, 3)
        return replace(table, "is_gc", -1, 3).set_column(3, "dr_grade", pa.nulls(table.num_rows))

    root = write(tmp_path, [change(table).drop_columns(["is_dme"]) for table in shard_tables[:2]], 9)
    data = open_shards(root, fractions={"train": 1.0}, batch_size=80)
    batch = next(iter(data.train_dataloader()))
    rows = dict(zip(batch["id"], batch["labels"].tolist(), strict=True))
    unknown = {name for name, level in zip(NAMES, rows["00003"], strict=True) if level < 0}
    assert unknown == {"is_amd", "is_gc", "is_dme", "dr_grade"}
    assert sum(row[NAMES.index("is_amd")] < 0 for row in rows.values()) == 2
    assert data.manifest.labels[3].tolist() == rows["00003"]


IMAGES = {
    "not embedded": (None, "bytes"),
    "damaged": (b"\x89PNG\r\n\x1a\n and then nothing", "PNG"),
    "not square": (encode(np.zeros((20, 30, 3), np.uint8)), "30 x 20"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_an_image_that_cannot_be_used_is_named(open_shards, tmp_path, shard_tables, case):
    pixels, fact = IMAGES[case]
    cell = {"bytes": pixels, "path": "x.png"}
    source = broken(tmp_path, shard_tables, lambda table: replace(table, "image", cell, 13))
    with refuses(ShardError, SECOND, "row 13", "'00053'", fact):
        source.read(source.index().paths[53], 16)
    with refuses(ShardError, SECOND, "row 13", "'00053'"):
        list(open_shards(tmp_path, num_reference=1, num_val=1, fractions={"train": 1.0}).train_dataloader())


def test_a_missing_shard_a_foreign_file_and_no_folder(tmp_path, shard_tables):
    source = broken(tmp_path, shard_tables, lambda table: table)
    (tmp_path / "data" / SECOND).rename(tmp_path / "elsewhere")
    with refuses(ShardError, SECOND, "1 of 2", "data.partial=true"):
        source.index()
    assert len(ShardSource(tmp_path, partial=True).index()) == 40
    pq.write_table(pa.table({"plan": [1, 2]}), tmp_path / "data" / "plan.parquet")
    with refuses(ShardError, "plan.parquet'", "'image'", ": plan"):
        ShardSource(tmp_path, partial=True).index()
    with refuses(FileNotFoundError, "data.root", tmp_path / "nowhere"):
        ShardSource(tmp_path / "nowhere").index()
    (tmp_path / "empty").mkdir()
    with refuses(FileNotFoundError, "data.root", tmp_path / "empty", "Parquet"):
        ShardSource(tmp_path / "empty").index()


def test_row_groups_that_are_too_large_say_what_to_set(open_shards):
    with refuses(ShardError, "9 images", "data.window_gb", 1e-05, "100 images"):
        open_shards(window_gb=1e-5)
