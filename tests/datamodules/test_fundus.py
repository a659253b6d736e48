"""The datamodule: from a folder of photographs to batches, under the Trainer."""

import csv
import time

import numpy as np
import pytest
import torch
from fundus_training import HALVES, fit
from refusals import refuses

from datamodules.dataset import FundusDataset, Picks
from datamodules.findings import EYE_SIDE, NAMES
from datamodules.fundus import FundusDataModule
from datamodules.manifest import Manifest
from datamodules.sources.folder import FolderSource
from datamodules.sources.phantom import PhantomSource
from datamodules.splits import split_by_patient


def test_a_batch_is_what_was_promised(make, tmp_path):
    data = make()
    model = fit(data, tmp_path, max_epochs=2)
    for batch in model.batches:
        assert set(batch) == {"image", "labels", "id"}
        assert batch["image"].shape == (4, 3, 16, 16) and batch["image"].dtype == torch.float32
        assert batch["image"].is_contiguous() and batch["image"].min() >= 0 and 0.2 < batch["image"].max() <= 1
        assert batch["labels"].shape == (4, len(NAMES)) and batch["labels"].dtype == torch.int64
        assert all(isinstance(name, str) for name in batch["id"])
    assert model.val_ids == data.manifest.select("val").ids * 2


def test_pixels_and_eye_side_are_mirrored_together(make, tmp_path):
    data = make()
    stored = dict(zip(data.dataset("train").ids, np.asarray(data.images("train")), strict=True))
    sides = dict(zip(data.dataset("train").ids, data.labels("train")[:, EYE_SIDE].tolist(), strict=True))
    mirrored = 0
    for batch in fit(data, tmp_path, max_epochs=4).batches:
        for name, image, labels in zip(batch["id"], batch["image"], batch["labels"], strict=True):
            plain = torch.from_numpy(stored[name]).permute(2, 0, 1) / 255
            same, flipped = torch.equal(image, plain), torch.equal(image, plain.flip(-1))
            assert same != flipped
            assert labels[EYE_SIDE] == (sides[name] if same else 1 - sides[name])
            mirrored += flipped
    assert 10 < mirrored < 4 * len(stored) - 10


def test_no_flip_and_no_shuffle_where_none_is_wanted(make, tmp_path):
    data = make(flip=False)
    stored = dict(zip(data.dataset("train").ids, np.asarray(data.images("train")), strict=True))
    for batch in fit(data, tmp_path, max_epochs=1).batches:
        for name, image in zip(batch["id"], batch["image"], strict=True):
            assert torch.equal(image, torch.from_numpy(stored[name]).permute(2, 0, 1) / 255)
    first, second = fit(make(), tmp_path, max_epochs=2, overfit_batches=1).batches
    assert first["id"] == second["id"] == make().dataset("train").ids[:4]
    assert torch.equal(first["image"], second["image"])


def test_no_patient_is_on_two_sides_and_all_images_are_somewhere(make):
    data = make()
    sides = [set(data.manifest.select(split).patients) for split in ("train", "val", "test")]
    assert sum(map(len, sides)) == 12 == len(set.union(*sides))
    assert sum(len(data.dataset(split)) for split in ("train", "val", "test")) == 24
    assert data.manifest.splits == split_by_patient(data.source.index(), HALVES, 3).splits


def test_images_labels_and_manifest_are_in_the_same_order(make):
    data = make()
    for split in ("train", "val", "test"):
        part = data.manifest.select(split)
        assert data.dataset(split).ids == part.ids
        assert (data.labels(split).numpy() == part.labels).all()
        images = data.images(split)
        assert images.shape == (len(part), 16, 16, 3) and images.dtype == np.uint8
        for row, path in enumerate(part.paths):
            assert (images[row] == data.source.read(path, 16)).all()


def test_fingerprints_follow_what_they_are_of(make, photographs, save_photograph):
    plain = make()
    again, seeded, larger = make(), make(seed=1), make(image_size=24)
    assert (plain.fingerprint, plain.split_fingerprint) == (again.fingerprint, again.split_fingerprint)
    assert seeded.fingerprint == plain.fingerprint and seeded.split_fingerprint != plain.split_fingerprint
    assert larger.fingerprint != plain.fingerprint and larger.split_fingerprint == plain.split_fingerprint
    path = photographs / "P00_L.png"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    assert make().fingerprint == plain.fingerprint, "the same pixels in a new file are the same data"
    save_photograph(path, width=120, height=100, radius=46, seed=77)
    assert make().fingerprint != plain.fingerprint


def test_rejected_images_stop_the_run_unless_they_are_allowed(make, photographs, tmp_path):
    (photographs / "P03_L.png").write_bytes((photographs / "P03_L.png").read_bytes()[:500])
    (photographs / "P05_R.png").write_bytes(b"")
    with refuses(ValueError, "2 of 24", "data.max_rejected", "P03_L.png", "P05_R.png", "data.max_rejected=2"):
        make(max_rejected=1)
    data = make(max_rejected=2)
    assert len(data.manifest) == 22 and "P03_L.png" not in data.manifest.ids
    for split in ("train", "val", "test"):
        assert all(data.images(split)[:].max(axis=(1, 2, 3)) > 0)
    data.write_index(tmp_path / "out")
    assert Manifest.read(tmp_path / "out" / "manifest.parquet").fingerprint == data.manifest.fingerprint
    with open(tmp_path / "out" / "rejected.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["path"] for row in found] == ["P03_L.png", "P05_R.png"]
    assert found[0]["reason"].startswith("cannot be decoded")


def test_nothing_is_written_outside_the_cache(make, photographs, tmp_path):
    before = sorted(path for path in tmp_path.rglob("*") if "cache" not in path.parts[len(tmp_path.parts) :])
    data = make(ready=False)
    before = sorted(set(before) | {photographs / "labels.csv"})
    data.prepare_data()
    data.setup()
    assert sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "cache")) == before


def test_an_official_split_is_kept(make, photographs):
    text = (photographs / "labels.csv").read_text().splitlines()
    rows = [f"{row},{'test' if row.startswith('P00') else ''}" for row in text[1:]]
    (photographs / "labels.csv").write_text("\n".join([text[0] + ",split", *rows]))
    data = make(fractions={"train": 0.9, "val": 0.1})
    assert data.manifest.select("test").patients == ["P00", "P00"]


def test_an_official_split_holds_its_patient_even_if_its_image_is_rejected(make, photographs):
    """Else the other eye of a patient who is tested on would be trained on."""
    text = (photographs / "labels.csv").read_text().splitlines()
    rows = [f"{row},{'test' if row.startswith('P00_L') else ''}" for row in text[1:]]
    (photographs / "labels.csv").write_text("\n".join([text[0] + ",split", *rows]))
    (photographs / "P00_L.png").write_bytes(b"")
    data = make(fractions={"train": 0.9, "val": 0.1}, max_rejected=1)
    assert data.manifest.select("test").ids == ["P00_R.png"]
    assert data.preview()["splits"]["test"]["num_patients"] == 1


def test_an_empty_split_is_refused_only_when_it_is_used(make):
    data = make(fractions={"train": 1.0})
    assert len(data.dataset("train")) == 24
    with refuses(ValueError, "12 patients", {"train": 1.0}, "data.fractions.val"):
        data.val_dataloader()


def test_a_batch_larger_than_the_data_is_refused(make):
    with refuses(ValueError, "batch_size", 99, "16 training images", "data.batch_size"):
        make(batch_size=99).train_dataloader()


@pytest.mark.parametrize("option", ["image_size", "batch_size", "num_workers", "max_rejected"])
def test_settings_out_of_range_are_refused(make, option):
    with refuses(ValueError, f"data.{option}", -1):
        make(**{option: -1})


def test_setup_without_preparation_says_so(make):
    data = make(ready=False)
    with refuses(RuntimeError, "finished", "prepare_data()"):
        data.setup()
    with refuses(RuntimeError, "prepare_data()", "setup()"):
        data.describe()


def test_the_description_counts(make):
    described = make().describe()
    parts = described["splits"]
    assert described["num_images"] == 24 and described["num_patients"] == 12 and described["num_rejected"] == 0
    assert sum(part["num_images"] for part in parts.values()) == 24
    sides = [part["findings"]["eye_side"] for part in parts.values()]
    assert sum(side["left"] for side in sides) == sum(side["right"] for side in sides) == 12
    assert parts["train"]["findings"]["dr_grade"]["unknown"] == parts["train"]["num_images"]


def test_a_folder_and_phantoms_do_as_well(photographs, tmp_path):
    for source in (FolderSource(photographs), PhantomSource(num_images=24, seed=3)):
        data = FundusDataModule(source, image_size=32, batch_size=4, cache_dir=tmp_path / "cache", fractions=HALVES)
        data.prepare_data()
        data.setup()
        batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
        assert batch["image"].shape == (4, 3, 32, 32) and 0.2 < batch["image"].max() <= 1
    assert (data.labels("train") >= 0).all()


def test_phantoms_are_pairs_of_eyes_and_their_index_is_cheap(tmp_path):
    start = time.perf_counter()
    source = PhantomSource(num_images=2000, seed=1)
    manifest = source.index()
    assert time.perf_counter() - start < 5
    assert len(manifest) == 2000 and manifest.num_patients == 1000
    assert (manifest.labels[::2, EYE_SIDE] == 0).all() and (manifest.labels[1::2, EYE_SIDE] == 1).all()
    assert source.identity() != PhantomSource(num_images=2000, seed=2).identity()
    with refuses(ValueError, "num_images", 0):
        PhantomSource(num_images=0)


def test_epochs_from_the_cache_are_fast():
    stream = np.random.default_rng(0)
    images = stream.integers(0, 255, (4096, 64, 64, 3), dtype=np.uint8)
    labels = torch.full((4096, len(NAMES)), -1, dtype=torch.int64)
    dataset = FundusDataset(images, labels, [str(i) for i in range(4096)], np.arange(4096))
    start = time.perf_counter()
    for rows in np.split(stream.permutation(4096), 64):
        dataset[Picks(rows, np.zeros(64, dtype=bool))]
    assert time.perf_counter() - start < 1.0


def test_a_single_sample_is_a_sample(make):
    sample = make().dataset("train")[3]
    assert sample["image"].shape == (3, 16, 16) and sample["image"].dtype == torch.uint8
    assert sample["labels"].shape == (len(NAMES),) and sample["id"] == make().dataset("train").ids[3]


def test_a_share_of_the_training_patients(make):
    whole, part = make(), make(train_fraction=0.5)
    assert set(part.manifest.select("train").patients) < set(whole.manifest.select("train").patients)
    assert part.dataset("val").ids == whole.dataset("val").ids and part.fingerprint != whole.fingerprint
    for row, path in enumerate(part.manifest.select("train").paths):
        assert (part.images("train")[row] == part.source.read(path, 16)).all()
    with refuses(ValueError, "data.train_fraction", 0, "(0, 1]"):
        make(train_fraction=0)


def test_a_number_of_training_images_by_a_seed_of_its_own(make):
    whole, part, other = make(), make(num_train=3), make(num_train=3, seed=9, split_seed=make().split_seed)
    assert len(part.manifest.rows("train")) == 3 == len(part.images("train"))
    assert set(part.manifest.select("train").ids) < set(whole.manifest.select("train").ids)
    assert torch.equal(part.labels_of_all_training_patients(), whole.labels("train"))
    for split in ("val", "test"):
        assert part.dataset(split).ids == whole.dataset(split).ids == other.dataset(split).ids, "the split is the same"
    assert set(other.manifest.select("train").ids) <= set(whole.manifest.select("train").ids)
    assert make(seed=9).manifest.splits != whole.manifest.splits
    with refuses(ValueError, "data.num_train", 0, "null"):
        make(num_train=0)
    with refuses(ValueError, "data.num_train", 1000, len(whole.manifest.rows("train"))):
        make(num_train=1000)
