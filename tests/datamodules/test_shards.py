"""Streaming of Parquet shards: the order, resuming, memory, and what is said of shards that cannot be used."""

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from PIL import Image
from torchvision.transforms import v2

from datamodules import phantom
from datamodules.findings import EYE_SIDE, NAMES
from datamodules.latents import LatentCache
from datamodules.manifest import Manifest, ManifestError
from datamodules.shard_stream import StreamBatches, StreamOrder
from datamodules.shards import ShardError, ShardSource
from datamodules.streaming import ShardDataModule

SIDE, NUM_PHANTOMS = 24, 12
HALF = {"train": 0.8, "val": 0.2}


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


@pytest.fixture(scope="session")
def phantoms() -> list[phantom.Phantom]:
    return [phantom.render(0, index, SIDE) for index in range(NUM_PHANTOMS)]


@pytest.fixture(scope="session")
def tables(phantoms) -> list[pa.Table]:
    """Of 6 shards of 40 phantoms: 240 rows in all, the last shard has 33."""
    pictures, labels = [encode(one.image) for one in phantoms], [one.labels for one in phantoms]
    return [table_of(range(40 * n, 40 * n + (33 if n == 5 else 40)), pictures, labels) for n in range(6)]


@pytest.fixture(scope="session")
def root(tables, tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("generated"), tables, group_rows=9)


@pytest.fixture(scope="session")
def make(root, tmp_path_factory):
    """`make(root=, **options)` gives a datamodule that is set up."""
    cache = tmp_path_factory.mktemp("cache")

    def build(root=root, rank=0, world_size=1, **options) -> ShardDataModule:
        defaults = {"image_size": 16, "batch_size": 5, "cache_dir": cache, "fractions": HALF, "cache_workers": 1}
        data = ShardDataModule(ShardSource(root), **defaults | {"num_lanes": 4, "window_groups": 2} | options)
        data.prepare_data()
        data.setup()
        if world_size > 1:
            data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, overfit_batches=0)
        return data

    return build


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
        with pytest.raises(ValueError, match="not one batch. Set data.batch_size"):
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
    with pytest.raises(ValueError, match="data.epoch_size is 3, and must be at least one batch of 4"):
        StreamBatches(order, epoch_size=3)


# -- batches


def test_a_batch_is_what_the_shards_hold(make, phantoms):
    data = make(image_size=SIDE)
    seen = 0
    for batch in data.train_dataloader():
        assert batch["image"].dtype == torch.uint8 and batch["image"].shape == (5, 3, SIDE, SIDE)
        assert batch["labels"].dtype == torch.int64 and batch["labels"].shape == (5, len(NAMES))
        for image, labels, name in zip(batch["image"], batch["labels"], batch["id"], strict=True):
            drawn = phantoms[int(name) % NUM_PHANTOMS]
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


def test_every_training_image_once_over_ranks_and_none_that_is_held_out(make):
    data = make()
    train = {data.manifest.ids[row] for row in data.manifest.rows("train")}
    for world_size in (1, 2, 3):
        ranks = [ids_of(make(rank=rank, world_size=world_size).train_dataloader()) for rank in range(world_size)]
        ids = [name for batches in ranks for batch in batches for name in batch]
        assert len({len(batches) for batches in ranks}) == 1
        assert len(set(ids)) == len(ids) == len(train) // (5 * world_size) * 5 * world_size and set(ids) <= train


def test_epochs_differ_and_mirror_other_rows(make):
    loader, flips, orders = make().train_dataloader(), [], []
    for epoch in range(2):
        loader.set_epoch(epoch)
        batches = list(loader)
        orders.append([tuple(batch["id"]) for batch in batches])
        flips.append({n: bool(f) for batch in batches for n, f in zip(batch["id"], batch["flip"], strict=True)})
    assert orders[0] != orders[1] and orders[0] == ids_of(make().train_dataloader())
    both = flips[0].keys() & flips[1].keys()
    assert 0.3 < np.mean([flips[0][name] == flips[1][name] for name in both]) < 0.7
    others = {
        n: bool(f) for b in make(batch_size=7).train_dataloader() for n, f in zip(b["id"], b["flip"], strict=True)
    }
    assert all(others[name] == flips[0][name] for name in others.keys() & flips[0].keys()), "a draw a row, not a place"


def test_each_row_group_is_read_once_a_pass(make, monkeypatch):
    data, read = make(window_groups=3), []
    original = ShardSource.read_group
    monkeypatch.setattr(ShardSource, "read_group", lambda source, group: read.append(group) or original(source, group))
    list(data.train_dataloader())
    num_groups = len(data.source.footers.groups)
    assert num_groups - 4 <= len(set(read)) <= num_groups, "but for those without training rows, or left out"
    assert len(read) <= num_groups + data.num_lanes, "only those that lie on a cut between lanes are read twice"


def test_what_grows_and_shrinks_is_resampled(make, phantoms):
    small, large = (make(image_size=size) for size in (12, 48))
    for data, size in ((small, 12), (large, 48)):
        batch = next(iter(data.train_dataloader()))
        drawn = torch.from_numpy(phantoms[int(batch["id"][0]) % NUM_PHANTOMS].image).permute(2, 0, 1)[None].float()
        wanted = torch.nn.functional.interpolate(drawn, (size, size), mode="area" if size < SIDE else "bicubic")
        assert (batch["image"][0].float() - wanted[0]).abs().mean() < 3


# -- resuming


@pytest.fixture(scope="module")
def uninterrupted(make):
    loader, epochs = make().train_dataloader(), []
    for epoch in range(2):
        loader.set_epoch(epoch)
        epochs.append(list(loader))
    return epochs


@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 2), (2, 0)])
def test_resumed_equals_uninterrupted(make, uninterrupted, before, after):
    first = make(num_workers=before)
    loader = first.train_dataloader()
    loader.set_epoch(1)
    running = iter(loader)
    seen = [next(running) for _ in range(7)]  # within a row group, a window and an epoch
    state = first.state_dict()
    numbers = {value for name, value in state["train_loader"].items() if name != "images"}
    assert numbers <= set(range(1000)), "numbers, no rows"
    resumed = make(num_workers=after)
    resumed.load_state_dict(state)
    seen += list(resumed.train_dataloader())
    assert len(seen) == len(uninterrupted[1]) == len(loader)
    assert all(same(one, other) for one, other in zip(seen, uninterrupted[1], strict=True))


@pytest.mark.parametrize("change", [{"num_lanes": 1}, {"window_groups": 4}, {"seed": 1}, {"batch_size": 4}])
def test_another_order_is_refused_within_an_epoch(make, change):
    first = make()
    next(iter(first.train_dataloader()))
    other = make(**change)
    other.load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="saved within an epoch"):
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


class Kill(Callback):
    """Ends the run after a number of training batches without any saving."""

    def __init__(self, after: int) -> None:
        self.after, self.count = after, 0

    def on_train_batch_end(self, *args):
        self.count += 1
        if self.count == self.after:
            raise KeyboardInterrupt


def fit(data, folder, seen, callbacks=(), checkpoint=None):
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=bool(callbacks), callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(Recorder(seen), datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_checkpoint_of_lightning_resumes_within_an_epoch(make, tmp_path, num_workers):
    whole, resumed = [], []
    trainer = fit(make(num_workers=num_workers), tmp_path, whole)
    assert len({name for epoch, ids, _ in whole if epoch == 0 for name in ids}) == len(whole) // 2 * 5
    assert 0 < float(trainer.callback_metrics["val/loss"]) < 1
    steps = len(whole) // 2 + 4
    save = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=steps, save_top_k=-1)
    with pytest.raises(SystemExit):
        fit(make(num_workers=num_workers), tmp_path, [], [save, Kill(steps + 3)])
    fit(make(num_workers=num_workers), tmp_path, resumed, checkpoint=tmp_path / f"step={steps}.ckpt")
    assert resumed == whole[steps:]


# -- memory


def test_memory_is_bounded_by_the_window(make, tmp_path, phantoms):
    stream, labels = np.random.default_rng(0), [one.labels for one in phantoms]
    noise = [encode(stream.integers(0, 256, (96, 96, 3), dtype=np.uint8), compress_level=1) for _ in range(40)]
    root = write(tmp_path, [table_of(range(40 * n, 40 * n + 40), noise, labels) for n in range(20)], group_rows=10)
    data = make(root, batch_size=4, num_lanes=2, window_groups=4, num_val=4, num_reference=4)
    group = int(data.source.footers.groups.num_bytes.max())
    total, held, resident = int(data.source.footers.groups.num_bytes.sum()), [], []
    for _ in data.train_dataloader():
        held.append(pa.total_allocated_bytes())
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    quarter = len(held) // 4
    assert max(held) < 2 * (4 + 2) * group * 1.3 < total / 4
    assert max(held[quarter:]) < 1.15 * max(held[:quarter])
    assert max(resident[quarter:]) - max(resident[:quarter]) < total / 4


# -- what jobs and callbacks ask for


def test_samples_labels_and_fingerprints(make, tmp_path, phantoms):
    data = make(num_val=10, num_reference=30)
    train, val = data.images("train"), data.images("val")
    assert len(train) == 30 and len(val) == 10 and train[:2].shape == (2, 16, 16, 3) and train.dtype == np.uint8
    assert len(data.labels("train")) == len(data.manifest.rows("train")) > 100
    for split in ("train", "val"):
        dataset = data.dataset(split)
        assert torch.equal(data.labels(split)[: len(dataset)], dataset.labels)
        index = {name: row for row, name in enumerate(data.manifest.ids)}
        rows = [index[name] for name in dataset.ids]
        assert set(rows) <= set(data.manifest.rows(split).tolist())
        assert data.manifest.labels[rows].tolist() == dataset.labels.tolist()
    whole = make(image_size=SIDE).dataset("val")
    assert all(np.array_equal(whole.images[i], phantoms[int(n) % NUM_PHANTOMS].image) for i, n in enumerate(whole.ids))
    assert sorted(n for batch in data.val_dataloader() for n in batch["id"]) == sorted(data.dataset("val").ids)
    assert data.preview()["splits"] == data.describe()["splits"]
    assert data.describe()["splits"]["train"]["num_images"] + len(data.manifest.rows("val")) == 233
    data.write_index(tmp_path)
    assert Manifest.read(tmp_path / "manifest.parquet").fingerprint == data.manifest.fingerprint
    assert (tmp_path / "rejected.csv").read_text().split() == ["path,reason"]
    again, other = make(num_val=10, num_reference=30), make(seed=1)
    assert again.fingerprint == data.fingerprint and again.split_fingerprint == data.split_fingerprint
    assert other.split_fingerprint != data.split_fingerprint and make(image_size=12).fingerprint != data.fingerprint


def test_official_splits_and_patients_are_kept(tmp_path, tables):
    """Hugging Face's own layout: the test file's rows are tested on, and a patient's images stay together."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, table in (("train", pa.concat_tables(tables[:3])), ("test", tables[3])):
        people = [f"p{int(row) // 2}" for row in table.column("id").to_pylist()]
        table = table.append_column("patient", pa.array(people))
        pq.write_table(table, folder / f"{name}-00000-of-00001.parquet", row_group_size=9)
    data = ShardDataModule(ShardSource(tmp_path), 16, 4, tmp_path / "cache", fractions=HALF)
    data.prepare_data()
    data.setup()
    of_test = set(tables[3].column("id").to_pylist())
    streamed = {name for batch in data.train_dataloader() for name in batch["id"]}
    assert not streamed & of_test and set(data.manifest.select("test").ids) == of_test
    sides = [set(data.manifest.select(split).patients) for split in ("train", "val", "test")]
    assert all(sides) and sum(map(len, sides)) == len(set.union(*sides)) == 80
    assert set(data.manifest.table.column("source").to_pylist()) == {"shards"}


def test_a_split_column_is_kept(tmp_path, tables):
    table = tables[0].append_column("split", pa.array(["val"] * 10 + ["train"] * (len(tables[0]) - 10)))
    pq.write_table(table, tmp_path / "shard-00000-of-00001.parquet")
    manifest = ShardSource(tmp_path).index()
    assert manifest.rows("val").tolist() == list(range(10)) and len(manifest.rows("train")) == len(table) - 10


@pytest.mark.parametrize("kind", [pa.uint8(), pa.int64(), pa.float32()])
def test_levels_and_ids_of_other_types(make, tmp_path, tables, kind):
    table = tables[0]
    grades = pc.if_else(pc.equal(table.column("dr_grade"), 1), None, table.column("dr_grade")).cast(kind)
    table = table.set_column(table.column_names.index("dr_grade"), "dr_grade", grades)
    table = table.set_column(table.column_names.index("id"), "id", pa.array(np.arange(len(table), dtype=float)))
    pq.write_table(table, tmp_path / "shard-00000-of-00001.parquet", row_group_size=9)
    data = ShardDataModule(ShardSource(tmp_path), 16, 4, tmp_path / "cache", fractions=HALF, flip=False)
    data.prepare_data()
    data.setup()
    known = dict(zip(data.manifest.ids, data.manifest.labels[:, 0].tolist(), strict=True))
    assert -1 in known.values() and max(known.values()) > 2
    for batch in data.train_dataloader():
        assert [known[name] for name in batch["id"]] == batch["labels"][:, 0].tolist()


def test_what_is_sampled_does_not_change_what_is_streamed(make):
    first, other = make(), make(num_reference=3)
    assert first.fingerprint != other.fingerprint and first.training_images == other.training_images
    assert make(image_size=24).training_images != first.training_images != make(flip=False).training_images
    next(iter(first.train_dataloader()))
    other.load_state_dict(first.state_dict())
    assert len(list(other.train_dataloader())) == len(first.train_dataloader()) - 1


def test_a_checkpoint_of_another_kind_of_data_resumes_from_an_epochs_end(make):
    data = make()
    state = {"epoch": 0, "batch": 8, "seed": 0, "num_rows": 32, "epoch_size": 32, "global_batch_size": 4, "images": "x"}
    data.load_state_dict({"train_loader": state})
    assert data.train_dataloader().batch_sampler.epoch == 0
    data.load_state_dict({"train_loader": {**state, "batch": 3}})
    with pytest.raises(ValueError, match="the order of the data has changed since.*world_size was None"):
        data.train_dataloader()


def test_transforms_are_drawn_only_where_there_are_any(make):
    assert "draw" not in next(iter(make().train_dataloader()))
    assert "draw" in next(iter(make(augment=[v2.ColorJitter(0.1)]).train_dataloader()))


def test_rows_that_are_added_move_nobody(make, tables, tmp_path):
    fewer = make(write(tmp_path, tables[:3], 9))
    sides = dict(zip(fewer.manifest.ids, fewer.manifest.splits, strict=True))
    whole = make().manifest
    assert sides.items() <= dict(zip(whole.ids, whole.splits, strict=True)).items() and set(sides.values()) == set(HALF)


def test_the_fingerprint_is_of_rows_and_of_images(make, tables, tmp_path):
    def fingerprint(name, change):
        root = write(tmp_path / name, [change(tables[0])], 9)
        return make(root, num_reference=1, num_val=1).fingerprint

    def another(table):  # of which none is in the samples
        cells = table["image"].to_pylist()
        cells[0], cells[1] = cells[1], cells[0]
        return table.set_column(0, "image", pa.array([*cells[:-1], cells[2]], table.schema.field("image").type))

    first = fingerprint("first", lambda table: table)
    assert fingerprint("again", lambda table: table) == first, "whatever the folder, and when it was written"
    assert fingerprint("label", lambda table: replace(table, "is_gc", -1, 3)) != first
    assert fingerprint("image", another) != first


def test_an_empty_split_says_what_to_set(make):
    data = make(fractions={"train": 1.0})
    with pytest.raises(ValueError, match="the val split is empty: 233 rows.*data.fractions.val"):
        data.val_dataloader()
    with pytest.raises(ValueError, match="split is 'none'"):
        data.images("none")


def test_latents_are_refused(make, tmp_path):
    data = make()
    encode = lambda images: (images[:, :, ::4, ::4], images[:, :, ::4, ::4])  # noqa: E731
    cache = LatentCache.build(encode, data.images("train"), {"images": data.fingerprint}, tmp_path)
    with pytest.raises(ValueError, match="job.cache_latents=false"):
        data.attach_latents(cache)
    data.attach_latents(None)


def test_shards_are_a_source_like_others(root, tables):
    source = ShardSource(root / "data")
    index = source.index()
    assert len(index) == 233 and index.paths[45] == "shard-00001-of-00006.parquet#5" and index.ids[45] == "00045"
    wanted = np.asarray(Image.open(io.BytesIO(tables[1]["image"][5].as_py()["bytes"])))
    assert np.array_equal(source.read(index.paths[45], SIDE), wanted)
    assert source.read(index.paths[232], 16).shape == (16, 16, 3)
    assert (index.labels >= 0).all()


# -- shards that cannot be used


def broken(tmp_path, tables, change) -> ShardSource:
    """Two shards, of which the second is changed."""
    root = write(tmp_path, [tables[0], change(tables[1])], 9)
    return ShardSource(root)


def replace(table: pa.Table, name: str, value, row: int) -> pa.Table:
    column = table.column(name).to_pylist()
    column[row] = value
    return table.set_column(table.column_names.index(name), name, pa.array(column, table.schema.field(name).type))


SECOND = "shard-00001-of-00002.parquet"


@pytest.mark.parametrize("kept", [0, 3, 11, 0.5, 0.999])
def test_a_truncated_shard_is_named(tmp_path, tables, kept):
    source = broken(tmp_path, tables, lambda table: table)
    file = tmp_path / "data" / SECOND
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(ShardError, match=f"{SECOND}.* is not a whole Parquet file .*Remedy: copy or write it again"):
        source.index()


@pytest.mark.parametrize("name", ["id", "image", "is_amd"])
def test_a_missing_column_is_named(tmp_path, tables, name):
    source = broken(tmp_path, tables, lambda table: table.drop_columns([name]))
    with pytest.raises(ShardError, match=f"{SECOND}.* has no column '{name}'.*Remedy"):
        source.index()


CELLS = {
    "level": ("dr_grade", 7, ManifestError, "row 3, column 'dr_grade': 7 is not a level.*Remedy: use 0 \\(none\\)"),
    "blank": ("id", "", ManifestError, "row 3, column 'id': '' is blank"),
}


@pytest.mark.parametrize("case", CELLS)
def test_a_cell_that_cannot_be_is_named(tmp_path, tables, case):
    name, value, kind, message = CELLS[case]
    with pytest.raises(kind, match=f"{SECOND}, {message}"):
        broken(tmp_path, tables, lambda table: replace(table, name, value, 3)).index()


def test_an_id_of_another_shard_is_named(tmp_path, tables):
    with pytest.raises(ManifestError, match="row 43, column 'id': '00004' is already the id of row 4"):
        broken(tmp_path, tables, lambda table: replace(table, "id", "00004", 3)).index()


def test_unknown_labels_may_be_null_or_absent(make, tmp_path, tables):
    def change(table):
        table = replace(table, "is_amd", None, 3)
        return replace(table, "is_gc", -1, 3).set_column(3, "dr_grade", pa.nulls(table.num_rows))

    root = write(tmp_path, [change(table).drop_columns(["is_dme"]) for table in tables[:2]], 9)
    data = make(root, fractions={"train": 1.0}, batch_size=80)
    batch = next(iter(data.train_dataloader()))
    rows = dict(zip(batch["id"], batch["labels"].tolist(), strict=True))
    unknown = {name for name, level in zip(NAMES, rows["00003"], strict=True) if level < 0}
    assert unknown == {"is_amd", "is_gc", "is_dme", "dr_grade"}
    assert sum(row[NAMES.index("is_amd")] < 0 for row in rows.values()) == 2
    assert data.manifest.labels[3].tolist() == rows["00003"]


IMAGES = {
    "not embedded": (None, "it holds no bytes"),
    "damaged": (b"\x89PNG\r\n\x1a\n and then nothing", "not an image"),
    "not square": (encode(np.zeros((20, 30, 3), np.uint8)), "it is 30 x 20 pixels, and must be square"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_an_image_that_cannot_be_used_is_named(make, tmp_path, tables, case):
    pixels, reason = IMAGES[case]
    cell = {"bytes": pixels, "path": "x.png"}
    source = broken(tmp_path, tables, lambda table: replace(table, "image", cell, 13))
    with pytest.raises(ShardError, match=f"{SECOND}', row 13, id '00053': the image cannot be used: {reason}"):
        source.read(source.index().paths[53], 16)
    with pytest.raises(ShardError, match="row 13, id '00053'"):
        list(make(tmp_path, num_reference=1, num_val=1, fractions={"train": 1.0}).train_dataloader())


def test_a_missing_shard_a_foreign_file_and_no_folder(tmp_path, tables):
    source = broken(tmp_path, tables, lambda table: table)
    (tmp_path / "data" / SECOND).rename(tmp_path / "elsewhere")
    with pytest.raises(ShardError, match=f"1 of 2 shards are missing.*: {SECOND}. Remedy.*data.partial=true"):
        source.index()
    assert len(ShardSource(tmp_path, partial=True).index()) == 40
    pq.write_table(pa.table({"plan": [1, 2]}), tmp_path / "data" / "plan.parquet")
    with pytest.raises(ShardError, match="plan.parquet' has no column 'image'; its columns are: plan.*move it out"):
        ShardSource(tmp_path, partial=True).index()
    with pytest.raises(FileNotFoundError, match="data.root is .*nowhere', which does not exist"):
        ShardSource(tmp_path / "nowhere").index()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no Parquet file in it"):
        ShardSource(tmp_path / "empty").index()


def test_row_groups_that_are_too_large_say_what_to_set(make):
    with pytest.raises(ShardError, match=r"row group of .* GB \(9 images\).*data.window_gb is 1e-05.*about 100 images"):
        make(window_gb=1e-5)


@pytest.mark.smoke
def test_a_job_trains_on_shards(root, tmp_path):
    """`+exp=vae_train data=shards`, to its end."""
    words = ["+exp=vae_train", "data=shards", f"data.root={root}", "output_dir=out", "data.image_size=16",
             "data.epoch_size=96", "data.num_workers=1", "data.cache_workers=1", "data.num_val=8",
             "data.fractions={train: 0.8, val: 0.2, test: 0.0}", "model.autoencoder.block_channels=[8,8]",
             "model.autoencoder.norm_groups=4", "autoencoder.module.perceptual=null",
             "autoencoder.module.warmup_steps=1", "trainer.max_epochs=2",
             "trainer.accelerator=cpu"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    run = subprocess.run(
        [sys.executable, "-m", "experiments.run", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "shards: 233 images" in run.stdout and "latents measured over" in run.stdout
    assert Manifest.read(tmp_path / "out" / "manifest.parquet").num_patients == 233
    assert (tmp_path / "out" / "checkpoints" / "last.ckpt").is_file()
