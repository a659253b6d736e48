"""Shapes of masks over sets: closed forms of discs and rectangles, distances that see shifts and scales, intervals."""

import numpy as np
import pytest
import torch

from callbacks.metrics.fidelity import fidelity, is_worse, told_apart
from callbacks.metrics.mask_shapes import PROPERTIES, columns, distances, moments, properties_of

LEVELS = ("background", "optic disc", "cup")
SIZE = 64


def rectangle(top=10, left=20, height=16, width=8, level=1):
    mask = np.zeros((SIZE, SIZE), dtype=np.int64)
    mask[top : top + height, left : left + width] = level
    return mask


def masks(num, seed=0, row=24.0, scale=1.0):
    """Rectangles about (row, 20) of random size and place; every fourth is empty."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(num):
        top, left = draw.normal(row, 3), draw.normal(20, 3)
        height, width = scale * draw.uniform(8, 16), scale * draw.uniform(8, 16)
        empty = number % 4 == 3
        found.append(rectangle(round(top), round(left), 0 if empty else round(height), round(width)))
    return np.stack([properties_of(mask, 2) for mask in found])


def compared(real, other):
    own = [[f"image {row}" for row in range(len(side))] for side in (real, other)]
    rows = [torch.from_numpy(side) for side in (real, other)]
    return fidelity(rows[0], own[0], rows[1], own[1], 10, 0, distances(("background", "polyp")))


def test_a_rectangle_by_hand():
    mask = rectangle()
    mask[40:42, 40:42] = 2
    mask[50:52, 40:42] = 2
    found = dict(zip(columns(LEVELS), properties_of(mask, 3), strict=True))
    assert found["presence_optic_disc"] == found["presence_cup"] == 1
    assert found["area_optic_disc"] == 16 * 8 / SIZE**2 and found["area_cup"] == 8 / SIZE**2
    assert found["perimeter_optic_disc"] == pytest.approx((2 * 15 + 2 * 7) / SIZE)  # along the centres of the pixels
    assert found["num_components_optic_disc"] == 1 and found["num_components_cup"] == 2
    assert found["row_optic_disc"] == 18 / SIZE and found["column_optic_disc"] == 24 / SIZE
    assert found["row_cup"] == 46 / SIZE and found["column_cup"] == 41 / SIZE


def test_what_is_not_shown_has_no_size_and_what_is_unknown_has_nothing():
    found = properties_of(rectangle(), 3).reshape(2, len(PROPERTIES))
    assert found[1, 0] == 0 and np.isnan(found[1, 1:]).all()
    assert np.isnan(properties_of(np.full((SIZE, SIZE), -1), 3)).all()


def test_moments_by_hand():
    values = np.full((5, len(PROPERTIES)), np.nan)
    values[:4, 0] = 1, 1, 1, 0
    values[:3, 1] = 0.1, 0.2, 0.6
    found = moments(values, ("background", "polyp"), list("abcde"), 200, seed=1)
    assert found["presence_polyp_mean"].value == 0.75 and found["presence_polyp_mean"].num_images == 4
    assert found["area_polyp_mean"].value == pytest.approx(0.3) and found["area_polyp_mean"].num_images == 3
    assert found["area_polyp_deviation"].value == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    assert "presence_polyp_deviation" not in found and found["area_polyp_mean"].better is None
    assert np.isnan(found["row_polyp_mean"].value)


def test_intervals_are_over_patients_and_cover():
    draw, hits = np.random.default_rng(0), {"mean": [], "deviation": []}
    for seed in range(80):
        values = np.full((60, len(PROPERTIES)), np.nan)
        values[:, 1] = draw.normal(0.3, 0.1, 30).repeat(2)  # two equal images a patient
        found = moments(values, ("background", "polyp"), [f"p{row // 2}" for row in range(60)], 200, seed)
        for what, wanted in (("mean", 0.3), ("deviation", 0.1)):
            one = found[f"area_polyp_{what}"]
            hits[what].append(one.low <= wanted <= one.high)
    assert np.mean(hits["mean"]) > 0.85 and np.mean(hits["deviation"]) > 0.75


def test_the_same_law_is_near_the_floor():
    for sides in compared(masks(160), masks(160, seed=1)).values():
        assert not told_apart(sides["other"], sides["floor"]), sides["other"].name
        assert sides["other"].better == "min"


def test_a_shift_is_seen_in_the_row_alone_and_by_its_length():
    found = compared(masks(160), masks(160, seed=1, row=32.0))
    row = found["wasserstein_row_polyp"]
    assert row["other"].value == pytest.approx(8 / SIZE, abs=1.5 / SIZE) and told_apart(row["other"], row["floor"])
    for name in ("area", "perimeter", "num_components", "column", "presence"):
        assert not told_apart(*found[f"wasserstein_{name}_polyp"].values()), name


def test_a_scale_is_seen_in_area_and_perimeter():
    found = compared(masks(160), masks(160, seed=1, scale=1.5))
    for name in ("area", "perimeter"):
        assert told_apart(*found[f"wasserstein_{name}_polyp"].values()), name
    assert not told_apart(*found["wasserstein_num_components_polyp"].values())


def test_missing_masks_and_specks_are_seen():
    real, other = masks(160), masks(160, seed=1)
    fewer = other.copy()
    fewer[::2] = np.nan
    fewer[::2, 0] = 0
    assert told_apart(*compared(real, fewer)["wasserstein_presence_polyp"].values())
    assert compared(real, fewer)["wasserstein_presence_polyp"]["other"].value == pytest.approx(0.5, abs=0.08)
    other[:, 3] += 2
    assert compared(real, other)["wasserstein_num_components_polyp"]["other"].value == pytest.approx(2)


def test_a_level_that_nobody_shows_is_undefined():
    empty = np.stack([properties_of(np.zeros((8, 8), dtype=np.int64), 2)] * 20)
    found = compared(empty, empty)
    assert found["wasserstein_presence_polyp"]["other"].value == 0
    area = found["wasserstein_area_polyp"]["other"]
    assert np.isnan([area.value, area.low, area.high]).all() and area.why
    assert not told_apart(area, area) and not is_worse(area, area)
