"""Metrics of masks against slow ones that are written from the definitions, on random masks and on awkward ones."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from skimage.measure import euler_number, regionprops
from skimage.metrics import hausdorff_distance
from skimage.morphology import skeletonize

from callbacks.metrics.estimate import to_json
from callbacks.metrics.segmentation import (
    BETTER,
    THRESHOLDS,
    MaskShape,
    best_threshold,
    centreline_dice,
    compare_masks,
    dice_by_threshold,
    hausdorff95,
    iou_of,
)
from callbacks.metrics.segmentation_evaluation import evaluate_masks
from datamodules.errors import UserError
from tests.refusals import refuses

SHAPE = (24, 31)


def blobs(seed: int, share: float) -> np.ndarray:
    """A mask of several pieces, bool [H, W]."""
    noise = np.random.default_rng(seed).random((SHAPE[0] + 4, SHAPE[1] + 4))
    smooth = sum(noise[y : y + SHAPE[0], x : x + SHAPE[1]] for y in range(5) for x in range(5))
    return smooth > np.quantile(smooth, 1 - share)


def single(row: int, column: int) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[row, column] = True
    return mask


MASKS = {
    "empty": np.zeros(SHAPE, dtype=bool),
    "whole": np.ones(SHAPE, dtype=bool),
    "a pixel": single(3, 4),
    "a corner": single(0, 30),
    "pieces": blobs(0, 0.2),
    "other pieces": blobs(1, 0.4),
    "many pieces": np.random.default_rng(2).random(SHAPE) > 0.7,
    "a line": np.pad(np.ones((1, 20), bool), ((10, 13), (5, 6))),
}
PAIRS = [(one, other) for one in MASKS for other in MASKS]


def slow_boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of the mask with one of their four neighbours outside of it, or outside of the image; [n, 2]."""
    padded = np.pad(mask, 1)
    return np.array(
        [
            (y, x)
            for y, x in np.argwhere(mask)
            if not all(padded[y + 1 + dy, x + 1 + dx] for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)))
        ]
    ).reshape(-1, 2)


def slow_hausdorff(found: np.ndarray, drawn: np.ndarray, percentile: float) -> float:
    """As MONAI has it: of each direction the percentile of the distances to the other boundary, then the greater."""
    if not found.any() or not drawn.any():
        return 0.0 if found.any() == drawn.any() else float(np.hypot(*SHAPE))
    distances = cdist(slow_boundary(found), slow_boundary(drawn))
    return max(np.percentile(distances.min(axis=axis), percentile) for axis in (0, 1))


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_every_metric_is_that_of_its_definition(one, other):
    found, drawn = MASKS[one], MASKS[other]
    pixels = [set(map(tuple, np.argwhere(mask))) for mask in (found, drawn)]
    both, either = pixels[0] & pixels[1], pixels[0] | pixels[1]
    metrics = compare_masks(found, drawn, is_thin=True)
    assert metrics.keys() == BETTER.keys()
    assert metrics["dice"] == pytest.approx(2 * len(both) / (len(pixels[0]) + len(pixels[1])) if either else 1)
    assert metrics["iou"] == pytest.approx(len(both) / len(either) if either else 1)
    assert metrics["hd95"] == pytest.approx(slow_hausdorff(found, drawn, 95))
    assert metrics["hd95_percent"] == pytest.approx(100 * metrics["hd95"] / np.hypot(*SHAPE))
    assert metrics["hd95"] == pytest.approx(hausdorff95(drawn, found)), "the same in both directions"


def test_a_mask_without_the_other_is_as_bad_as_can_be_and_two_empty_ones_are_equal():
    empty, pixel = MASKS["empty"], MASKS["a pixel"]
    assert compare_masks(empty, empty, True) == {"dice": 1, "iou": 1, "hd95": 0, "hd95_percent": 0, "cldice": 1}
    worst = {"dice": 0, "iou": 0, "hd95": np.hypot(*SHAPE), "hd95_percent": 100, "cldice": 0}
    assert compare_masks(empty, pixel, True) == pytest.approx(worst)
    assert compare_masks(pixel, empty, True) == pytest.approx(worst)
    assert "cldice" not in compare_masks(pixel, pixel)


def test_the_distance_without_a_percentile_is_that_of_scikit_image(monkeypatch):
    """The percentile is what differs from the distance of Hausdorff."""
    monkeypatch.setattr(np, "percentile", lambda values, _: values.max())
    for one, other in PAIRS:
        found, drawn = MASKS[one], MASKS[other]
        if found.any() and drawn.any():
            borders = [np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)]
            for border, mask in zip(borders, (found, drawn), strict=True):
                border[tuple(slow_boundary(mask).T)] = True
            assert hausdorff95(found, drawn) == pytest.approx(hausdorff_distance(*borders))


def test_centreline_dice_by_hand():
    """A broad vessel against the same one beside a false one: all of the line is found, half of what is found."""
    drawn = np.zeros((40, 60), bool)
    drawn[10:15, 5:55] = True
    found = drawn.copy()
    found[28:33, 5:55] = True
    lines = [skeletonize(mask) for mask in (found, drawn)]
    precision, sensitivity = (lines[0] & drawn).sum() / lines[0].sum(), (lines[1] & found).sum() / lines[1].sum()
    assert (precision, sensitivity) == pytest.approx((0.5, 1.0))
    assert centreline_dice(found, drawn) == pytest.approx(2 / 3)
    thin = np.zeros_like(drawn)
    thin[12, 5:55] = True
    assert centreline_dice(thin, drawn) > 0.97, "width does not count, but for the skeleton's ends"
    assert centreline_dice(np.roll(thin, 20, axis=0), drawn) == 0.0


def random_levels(num_levels: int, unknown: float, seed: int):
    stream = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(5, num_levels, *SHAPE, generator=stream).mul(3).softmax(dim=1)
    probabilities[..., :3] = torch.tensor([0.5, *[0.5 / (num_levels - 1)] * (num_levels - 1)]).view(1, -1, 1, 1)
    masks = torch.randint(0, num_levels, (5, *SHAPE), generator=stream)
    masks[torch.rand(masks.shape, generator=stream) < unknown] = -1
    masks[1] = 0
    masks[2] = -1
    return probabilities, masks


@pytest.mark.parametrize(("num_levels", "unknown"), [(2, 0.0), (2, 0.3), (4, 0.3)])
def test_dice_at_every_threshold_is_that_of_the_mask_which_the_threshold_gives(num_levels, unknown):
    probabilities, masks = random_levels(num_levels, unknown, seed=num_levels)
    dice = dice_by_threshold(probabilities, masks)
    assert dice.shape == (5, len(THRESHOLDS), num_levels - 1) and np.isnan(dice[2]).all()
    for place, threshold in enumerate(torch.tensor(THRESHOLDS)):
        shows = 1 - probabilities[:, 0] >= threshold
        levels = torch.where(shows, 1 + probabilities[:, 1:].argmax(dim=1), 0)
        for image in (0, 1, 3, 4):
            known = (masks[image] >= 0).numpy()
            for level in range(1, num_levels):
                found = (levels[image] == level).numpy() & known
                wanted = compare_masks(found, (masks[image] == level).numpy())
                assert dice[image, place, level - 1] == pytest.approx(wanted["dice"])
                assert iou_of(dice[image, place, level - 1]) == pytest.approx(wanted["iou"])


def test_the_best_threshold_is_that_of_the_greatest_mean_and_of_equal_ones_the_middle():
    dice = np.full((3, len(THRESHOLDS), 1), 0.5)
    assert THRESHOLDS[best_threshold(dice)] == 0.5
    dice[0, 3] = 0.6
    assert best_threshold(dice) == 3
    dice[1, 7] = 0.9
    dice[2] = np.nan  # no pixel of it is known
    assert best_threshold(dice) == 7
    assert THRESHOLDS[best_threshold(np.full_like(dice, np.nan))] == 0.5


@pytest.mark.parametrize("name", MASKS)
def test_shape_of_a_mask(name):
    mask = MASKS[name]
    shape = MaskShape.of(mask)
    assert shape.area == mask.sum()
    left, pieces = set(map(tuple, np.argwhere(mask).tolist())), []
    while left:  # flood from any pixel that is left
        edge = [left.pop()]
        piece = list(edge)
        while edge:
            y, x = edge.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
            piece += near
        pieces.append(np.mean(piece, axis=0))
    assert shape.num_components == len(pieces)
    np.testing.assert_allclose(sorted(map(tuple, shape.centroids)), sorted(map(tuple, pieces)))
    found = regionprops(mask.astype(np.uint8))
    assert shape.perimeter == pytest.approx(found[0].perimeter if found else 0)
    assert shape.num_components >= euler_number(mask, connectivity=2), "less its holes"


def test_perimeter_of_a_square_is_the_length_of_its_side_four_times():
    mask = np.zeros((40, 40), bool)
    mask[5:25, 5:25] = True
    assert MaskShape.of(mask).perimeter == pytest.approx(4 * 19)


def test_means_over_images_with_intervals_over_patients():
    figures = {
        "disc": {"dice": np.array([1.0, 0.5, 0.0, np.nan]), "hd95": np.array([0.0, 4.0, 8.0, np.nan])},
        "vessel": {"dice": np.array([0.4, 0.4, 0.4, np.nan]), "cldice": np.array([0.1, 0.2, 0.3, np.nan])},
    }
    is_drawn = {"disc": np.array([True, True, False, False]), "vessel": np.array([False, False, False, False])}
    found = evaluate_masks(figures, is_drawn, ["a", "a", "b", "c"], num_replicates=200, seed=0)
    disc = found["disc"]["dice"]
    assert (disc.value, disc.num_images, disc.num_patients, disc.num_positive) == (0.5, 3, 2, 2)
    assert disc.low == 0.0 and disc.high == pytest.approx(0.75), "one patient drawn twice"
    assert {name: one.better for name, one in found["disc"].items()} == {"dice": "max", "hd95": "min"}
    assert found["vessel"]["dice"].value == pytest.approx(0.4) and found["vessel"]["dice"].num_positive == 0
    assert found["macro"]["dice"].value == pytest.approx(0.45)
    assert found["macro"]["cldice"].value == pytest.approx(0.2), "over the levels that have it"
    assert to_json(found)["disc"]["dice"]["value"] == 0.5


def test_more_figures_than_patients_are_refused():
    with refuses(UserError, "dice", "disc", 2, 1):
        evaluate_masks({"disc": {"dice": np.ones(2)}}, {"disc": np.ones(2, bool)}, ["a"])
