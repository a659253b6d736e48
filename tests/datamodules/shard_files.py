"""Shards of phantoms, as a generator writes them: what the tests of shards share."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from datamodules import phantom
from datamodules.findings import NAMES
from datamodules.shards import ShardSource
from datamodules.streaming import ShardDataModule

SIDE, NUM_PHANTOMS = 24, 12
HALF = {"train": 0.8, "val": 0.2}
SECOND = "shard-00001-of-00002.parquet"


def encode(image: np.ndarray, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, **options)
    return file.getvalue()


def table_of(numbers, pictures: list[bytes], labels: list[dict[str, int]]) -> pa.Table:
    """Rows as a generator writes them: image, id, seed and all findings."""
    numbers = list(numbers)
    image = [{"bytes": pictures[n % len(pictures)], "path": f"{n:05d}.png"} for n in numbers]
    columns = {"image": pa.array(image, pa.struct({"bytes": pa.binary(), "path": pa.string()}))}
    columns |= {"id": pa.array([f"{n:05d}" for n in numbers]), "seed": pa.array(numbers, pa.int64())}
    columns |= {name: pa.array([labels[n % len(labels)][name] for n in numbers], pa.int8()) for name in NAMES}
    return pa.table(columns)


def write(folder: Path, tables: list[pa.Table], group_rows: int) -> Path:
    """The tables as numbered shards in `<folder>/data`."""
    (folder / "data").mkdir(parents=True)
    for number, table in enumerate(tables):
        name = f"shard-{number:05d}-of-{len(tables):05d}.parquet"
        pq.write_table(table, folder / "data" / name, row_group_size=group_rows)
    return folder


def broken(tmp_path, tables, change) -> ShardSource:
    """Two shards, of which the second is changed."""
    root = write(tmp_path, [tables[0], change(tables[1])], 9)
    return ShardSource(root)


def replace(table: pa.Table, name: str, value, row: int) -> pa.Table:
    column = table.column(name).to_pylist()
    column[row] = value
    return table.set_column(table.column_names.index(name), name, pa.array(column, table.schema.field(name).type))


@pytest.fixture(scope="session")
def shard_phantoms() -> list[phantom.Phantom]:
    return [phantom.render(0, index, SIDE) for index in range(NUM_PHANTOMS)]


@pytest.fixture(scope="session")
def shard_tables(shard_phantoms) -> list[pa.Table]:
    """Of 6 shards of 40 phantoms: 240 rows in all, the last shard has 33."""
    pictures, labels = [encode(one.image) for one in shard_phantoms], [one.labels for one in shard_phantoms]
    return [table_of(range(40 * n, 40 * n + (33 if n == 5 else 40)), pictures, labels) for n in range(6)]


@pytest.fixture(scope="session")
def shard_root(shard_tables, tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("generated"), shard_tables, group_rows=9)


@pytest.fixture(scope="session")
def open_shards(shard_root, tmp_path_factory):
    """`open_shards(root=, **options)` gives a datamodule that is set up."""
    cache = tmp_path_factory.mktemp("cache")

    def build(root=shard_root, rank=0, world_size=1, **options) -> ShardDataModule:
        defaults = {"image_size": 16, "batch_size": 5, "cache_dir": cache, "fractions": HALF, "cache_workers": 1}
        data = ShardDataModule(ShardSource(root), **defaults | {"num_lanes": 4, "window_groups": 2} | options)
        data.prepare_data()
        data.setup()
        if world_size > 1:
            data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, overfit_batches=0)
        return data

    return build
