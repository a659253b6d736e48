"""Batches of a set's shards: every image once and in order, within a row group, shared out by whole shards."""

from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from refusals import refuses
from synthetic_sets import write_set

from datamodules.shards import ShardSource
from datamodules.synthetic.batches import ShardBatches

SIDE = 32
SHARDS = [f"shard-{number:05d}-of-00003.parquet" for number in range(3)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """13 images in shards of 5, 5, 3, in row groups of 3."""
    return write_set(tmp_path_factory.mktemp("set"), num_images=13, num_shards=3, group_rows=3, side=SIDE)


def batches(root, rank=0, world_size=1, **options):
    data = ShardBatches(ShardSource(root), SIDE, **{"batch_size": 2} | options)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)
    return [data.on_after_batch_transfer(batch, 0) for batch in data.predict_dataloader()]


def ids_of(root, shard):
    return pq.read_table(root / "data" / shard).column("id").to_pylist()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_every_image_once_and_in_order(root, batch_size):
    found = batches(root, batch_size=batch_size)
    assert [name for batch in found for name in batch["id"]] == [
        name for shard in SHARDS for name in ids_of(root, shard)
    ]
    assert len(batches(root, batch_size=batch_size)) == len(found)


def test_no_batch_goes_over_the_end_of_a_row_group(root):
    places = [
        (b["shard"], b["row_group"], b["num_row_groups"], b["row"], b["num_rows"], len(b["id"])) for b in batches(root)
    ]
    first = [(SHARDS[0], 0, 2, 0, 3, 2), (SHARDS[0], 0, 2, 2, 3, 1), (SHARDS[0], 1, 2, 0, 2, 2)]
    assert places[:3] == first
    assert places[3:6] == [(SHARDS[1], *rest) for _, *rest in first]
    assert places[6:] == [(SHARDS[2], 0, 1, 0, 3, 2), (SHARDS[2], 0, 1, 2, 3, 1)]


def test_images_are_those_of_the_files(root):
    source = ShardSource(root)
    for batch in batches(root):
        assert batch["image"].dtype == torch.float32 and batch["image"].shape[1:] == (3, SIDE, SIDE)
        rows = [ids_of(root, batch["shard"]).index(name) for name in batch["id"]]
        stored = np.stack([source.read(f"data/{batch['shard']}#{row}", SIDE) for row in rows])
        assert torch.equal((batch["image"] * 255).round().byte(), torch.from_numpy(stored).permute(0, 3, 1, 2))
        assert float(batch["image"].min()) >= 0 and float(batch["image"].max()) <= 1


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_whole_shards_and_may_have_none(root, world_size):
    shares = [{batch["shard"] for batch in batches(root, rank, world_size)} for rank in range(world_size)]
    assert shares == [set(SHARDS[rank::world_size]) for rank in range(world_size)]


def test_only_the_shards_that_are_asked_for_in_their_order(root):
    found = batches(root, shards=lambda: [SHARDS[2], SHARDS[0]])
    assert list(dict.fromkeys(batch["shard"] for batch in found)) == [SHARDS[2], SHARDS[0]]
    assert batches(root, shards=lambda: []) == []


def test_a_row_group_is_read_once_and_one_is_held(root, monkeypatch):
    read, original = [], ShardSource.read_group
    monkeypatch.setattr(ShardSource, "read_group", lambda self, group: read.append(group) or original(self, group))
    batches(root, batch_size=1)
    assert read == list(range(5))


def test_workers_give_the_same_in_the_same_order(root):
    alone, shared = batches(root), batches(root, num_workers=2)
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one.pop("image"), other.pop("image")) and one == other


def test_mistakes_are_named(root):
    with refuses(ValueError, "'shard-9.parquet'", "shard-00000-of-00003.parquet"):
        batches(root, shards=lambda: ["shard-9.parquet"])
    with refuses(ValueError, "batch_size=0"):
        ShardBatches(ShardSource(root), SIDE, batch_size=0)
