"""The stream of training batches off shards: the order, what a batch holds, resuming and memory."""

import os
from pathlib import Path

import lightning as L
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from refusals import refuses
from shard_files import NUM_PHANTOMS, SIDE, encode, table_of, write
from stopping import Stop

from datamodules.findings import EYE_SIDE, NAMES
from datamodules.shard_stream import StreamBatches, StreamOrder
from datamodules.shards import ShardSource


def ids_of(loader) -> list[tuple[str, ...]]:
    return [tuple(batch["id"]) for batch in loader]


def same(one: dict, other: dict) -> bool:
    tensors = ("image", "labels", "flip")
    return one["id"] == other["id"] and all(torch.equal(one[name], other[name]) for name in tensors)


# -- the order


def rows_of(order: StreamOrder, number: int) -> list[list[tuple[int, int]]]:
    """The (row group, place) of every batch of a pass."""
    batches, windows = [], {}
    for batch in range(order.num_batches):
        lane, window, turn = order.place(batch)
        if (lane, window) not in windows:
            windows[lane, window] = order.window(number, lane, window)
        groups, places = (part.reshape(-1, order.batch_size) for part in windows[lane, window])
        batches.append(list(zip(groups[turn].tolist(), places[turn].tolist(), strict=True)))
    return batches


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=40),
    st.integers(1, 6),
    st.integers(1, 3),
    st.sampled_from([1, 3, 4]),
    st.integers(1, 4),
    st.integers(0, 2),
)
def test_ranks_and_lanes_share_every_row_out(sizes, batch_size, world_size, num_lanes, window_groups, number):
    options = {"world_size": world_size, "num_lanes": num_lanes, "window_groups": window_groups, "seed": 3}
    if sum(sizes) < batch_size * world_size:
        with refuses(ValueError, f"{sum(sizes)} training images", f"{world_size} process", "data.batch_size"):
            StreamOrder(sizes, batch_size, **options)
        return
    ranks = [rows_of(StreamOrder(sizes, batch_size, rank=rank, **options), number) for rank in range(world_size)]
    assert {len(batches) for batches in ranks} == {sum(sizes) // (batch_size * world_size)}
    rows = [row for batches in ranks for batch in batches for row in batch]
    assert len(set(rows)) == len(rows) == sum(sizes) // (batch_size * world_size) * batch_size * world_size
    assert set(rows) <= {(group, place) for group, size in enumerate(sizes) for place in range(size)}


def test_the_order_is_a_function_of_seed_and_pass():
    make = lambda seed: StreamOrder([9] * 30, 4, seed=seed, num_lanes=2, window_groups=3)  # noqa: E731
    order = make(0)
    first, second = rows_of(order, 0), rows_of(order, 1)
    assert first == rows_of(order, 0) == rows_of(make(0), 0)
    assert first != second and rows_of(make(1), 0) != first
    starts = [sorted(order.window(number, 0, 0)[0].tolist()) for number in (0, 1)]
    assert starts[0] != starts[1], "row groups meet others in the next pass"
    left_out = [
        {(g, p) for g in range(30) for p in range(9)} - {r for b in rows for r in b} for rows in (first, second)
    ]
    assert [len(rows) for rows in left_out] == [2, 2] and left_out[0] != left_out[1]


def test_a_batch_mixes_row_groups_of_anywhere():
    order = StreamOrder([100] * 200, 32, num_lanes=8, window_groups=8)
    batches = rows_of(order, 0)
    groups = [len({group for group, _ in batch}) for batch in batches]
    assert np.mean(groups) > 6.5  # of 7 to 8 in a window; 32 rows as they were written have 1 or 2
    spread = np.mean([np.std([group for group, _ in batch]) for batch in batches])
    assert spread > 0.85 * np.std(np.arange(200))  # as far apart as rows drawn at random


def test_epochs_of_a_size_cut_one_sequence_of_passes():
    order = StreamOrder([9] * 4, 4)  # 9 batches in a pass
    batches, seen = StreamBatches(order, epoch_size=26), []
    for epoch in range(3):
        batches.set_epoch(epoch)
        seen += list(batches)
    assert len(batches) == 6 and seen == list(range(18))
    whole = StreamBatches(order)
    whole.set_epoch(2)
    assert list(whole) == list(range(18, 27))
    fixed = StreamBatches(order, vary=False)
    fixed.set_epoch(2)
    assert list(fixed) == list(range(9))
    with refuses(ValueError, "data.epoch_size", 3, "batch of 4"):
        StreamBatches(order, epoch_size=3)


# -- batches


def test_a_batch_is_what_the_shards_hold(open_shards, shard_phantoms):
    data = open_shards(image_size=SIDE)
    seen = 0
    for batch in data.train_dataloader():
        assert batch["image"].dtype == torch.uint8 and batch["image"].shape == (5, 3, SIDE, SIDE)
        assert batch["labels"].dtype == torch.int64 and batch["labels"].shape == (5, len(NAMES))
        for image, labels, name in zip(batch["image"], batch["labels"], batch["id"], strict=True):
            drawn = shard_phantoms[int(name) % NUM_PHANTOMS]
            assert np.array_equal(image.permute(1, 2, 0).numpy(), drawn.image)
            assert labels.tolist() == [drawn.labels[finding] for finding in NAMES]
        flip, side = batch["flip"], batch["labels"][:, EYE_SIDE]
        moved = data.on_after_batch_transfer(batch, 0)
        assert moved["image"].dtype == torch.float32 and 0.5 < float(moved["image"].max()) <= 1
        turned = torch.where(flip[:, None, None, None], batch["image"].flip(-1), batch["image"]) / 255
        assert torch.allclose(moved["image"], turned) and "flip" not in moved
        assert torch.equal(moved["labels"][:, EYE_SIDE], torch.where(flip & (side >= 0), 1 - side, side))
        seen += int(flip.sum())
    assert 0.3 < seen / (5 * len(data.train_dataloader())) < 0.7


def test_every_training_image_once_over_ranks_and_none_that_is_held_out(open_shards):
    data = open_shards()
    train = {data.manifest.ids[row] for row in data.manifest.rows("train")}
    for world_size in (1, 2, 3):
        ranks = [ids_of(open_shards(rank=rank, world_size=world_size).train_dataloader()) for rank in range(world_size)]
        ids = [name for batches in ranks for batch in batches for name in batch]
        assert len({len(batches) for batches in ranks}) == 1
        assert len(set(ids)) == len(ids) == len(train) // (5 * world_size) * 5 * world_size and set(ids) <= train


def test_epochs_differ_and_mirror_other_rows(open_shards):
    loader, flips, orders = open_shards().train_dataloader(), [], []
    for epoch in range(2):
        loader.set_epoch(epoch)
        batches = list(loader)
        orders.append([tuple(batch["id"]) for batch in batches])
        flips.append({n: bool(f) for batch in batches for n, f in zip(batch["id"], batch["flip"], strict=True)})
    assert orders[0] != orders[1] and orders[0] == ids_of(open_shards().train_dataloader())
    both = flips[0].keys() & flips[1].keys()
    assert 0.3 < np.mean([flips[0][name] == flips[1][name] for name in both]) < 0.7
    others = {
        n: bool(f)
        for b in open_shards(batch_size=7).train_dataloader()
        for n, f in zip(b["id"], b["flip"], strict=True)
    }
    assert all(others[name] == flips[0][name] for name in others.keys() & flips[0].keys()), "a draw a row, not a place"


def test_each_row_group_is_read_once_a_pass(open_shards, monkeypatch):
    data, read = open_shards(window_groups=3), []
    original = ShardSource.read_group
    monkeypatch.setattr(ShardSource, "read_group", lambda source, group: read.append(group) or original(source, group))
    list(data.train_dataloader())
    num_groups = len(data.source.footers.groups)
    assert num_groups - 4 <= len(set(read)) <= num_groups, "but for those without training rows, or left out"
    assert len(read) <= num_groups + data.num_lanes, "only those that lie on a cut between lanes are read twice"


def test_what_grows_and_shrinks_is_resampled(open_shards, shard_phantoms):
    small, large = (open_shards(image_size=size) for size in (12, 48))
    for data, size in ((small, 12), (large, 48)):
        batch = next(iter(data.train_dataloader()))
        drawn = (
            torch.from_numpy(shard_phantoms[int(batch["id"][0]) % NUM_PHANTOMS].image).permute(2, 0, 1)[None].float()
        )
        wanted = torch.nn.functional.interpolate(drawn, (size, size), mode="area" if size < SIDE else "bicubic")
        assert (batch["image"][0].float() - wanted[0]).abs().mean() < 3


# -- resuming


@pytest.fixture(scope="module")
def uninterrupted(open_shards):
    loader, epochs = open_shards().train_dataloader(), []
    for epoch in range(2):
        loader.set_epoch(epoch)
        epochs.append(list(loader))
    return epochs


@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 2), (2, 0)])
def test_resumed_equals_uninterrupted(open_shards, uninterrupted, before, after):
    first = open_shards(num_workers=before)
    loader = first.train_dataloader()
    loader.set_epoch(1)
    running = iter(loader)
    seen = [next(running) for _ in range(7)]  # within a row group, a window and an epoch
    state = first.state_dict()
    numbers = {value for name, value in state["train_loader"].items() if name != "images"}
    assert numbers <= set(range(1000)), "numbers, no rows"
    resumed = open_shards(num_workers=after)
    resumed.load_state_dict(state)
    seen += list(resumed.train_dataloader())
    assert len(seen) == len(uninterrupted[1]) == len(loader)
    assert all(same(one, other) for one, other in zip(seen, uninterrupted[1], strict=True))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"num_lanes": 1}, "num_lanes"),
        ({"window_groups": 4}, "window_batches"),
        ({"seed": 1}, "seed"),
        ({"batch_size": 4}, "data.batch_size"),
    ],
)
def test_another_order_is_refused_within_an_epoch(open_shards, change, name):
    first = open_shards()
    next(iter(first.train_dataloader()))
    other = open_shards(**change)
    other.load_state_dict(first.state_dict())
    with refuses(ValueError, "checkpoint", name):
        other.train_dataloader()


class Recorder(L.LightningModule):
    """Notes (epoch, ids, mean of the images) of every training batch in a list outside itself."""

    def __init__(self, seen: list) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = seen

    def training_step(self, batch, batch_idx):
        mean = batch["image"].mean()
        self.seen.append((self.current_epoch, tuple(batch["id"]), round(float(mean), 5)))
        return (self.layer(mean.view(1, 1)) - 1).square().sum()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", batch["image"].mean(), batch_size=len(batch["id"]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(data, folder, seen, callbacks=(), checkpoint=None):
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=bool(callbacks), callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(Recorder(seen), datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_checkpoint_of_lightning_resumes_within_an_epoch(open_shards, tmp_path, num_workers):
    whole, resumed = [], []
    trainer = fit(open_shards(num_workers=num_workers), tmp_path, whole)
    assert len({name for epoch, ids, _ in whole if epoch == 0 for name in ids}) == len(whole) // 2 * 5
    assert 0 < float(trainer.callback_metrics["val/loss"]) < 1
    steps = len(whole) // 2 + 4
    save = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=steps, save_top_k=-1)
    with pytest.raises(SystemExit):
        fit(open_shards(num_workers=num_workers), tmp_path, [], [save, Stop(steps + 3)])
    fit(open_shards(num_workers=num_workers), tmp_path, resumed, checkpoint=tmp_path / f"step={steps}.ckpt")
    assert resumed == whole[steps:]


# -- memory


def test_memory_is_bounded_by_the_window(open_shards, tmp_path, shard_phantoms):
    stream, labels = np.random.default_rng(0), [one.labels for one in shard_phantoms]
    noise = [encode(stream.integers(0, 256, (96, 96, 3), dtype=np.uint8), compress_level=1) for _ in range(40)]
    root = write(tmp_path, [table_of(range(40 * n, 40 * n + 40), noise, labels) for n in range(20)], group_rows=10)
    data = open_shards(root, batch_size=4, num_lanes=2, window_groups=4, num_val=4, num_reference=4)
    group = int(data.source.footers.groups.num_bytes.max())
    total, held, resident = int(data.source.footers.groups.num_bytes.sum()), [], []
    for _ in data.train_dataloader():
        held.append(pa.total_allocated_bytes())
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    quarter = len(held) // 4
    assert max(held) < 2 * (4 + 2) * group * 1.3 < total / 4
    assert max(held[quarter:]) < 1.15 * max(held[:quarter])
    assert max(resident[quarter:]) - max(resident[:quarter]) < total / 4
