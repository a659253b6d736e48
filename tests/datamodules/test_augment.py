"""Rows of an array, and mirroring: image, mask and eye side together, by draws of their own."""

import numpy as np
import torch

from datamodules.augment import draw_flips, flip_batch
from datamodules.dataset import RowsOf
from datamodules.findings import EYE_SIDE, NAMES


def test_rows_of_an_array_are_read_as_they_are_asked_for():
    array = np.arange(10)
    view = RowsOf(array, np.array([7, 2, 5]))
    assert len(view) == 3 and view.shape == (3,)
    assert view[0] == 7 and view[1:].tolist() == [2, 5] and view[np.array([2, 0])].tolist() == [5, 7]
    assert view[np.array([True, False, True])].tolist() == [7, 5] and np.asarray(view).tolist() == [7, 2, 5]


def test_mirroring_takes_the_mask_along_and_leaves_unknown_unknown():
    labels = torch.full((3, len(NAMES)), -1)
    labels[:2, EYE_SIDE] = torch.tensor([0, 1])
    image, mask = torch.rand(3, 3, 4, 5), torch.arange(60).view(3, 4, 5)
    flip = torch.tensor([True, False, True])
    batch = flip_batch({"image": image, "mask": mask, "labels": labels, "flip": flip})
    assert torch.equal(batch["image"][0], image[0].flip(-1)) and torch.equal(batch["image"][1], image[1])
    assert torch.equal(batch["mask"][2], mask[2].flip(-1)) and torch.equal(batch["mask"][1], mask[1])
    assert batch["labels"][:, EYE_SIDE].tolist() == [1, 1, -1] and "flip" not in batch
    assert labels[:2, EYE_SIDE].tolist() == [0, 1], "the dataset's labels are not changed"


def test_draws_are_a_function_of_seed_and_epoch():
    torch.manual_seed(0)
    first = draw_flips(1000, 3, 4)
    assert (first == draw_flips(1000, 3, 4)).all() and 400 < first.sum() < 600
    assert (first != draw_flips(1000, 3, 5)).any() and (first != draw_flips(1000, 4, 4)).any()
