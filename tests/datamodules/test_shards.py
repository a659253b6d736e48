"""Parquet shards as data: what jobs and callbacks ask of them, their splits, fingerprints and column types."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from refusals import refuses
from shard_files import HALF, NUM_PHANTOMS, SIDE, replace, write
from torchvision.transforms import v2

from datamodules.latents import LatentCache
from datamodules.manifest import Manifest
from datamodules.shards import ShardSource
from datamodules.streaming import ShardDataModule


def test_samples_labels_and_fingerprints(open_shards, tmp_path, shard_phantoms):
    data = open_shards(num_val=10, num_reference=30)
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
    whole = open_shards(image_size=SIDE).dataset("val")
    assert all(
        np.array_equal(whole.images[i], shard_phantoms[int(n) % NUM_PHANTOMS].image) for i, n in enumerate(whole.ids)
    )
    assert sorted(n for batch in data.val_dataloader() for n in batch["id"]) == sorted(data.dataset("val").ids)
    assert data.preview()["splits"] == data.describe()["splits"]
    assert data.describe()["splits"]["train"]["num_images"] + len(data.manifest.rows("val")) == 233
    data.write_index(tmp_path)
    assert Manifest.read(tmp_path / "manifest.parquet").fingerprint == data.manifest.fingerprint
    assert (tmp_path / "rejected.csv").read_text().split() == ["path,reason"]
    again, other = open_shards(num_val=10, num_reference=30), open_shards(seed=1)
    assert again.fingerprint == data.fingerprint and again.split_fingerprint == data.split_fingerprint
    assert (
        other.split_fingerprint != data.split_fingerprint and open_shards(image_size=12).fingerprint != data.fingerprint
    )


def test_official_splits_and_patients_are_kept(tmp_path, shard_tables):
    """Hugging Face's own layout: the test file's rows are tested on, and a patient's images stay together."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, table in (("train", pa.concat_tables(shard_tables[:3])), ("test", shard_tables[3])):
        people = [f"p{int(row) // 2}" for row in table.column("id").to_pylist()]
        table = table.append_column("patient", pa.array(people))
        pq.write_table(table, folder / f"{name}-00000-of-00001.parquet", row_group_size=9)
    data = ShardDataModule(ShardSource(tmp_path), 16, 4, tmp_path / "cache", fractions=HALF)
    data.prepare_data()
    data.setup()
    of_test = set(shard_tables[3].column("id").to_pylist())
    streamed = {name for batch in data.train_dataloader() for name in batch["id"]}
    assert not streamed & of_test and set(data.manifest.select("test").ids) == of_test
    sides = [set(data.manifest.select(split).patients) for split in ("train", "val", "test")]
    assert all(sides) and sum(map(len, sides)) == len(set.union(*sides)) == 80
    assert set(data.manifest.table.column("source").to_pylist()) == {"shards"}


def test_a_split_column_is_kept(tmp_path, shard_tables):
    table = shard_tables[0].append_column("split", pa.array(["val"] * 10 + ["train"] * (len(shard_tables[0]) - 10)))
    pq.write_table(table, tmp_path / "shard-00000-of-00001.parquet")
    manifest = ShardSource(tmp_path).index()
    assert manifest.rows("val").tolist() == list(range(10)) and len(manifest.rows("train")) == len(table) - 10


@pytest.mark.parametrize("kind", [pa.uint8(), pa.int64(), pa.float32()])
def test_levels_and_ids_of_other_types(open_shards, tmp_path, shard_tables, kind):
    table = shard_tables[0]
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


def test_what_is_sampled_does_not_change_what_is_streamed(open_shards):
    first, other = open_shards(), open_shards(num_reference=3)
    assert first.fingerprint != other.fingerprint and first.training_images == other.training_images
    assert (
        open_shards(image_size=24).training_images != first.training_images != open_shards(flip=False).training_images
    )
    next(iter(first.train_dataloader()))
    other.load_state_dict(first.state_dict())
    assert len(list(other.train_dataloader())) == len(first.train_dataloader()) - 1


def test_a_checkpoint_of_another_kind_of_data_resumes_from_an_epochs_end(open_shards):
    data = open_shards()
    state = {"epoch": 0, "batch": 8, "seed": 0, "num_rows": 32, "epoch_size": 32, "global_batch_size": 4, "images": "x"}
    data.load_state_dict({"train_loader": state})
    assert data.train_dataloader().batch_sampler.epoch == 0
    with refuses(ValueError, "checkpoint", "data.epoch_size", 32, 188, "world_size"):
        data.load_state_dict({"train_loader": {**state, "batch": 3}})


def test_transforms_are_drawn_only_where_there_are_any(open_shards):
    assert "draw" not in next(iter(open_shards().train_dataloader()))
    assert "draw" in next(iter(open_shards(augment=[v2.ColorJitter(0.1)]).train_dataloader()))


def test_rows_that_are_added_move_nobody(open_shards, shard_tables, tmp_path):
    fewer = open_shards(write(tmp_path, shard_tables[:3], 9))
    sides = dict(zip(fewer.manifest.ids, fewer.manifest.splits, strict=True))
    whole = open_shards().manifest
    assert sides.items() <= dict(zip(whole.ids, whole.splits, strict=True)).items() and set(sides.values()) == set(HALF)


def test_the_fingerprint_is_of_rows_and_of_images(open_shards, shard_tables, tmp_path):
    def fingerprint(name, change):
        root = write(tmp_path / name, [change(shard_tables[0])], 9)
        return open_shards(root, num_reference=1, num_val=1).fingerprint

    def another(table):  # of which none is in the samples
        cells = table["image"].to_pylist()
        cells[0], cells[1] = cells[1], cells[0]
        return table.set_column(0, "image", pa.array([*cells[:-1], cells[2]], table.schema.field("image").type))

    first = fingerprint("first", lambda table: table)
    assert fingerprint("again", lambda table: table) == first, "whatever the folder, and when it was written"
    assert fingerprint("label", lambda table: replace(table, "is_gc", -1, 3)) != first
    assert fingerprint("image", another) != first


def test_an_empty_split_says_what_to_set(open_shards):
    data = open_shards(fractions={"train": 1.0})
    with refuses(ValueError, "233 rows", "data.fractions.val"):
        data.val_dataloader()
    with refuses(ValueError, "split", "'none'", "train, val, test"):
        data.images("none")


def test_latents_are_refused(open_shards, tmp_path):
    data = open_shards()
    encode = lambda images: (images[:, :, ::4, ::4], images[:, :, ::4, ::4])  # noqa: E731
    cache = LatentCache.build(encode, data.images("train"), {"images": data.fingerprint}, tmp_path)
    with refuses(ValueError, "shards", "job.cache_latents=false"):
        data.attach_latents(cache)
    data.attach_latents(None)


def test_shards_are_a_source_like_others(shard_root, shard_tables):
    source = ShardSource(shard_root / "data")
    index = source.index()
    assert len(index) == 233 and index.paths[45] == "shard-00001-of-00006.parquet#5" and index.ids[45] == "00045"
    wanted = np.asarray(Image.open(io.BytesIO(shard_tables[1]["image"][5].as_py()["bytes"])))
    assert np.array_equal(source.read(index.paths[45], SIDE), wanted)
    assert source.read(index.paths[232], 16).shape == (16, 16, 3)
    assert (index.labels >= 0).all()


@pytest.mark.smoke
def test_a_job_trains_on_shards(shard_root, tmp_path):
    """`+exp=vae_train data=shards`, to its end."""
    words = ["+exp=vae_train", "data=shards", f"data.root={shard_root}", "output_dir=out", "data.image_size=16",
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
