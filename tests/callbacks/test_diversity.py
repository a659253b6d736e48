"""MS-SSIM: closed forms, scales by size, pairs of two patients, and an interval that covers."""

import numpy as np
import pytest
import torch
from refusals import refuses
from skimage.metrics import structural_similarity

from callbacks.metrics.diversity import (
    WEIGHTS,
    diversity,
    mean_over_pairs,
    ms_ssim,
    num_scales,
    random_pairs,
)
from datamodules.errors import UserError


def noise(num, size=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, size, size, 3), dtype=np.uint8)


def own(num):
    return [f"image {row}" for row in range(num)]


@pytest.mark.parametrize(("size", "scales"), [(8, 0), (11, 1), (21, 1), (22, 2), (64, 3), (128, 4), (176, 5), (512, 5)])
def test_no_scale_is_smaller_than_the_window(size, scales):
    assert num_scales(size) == scales


@pytest.mark.parametrize("size", [16, 64, 90, 128, 176])
def test_equal_images_are_1_and_flat_ones_follow_the_formula(size):
    """Of flat images contrast and structure are 1: what stays is the luminance of the last scale, by its weight."""
    image = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    assert ms_ssim(image, image).tolist() == pytest.approx([1, 1], abs=1e-5)
    weights = WEIGHTS[: num_scales(size)]
    luminance = (2 * 0.2 * 0.6 + 0.01**2) / (0.2**2 + 0.6**2 + 0.01**2)
    flat = ms_ssim(torch.full((1, 3, size, size), 0.2), torch.full((1, 3, size, size), 0.6))
    assert flat.item() == pytest.approx(luminance ** (weights[-1] / sum(weights)), abs=5e-4)


def test_of_one_scale_it_is_ssim():
    """As scikit-image has it, with Wang's window: the mean over the pixels whose window lies within the image differs
    little from that over all."""
    draw = np.random.default_rng(1)
    a = draw.random((20, 20, 3))
    b = np.clip(a + draw.normal(0, 0.1, a.shape), 0, 1)
    _, everywhere = structural_similarity(a, b, channel_axis=2, data_range=1, gaussian_weights=True, sigma=1.5,
                                          use_sample_covariance=False, full=True)  # fmt: skip
    found = ms_ssim(*(torch.from_numpy(one).permute(2, 0, 1)[None].float() for one in (a, b)))
    assert found.item() == pytest.approx(everywhere.mean(), abs=0.01)


def test_pairs_are_of_two_patients_and_follow_from_the_seed():
    patients = ["a"] * 8 + ["b"] + ["c"] * 3
    pairs = random_pairs(patients, 500, seed=2)
    assert pairs.shape == (500, 2) and all(patients[a] != patients[b] for a, b in pairs)
    assert np.array_equal(pairs, random_pairs(patients, 500, seed=2))
    assert not np.array_equal(pairs, random_pairs(patients, 500, seed=3))
    with refuses(UserError, "1 patients"):
        random_pairs(["a", "a"], 10, 0)
    with refuses(UserError, "0 pairs"):
        random_pairs(patients, 0, 0)


def test_less_is_more_diverse():
    """Copies are 1; images that share half of their pixels' values lie between copies and strangers."""
    base, strangers = noise(1), noise(30)
    alike = (0.5 * base + 0.5 * strangers).astype(np.uint8)
    same, middle, diverse = (diversity(images, own(30), 60, 100) for images in (base.repeat(30, 0), alike, strangers))
    assert same.value == pytest.approx(1, abs=1e-5) and same.better == "min"
    assert diverse.value < middle.low < middle.high < same.value
    assert diverse.low < diverse.value < diverse.high and diverse.num_patients == 30


def test_too_small_images_have_no_value():
    found = diversity(noise(10, size=8), own(10), 20)
    assert np.isnan(found.value) and "8 pixels" in found.why


def test_the_interval_is_about_as_wide_as_means_vary():
    """Sets of one law, of 40 patients with two images each: kernel x y of values with mean 1, so the mean is 1."""
    patients, found = [f"p{row // 2}" for row in range(80)], []
    for seed in range(60):
        values = np.random.default_rng(seed).normal(1, 1, 40).repeat(2)  # of a patient
        pairs = random_pairs(patients, 400, seed)
        found.append(mean_over_pairs(values[pairs[:, 0]] * values[pairs[:, 1]], pairs, patients, 200, seed))
    widths = [one.high - one.low for one in found]
    spread = 2 * 1.96 * np.std([one.value for one in found], ddof=1)
    assert 0.8 * spread < np.median(widths) < 1.6 * spread
    assert np.mean([one.low <= 1 <= one.high for one in found]) > 0.85
