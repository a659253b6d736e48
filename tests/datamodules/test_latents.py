"""Cached latents: both orientations, resumable, and refused when they are of something else."""

import errno
import os

import lightning as L
import numpy as np
import pytest
import torch
from refusals import refuses

from datamodules import latents as latents_module
from datamodules.cache import CacheError
from datamodules.dataset import Picks
from datamodules.findings import EYE_SIDE
from datamodules.fundus import FundusDataModule
from datamodules.latents import LatentCache, LatentDataset, latent_folder
from datamodules.sources.csv import CsvSource


class Encoder:
    """Mean: pixels averaged over 4 x 4 cells; deviation: a tenth of it. Counts its images; fails after a number."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.count, self.fail_after = 0, fail_after

    def __call__(self, images):
        assert images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1
        self.count += len(images)
        if self.fail_after is not None and self.count > self.fail_after:
            raise KeyboardInterrupt
        mean = torch.nn.functional.avg_pool2d(images, 4)
        return mean, mean / 10


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)


def pooled(images):
    return images.reshape(-1, 4, 4, 4, 4, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2) / 255


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-6), ("float16", 1e-3)])
def test_both_orientations_are_kept_with_mean_and_deviation(tmp_path, images, dtype, atol):
    cache = LatentCache.build(Encoder(), images, "f", tmp_path, batch_size=3, dtype=dtype)
    assert cache.latents.shape == (10, 2, 2, 3, 4, 4) and cache.latents.dtype == dtype and len(cache) == 10
    assert np.allclose(cache.latents[:, 0, 0], pooled(images), atol=atol)
    assert np.allclose(cache.latents[:, 1, 0], pooled(images[:, :, ::-1]), atol=atol)
    assert np.allclose(cache.latents[:, :, 1], cache.latents[:, :, 0] / 10, atol=atol)


def test_two_processes_may_begin_at_once(tmp_path, images, monkeypatch):
    """Both found no cache; the one that is late must not take away what the first has done."""
    folder = latent_folder("f", "float32", tmp_path)
    rename = latents_module.os.rename

    def late(fresh, target):
        monkeypatch.setattr(latents_module.os, "rename", rename)
        first = LatentCache.build(Encoder(), images, "f", tmp_path)
        assert first.latents[9].any()
        rename(fresh, target)

    monkeypatch.setattr(latents_module.os, "rename", late)
    encoder = Encoder()
    cache = LatentCache.build(encoder, images, "f", tmp_path)
    assert np.allclose(cache.latents[:, 0, 0], pooled(images), atol=1e-6)
    assert encoder.count <= 2, "what the first has done is done again"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_an_interrupted_build_goes_on(tmp_path, images, capfd):
    with pytest.raises(KeyboardInterrupt):
        LatentCache.build(Encoder(fail_after=14), images, "f", tmp_path, batch_size=2)
    with refuses(CacheError, latent_folder("f", "float32", tmp_path), "of 10"):
        LatentCache(latent_folder("f", "float32", tmp_path), "f")
    encoder = Encoder()
    cache = LatentCache.build(encoder, images, "f", tmp_path, batch_size=2)
    assert np.allclose(cache.latents[:, 0, 0], pooled(images), atol=1e-6)
    assert encoder.count <= 2 + 12, "rows that were done are encoded again"
    assert "10/10" in capfd.readouterr().err
    encoder = Encoder()
    LatentCache.build(encoder, images, "f", tmp_path)
    assert encoder.count == 2, "only one image, to learn the shape"


@pytest.mark.parametrize("link", ["", "latents.bin", "done.bin"])
def test_an_unfinished_cache_that_is_a_link_or_holds_one_is_not_written_through(tmp_path, images, link):
    folder = LatentCache.build(Encoder(), images, "f", tmp_path).folder
    mine = (folder / link).rename(tmp_path / "mine")
    (folder / link).symlink_to(mine)
    assert len(LatentCache.build(Encoder(), images, "f", tmp_path)) == 10, "a finished one may lie elsewhere"
    done = (folder / "done.bin").resolve()
    done.write_bytes(bytes(10))
    with refuses(ValueError, folder / link, repr(str(mine))):
        LatentCache.build(Encoder(), images, "f", tmp_path)
    assert done.read_bytes() == bytes(10)


def test_a_row_is_done_only_when_it_is_on_the_disk(tmp_path, images, monkeypatch):
    fsync = os.fsync

    def fail(number):
        if os.readlink(f"/proc/self/fd/{number}").endswith(latents_module.LATENTS):
            raise OSError(errno.EIO, "the disk is ill")
        fsync(number)

    monkeypatch.setattr(latents_module.os, "fsync", fail)
    with refuses(OSError, "the disk is ill"):
        LatentCache.build(Encoder(), images, "f", tmp_path, batch_size=4)
    assert not np.fromfile(latent_folder("f", "float32", tmp_path) / latents_module.DONE, dtype=np.uint8).any()
    monkeypatch.undo()
    cache = LatentCache.build(Encoder(), images, "f", tmp_path, batch_size=4)
    assert np.allclose(cache.latents[:, 0, 0], pooled(images), atol=1e-6)


def test_a_mismatch_is_refused(tmp_path, images):
    cache = LatentCache.build(Encoder(), images, {"images": "a", "autoencoder": "b"}, tmp_path)
    assert latent_folder("x", "float32", tmp_path) != latent_folder("y", "float32", tmp_path)
    assert latent_folder("x", "float32", tmp_path) != latent_folder("x", "float16", tmp_path)
    with refuses(CacheError, cache.folder, "'autoencoder': 'b'", "'autoencoder': 'c'"):
        LatentCache(cache.folder, {"images": "a", "autoencoder": "c"})
    with refuses(CacheError, tmp_path / "none", "build"):
        LatentCache(tmp_path / "none", "a")
    with refuses(CacheError, cache.folder, [10, 2, 2, 3, 4, 4], [4, 2, 2, 3, 4, 4]):
        LatentCache.build(Encoder(), images[:4], {"images": "a", "autoencoder": "b"}, tmp_path)


DESCRIPTIONS = {
    "empty": "", "cut": '{"depends_on": {"fing', "a list": "[]", "no shape": '{"depends_on": {}, "dtype": "float32"}',
    "text for a shape": '{"depends_on": {}, "shape": "10", "dtype": "float32"}',
    "another dtype": '{"depends_on": {}, "shape": [10, 2, 2, 3, 4, 4], "dtype": "object"}',
    "two sizes": '{"depends_on": {}, "shape": [10, 2], "dtype": "float32"}',
}  # fmt: skip


@pytest.mark.parametrize("name", [*DESCRIPTIONS, "latents", "done", "no latents"])
def test_a_damaged_cache_names_the_folder_to_delete(tmp_path, images, name):
    folder = LatentCache.build(Encoder(), images, "f", tmp_path).folder
    if name in DESCRIPTIONS:
        (folder / latents_module.DESCRIPTION).write_text(DESCRIPTIONS[name])
    elif name == "no latents":
        (folder / latents_module.LATENTS).unlink()
    else:
        path = folder / {"latents": latents_module.LATENTS, "done": latents_module.DONE}[name]
        path.write_bytes(path.read_bytes()[:-1])
    for make in (lambda: LatentCache(folder, "f"), lambda: LatentCache.build(Encoder(), images, "f", tmp_path)):
        with refuses(CacheError, repr(str(folder)), "delete", "anew"):
            make()


def test_rows_whose_mark_is_flipped_are_made_again(tmp_path, images):
    cache = LatentCache.build(Encoder(), images, "f", tmp_path)
    done = np.fromfile(cache.folder / latents_module.DONE, dtype=np.uint8)
    done[[2, 5]] = 0, 77
    done.tofile(cache.folder / latents_module.DONE)
    with refuses(CacheError, cache.folder, "8 of 10"):
        LatentCache(cache.folder, "f")
    again = Encoder()
    LatentCache.build(again, images, "f", tmp_path)
    assert again.count == 2 * (1 + 2), "the first, which tells the shape, and two; each mirrored too"


def test_wrong_latents_are_refused(tmp_path, images):
    with refuses(ValueError, "dtype", "'bfloat16'", "float32, float16"):
        LatentCache.build(Encoder(), images, "f", tmp_path, dtype="bfloat16")
    with refuses(ValueError, "latent", "finite"):
        LatentCache.build(lambda x: (x / 0, x), images, "f", tmp_path)
    with refuses(ValueError, "[B, C, h, w]", [1, 2, 2, 16, 16]):
        LatentCache.build(lambda x: (x[:, 0], x[:, 0]), images, "f", tmp_path)


def test_too_little_space_is_said_before_encoding(tmp_path, images, monkeypatch):
    monkeypatch.setattr(latents_module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 99}))
    with refuses(CacheError, "7,680", 99, "cache_dir="):
        LatentCache.build(Encoder(), images, "f", tmp_path)


@pytest.fixture
def data(photographs, tmp_path):
    rows = [f"{path.name},{path.name[:3]},{int('_L' in path.name)}" for path in sorted(photographs.iterdir())]
    (photographs / "labels.csv").write_text("\n".join(["path,patient,eye_side", *rows]))
    source = CsvSource(photographs, "labels.csv")
    fractions = {"train": 0.5, "val": 0.25, "test": 0.25}
    options = {"image_size": 16, "batch_size": 4, "cache_dir": tmp_path / "cache", "seed": 3}
    data = FundusDataModule(source, fractions=fractions, **options)
    data.prepare_data()
    data.setup()
    return data


def test_training_on_latents_sees_what_training_on_images_sees(data, tmp_path):
    """The same rows in the same order, mirrored in the same places, with the same labels."""

    def batches():
        loader = data.train_dataloader()
        loader.set_epoch(3)
        return [data.on_after_batch_transfer(batch, 0) for batch in loader]

    from_images = batches()
    cache = LatentCache.build(Encoder(), data.images("train"), {"images": data.fingerprint}, tmp_path)
    data.attach_latents(cache)
    from_latents = batches()
    assert len(from_latents) == len(from_images) >= 2
    for latent, image in zip(from_latents, from_images, strict=True):
        assert set(latent) == {"latent_mean", "latent_std", "labels", "id"}
        assert latent["id"] == image["id"] and torch.equal(latent["labels"], image["labels"])
        assert latent["latent_mean"].dtype == torch.float32
        assert torch.allclose(latent["latent_mean"], Encoder()(image["image"])[0], atol=1e-6)
        assert torch.allclose(latent["latent_std"], latent["latent_mean"] / 10)
    assert "image" in next(iter(data.val_dataloader()))
    data.attach_latents(None)
    assert "image" in next(iter(data.train_dataloader()))


def test_latents_go_through_the_trainer(data, tmp_path):
    class Model(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = torch.nn.Linear(1, 1), []

        def training_step(self, batch, batch_idx):
            self.seen.append(batch["latent_mean"].shape)
            return self.layer(torch.ones(1, 1)).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data.attach_latents(LatentCache.build(Encoder(), data.images("train"), {"images": data.fingerprint}, tmp_path))
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    model = Model()
    L.Trainer(accelerator="cpu", max_epochs=1, limit_val_batches=0, default_root_dir=tmp_path, **quiet).fit(model, data)
    assert set(model.seen) == {(4, 3, 4, 4)}


def test_latents_of_other_images_are_not_attached(data, tmp_path):
    here = {"images": data.fingerprint, "split": data.split_fingerprint}
    for there, shown in (
        ({**here, "images": "of others"}, "'images': 'of others'"),
        ({**here, "split": "of others"}, "'split': 'of others'"),
        ("f", "'images': None"),
        ({"split": here["split"]}, "'images': None"),
    ):
        cache = LatentCache.build(Encoder(), data.images("train"), there, tmp_path)
        with refuses(ValueError, cache.folder, shown, here):
            data.attach_latents(cache)
    too_few = LatentCache.build(Encoder(), data.images("train")[:3], here, tmp_path)
    with refuses(ValueError, too_few.folder, "3 images", 16):
        data.attach_latents(too_few)
    data.attach_latents(LatentCache.build(Encoder(), data.images("train"), {**here, "autoencoder": "a"}, tmp_path))


def test_a_mirrored_row_has_its_eye_changed_and_a_plain_one_not(data, tmp_path):
    cache = LatentCache.build(Encoder(), data.images("train"), "f", tmp_path)
    dataset = LatentDataset(cache, data.dataset("train"))
    flips = np.array([True, False])
    batch = dataset[Picks(np.array([1, 1]), flips)]
    plain = data.labels("train")[1, EYE_SIDE].item()
    assert batch["labels"][:, EYE_SIDE].tolist() == [1 - plain, plain]
    sample = dataset[1]
    assert torch.equal(sample["latent_mean"], batch["latent_mean"][1]) and len(dataset) == len(data.dataset("train"))
