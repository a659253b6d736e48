"""Transforms on the device: image and mask together, by draws that depend on seed, epoch and row alone."""

import lightning as L
import numpy as np
import pytest
import torch
from refusals import refuses
from torchvision.transforms import v2

from datamodules.augment import draw_numbers
from datamodules.fundus import FundusDataModule
from datamodules.loader import EpochBatches
from datamodules.sources.csv import CsvSource
from datamodules.sources.drive import DRIVE
from datamodules.transforms import Augmentation
from experiments.composition import compose_config

SIDE = 32


def batch_of(num=6, masked=True, start=0):
    """Images of random dots; the mask is 1 where the red is bright, and unknown in the last image."""
    stream = torch.Generator().manual_seed(1)
    image = torch.rand(num, 3, SIDE, SIDE, generator=stream).round()
    mask = (image[:, 0] > 0.5).long()
    mask[-1] = -1
    draw = torch.from_numpy(draw_numbers(np.arange(start, start + num), 3, 0))
    return {"image": image, "draw": draw, **({"mask": mask} if masked else {})}


@pytest.mark.parametrize(
    "transform",
    [v2.RandomRotation([90, 90]), v2.RandomVerticalFlip(1.0), v2.RandomAffine([0, 0], translate=[0.3, 0.3])],
    ids=["turned", "upside down", "shifted"],
)
def test_the_mask_moves_with_the_image(transform):
    before = batch_of()
    after = Augmentation([transform])(batch_of())
    assert "draw" not in after
    assert not torch.equal(after["image"], before["image"])
    assert torch.equal(after["mask"][:-1], (after["image"][:-1, 0] > 0.5).long())
    assert (after["mask"][-1] == -1).all(), "what is unknown stays unknown, also at the rim"
    assert after["image"].dtype == torch.float32 and after["mask"].dtype == torch.int64


def test_colours_leave_the_mask_alone_and_stay_in_range():
    before = batch_of()
    after = Augmentation([v2.ColorJitter(0.5, 0.5), v2.GaussianNoise(sigma=0.3, clip=False)])(batch_of())
    assert torch.equal(after["mask"], before["mask"]) and not torch.equal(after["image"], before["image"])
    assert after["image"].min() >= 0 and after["image"].max() <= 1 and after["image"].is_contiguous()


def test_draws_depend_on_the_row_and_not_on_the_batch_and_disturb_nobody():
    augmentation = Augmentation([v2.RandomRotation(40), v2.ColorJitter(0.5)])
    torch.manual_seed(5)
    whole = augmentation(batch_of(masked=False))["image"]
    undisturbed = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(undisturbed, torch.rand(3))
    parts = [{name: value[rows] for name, value in batch_of(masked=False).items()} for rows in ([4, 1], [0])]
    found = torch.cat([augmentation(part)["image"] for part in parts])
    assert torch.equal(found, whole[[4, 1, 0]])


def test_validation_batches_and_no_transforms_change_nothing():
    batch = batch_of()
    del batch["draw"]
    assert torch.equal(Augmentation([v2.RandomInvert(1.0)])(dict(batch))["image"], batch["image"])
    untouched = Augmentation([])(batch_of())
    assert torch.equal(untouched["image"], batch["image"]) and "draw" not in untouched


def test_numbers_of_draws_are_all_different():
    rows = np.arange(100_000)
    numbers = [draw_numbers(rows, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len(np.unique(np.concatenate(numbers))) == 300_000
    assert all((found >= 0).all() for found in numbers)
    assert np.array_equal(draw_numbers(rows[[7, 3]], 0, 1), numbers[1][[7, 3]])


@pytest.mark.parametrize("options", [{}, {"epoch_size": 40}, {"weights": np.full(16, 1 / 16)}])
def test_a_row_has_another_draw_each_time_it_comes(options):
    batches = EpochBatches(16, 4, shuffle=True, drop_last=True, draw=True, **options)
    numbers = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        numbers += [number for picks in batches for number in picks.draws.tolist()]
    assert len(set(numbers)) == len(numbers) >= 48
    assert next(iter(EpochBatches(16, 4))).draws is None


class Watch(L.LightningModule):
    """Keeps the training batches it is given."""

    def __init__(self):
        super().__init__()
        self.layer, self.batches = torch.nn.Linear(1, 1), []

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        self.val = batch["image"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data, tmp_path, max_epochs, ckpt_path=None):
    model = Watch()
    trainer = L.Trainer(default_root_dir=tmp_path, max_epochs=max_epochs, accelerator="cpu", logger=False,
                        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
                        enable_checkpointing=False)  # fmt: skip
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    trainer.save_checkpoint(tmp_path / f"{max_epochs}.ckpt")
    return model


@pytest.fixture
def make(photographs, tmp_path):
    rows = [f"{path.name},{path.name[:3]}" for path in sorted(photographs.iterdir())]
    (photographs / "labels.csv").write_text("\n".join(["path,patient", *rows]))

    def make(**options):
        plain = {"image_size": 16, "batch_size": 4, "cache_dir": tmp_path / "cache", "seed": 3,
                 "fractions": {"train": 0.5, "val": 0.5}}  # fmt: skip
        return FundusDataModule(CsvSource(photographs, "labels.csv"), **{**plain, **options})

    return make


def test_a_resumed_run_sees_the_same_transforms(make, tmp_path):
    augment = [v2.RandomRotation(30), v2.ColorJitter(0.3)]
    whole = fit(make(augment=augment), tmp_path, 2).batches
    first = fit(make(augment=augment), tmp_path, 1)
    resumed = fit(make(augment=augment), tmp_path, 2, tmp_path / "1.ckpt").batches
    assert len(first.batches) + len(resumed) == len(whole)
    for batch, expected in zip([*first.batches, *resumed], whole, strict=True):
        assert set(batch) == {"image", "labels", "id"}
        assert batch["id"] == expected["id"] and torch.equal(batch["image"], expected["image"])
    plain = fit(make(), tmp_path, 1)
    assert plain.batches[0]["id"] == whole[0]["id"]
    assert not torch.equal(plain.batches[0]["image"], whole[0]["image"])
    assert torch.equal(plain.val, first.val), "validation images are as they are"


def test_latents_that_were_cached_and_transforms_exclude_each_other(make):
    with refuses(ValueError, "data.augment", "job.cache_latents=false", "augment=none"):
        make(augment=[v2.RandomRotation(5)]).attach_latents(object())


def test_what_cannot_be_is_refused():
    with refuses(ValueError, "RandomHorizontalFlip", "data.flip=true"):
        Augmentation([v2.RandomHorizontalFlip()])
    with refuses(ValueError, "RandomHorizontalFlip", "data.flip=true"):
        Augmentation([v2.Compose([v2.RandomApply([v2.RandomHorizontalFlip()])])])
    with refuses(ValueError, "data.augment", 7, "torchvision.transforms.v2"):
        Augmentation([7])
    with refuses(ValueError, "RandomCrop", [3, 8, 8], [3, 32, 32]):
        Augmentation([v2.RandomCrop(8)])(batch_of())


@pytest.mark.parametrize("option", ["geometry", "camera"])
def test_the_options_are_transforms(option, tmp_path):
    from hydra.utils import instantiate

    cfg = compose_config(["+exp=vae_train", f"augment={option}", f"cache_dir={tmp_path}"])
    augmentation = instantiate(cfg.data.module).augmentation
    after = augmentation(batch_of())
    assert augmentation and not torch.equal(after["image"], batch_of()["image"])


def test_vessels_of_a_real_photograph_stay_under_their_mask(shared_data):
    """After turning, the green of DRIVE is as dark under the mask of the vessels as it was before."""
    root = shared_data / "DRIVE"
    source = DRIVE(root)
    table = source.index().table
    path, mask = (table.column(name)[0].as_py() for name in ("path", "mask"))
    image = torch.from_numpy(source.read(path, 256)).permute(2, 0, 1)[None] / 255
    levels = torch.from_numpy(source.read_mask(path, mask, 256)).long()[None]

    def contrast(batch):
        green, vessel = batch["image"][0, 1], batch["mask"][0] == 1
        near = torch.nn.functional.max_pool2d(vessel[None].float(), 9, 1, 4)[0].bool() & ~vessel
        return float(green[near].mean() - green[vessel].mean())

    before = contrast({"image": image, "mask": levels})
    turned = Augmentation([v2.RandomRotation([25, 25], interpolation=v2.InterpolationMode.BILINEAR)])
    after = turned({"image": image, "mask": levels, "draw": torch.tensor([1])})
    assert contrast(after) > 0.7 * before > 0.01, "interpolation softens thin vessels a little"
    assert contrast({"image": after["image"], "mask": levels}) < 0.1 * before, "another place is not as dark"
