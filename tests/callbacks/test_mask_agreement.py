"""MaskAgreement and PairGrid: figures by hand, the ceiling, the table, the pictures."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refuses
from tiny_fit import TinyData, TinyModule, fit

from callbacks.mask_agreement import MaskAgreement
from callbacks.mask_outlines import OUTLINES, coloured
from callbacks.pair_grid import PairGrid, Pairs
from datamodules.errors import UserError

LEVELS = ("background", "left", "right")


class MaskedConditions:
    """Labels, and masks that are row % 3."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def mask(self, row):
        mask = torch.zeros(16, 16, dtype=torch.int64)
        mask[4:12, 2:6] = 1 if row % 3 != 1 else 0
        mask[4:12, 10:14] = 2 if row % 3 != 2 else 0
        return mask

    def __getitem__(self, rows):
        return {"labels": self.labels[rows], "mask": torch.stack([self.mask(int(row)) for row in rows])}


class MaskedData(TinyData):
    """Real images: red is bright where level 1 is, green where level 2 is, but for the first row of either."""

    def __init__(self):
        super().__init__(num_images=8, num_val=6)
        conditions = self.conditions("val")
        images, _ = self.parts["val"]
        for row in range(len(images)):
            images[row] = paint(conditions.mask(row), miss=1).permute(1, 2, 0)

    def conditions(self, split):
        return MaskedConditions(self.labels(split))


def paint(mask, miss=0):
    """uint8 [3, 16, 16]; `miss` rows of each structure are left out."""
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    image[0, 4 + miss :], image[1, 4 + miss :] = (200 * (mask == n)[4 + miss :].byte() for n in (1, 2))
    return image


class Obedient(TinyModule):
    """Paints what the mask asks for, less `miss` rows."""

    miss = 2

    def sample_pairs(self, condition, seeds, num_steps=None, guidance=None):
        images = torch.stack([paint(mask, self.miss) for mask in condition["mask"]]).float() / 255
        return Pairs(images, condition["mask"])


class Colours:
    """In the place of a segmenter."""

    def segment(self, images):
        return torch.where(images[:, 0] > 0.5, 1, torch.where(images[:, 1] > 0.5, 2, 0))


def agreement(tmp_path, segmenter=None, **settings):
    settings = {"num_images": 9, "batch_size": 4, "num_replicates": 20} | settings
    return MaskAgreement(segmenter or Colours(), LEVELS, output_dir=str(tmp_path), **settings)


def dice(miss):
    """Of a structure of 8 rows of which `miss` are not found; 1 where there is none of it."""
    return 2 * (8 - miss) / (16 - miss)


def test_figures_and_ceiling_by_hand(tmp_path):
    trainer, _ = fit(tmp_path, [agreement(tmp_path)], module=Obedient(), data=MaskedData(), max_epochs=2)
    found = {name: float(value) for name, value in trainer.callback_metrics.items() if "mask_dice" in name}
    shown = 2 / 3  # of the images a level is in
    for tag, miss in (("val/mask_dice_real", 1), ("val/mask_dice", 2)):
        for level in LEVELS[1:]:
            assert found[f"{tag}_{level}"] == pytest.approx(shown * dice(miss) + 1 - shown, abs=0.03)
        assert found[tag] == pytest.approx((found[f"{tag}_left"] + found[f"{tag}_right"]) / 2, abs=1e-6)
    with open(tmp_path / "mask_dice.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["level"]) for row in rows] == [
        (str(epoch), level) for epoch in (0, 1) for level in (*LEVELS[1:], "macro")
    ]
    assert all(float(row["low"]) <= float(row["dice"]) <= float(row["high"]) for row in rows)
    assert float(rows[-1]["real"]) == pytest.approx(found["val/mask_dice_real"], abs=1e-6)


def test_disobedience_shows(tmp_path):
    class Deaf(Obedient):
        miss = 12

    trainer, _ = fit(tmp_path, [agreement(tmp_path)], module=Deaf(), data=MaskedData(), max_epochs=1)
    assert float(trainer.callback_metrics["val/mask_dice"]) == pytest.approx(1 / 3, abs=0.03)


def test_without_a_segmenter_nothing_is_measured(tmp_path):
    silent = MaskAgreement(None, (), 9, 4, str(tmp_path))
    trainer, _ = fit(tmp_path, [silent], module=TinyModule(), data=TinyData(), max_epochs=1)
    assert not hasattr(silent, "tag") and not any("mask_dice" in name for name in trainer.callback_metrics)
    assert agreement(tmp_path).tag == "val/mask_dice" and agreement(tmp_path).mode == "max"


def test_what_is_missing_is_named(tmp_path):
    with refuses(UserError, "num_images is 0"):
        agreement(tmp_path, num_images=0)
    with refuses(UserError, "masks"):
        fit(tmp_path, [agreement(tmp_path)], module=Obedient(), data=TinyData(), max_epochs=1)
    with refuses(UserError, "sample_pairs"):
        fit(tmp_path, [agreement(tmp_path)], module=TinyModule(), data=MaskedData(), max_epochs=1)


def test_the_grid_has_a_column_a_mask_and_shows_where_it_lies(tmp_path):
    fit(tmp_path, [PairGrid(str(tmp_path), num_columns=3)], module=Obedient(), data=MaskedData(), max_epochs=1)
    picture = np.asarray(Image.open(tmp_path / "samples" / "pairs_epoch_0000.png"))
    for colour in OUTLINES[:2]:
        assert (picture == colour).all(axis=-1).any()
    levels = np.array([[0, 1], [2, 255]])
    assert [tuple(pixel) for pixel in coloured(levels).reshape(-1, 3)] == [(0, 0, 0), *OUTLINES[:2], (96, 96, 96)]


def test_a_grid_of_a_module_or_data_without_masks_is_none(tmp_path):
    class Images(Obedient):
        def sample_pairs(self, condition, seeds, num_steps=None, guidance=None):
            return Pairs(torch.zeros(len(seeds), 3, 16, 16), None)

    grid = PairGrid(str(tmp_path))
    for module, data in ((Images(), MaskedData()), (Obedient(), TinyData())):
        assert grid.sheet(data, module) is None
