"""Copies of real regions are found wherever they are, and strangers are not taken for them."""

import math

import numpy as np
import pytest
from refusals import refuses

from callbacks.metrics.region_copies import FEWEST, NEAR, OWN, Nearest, nearest_real, region_copies, region_distances
from datamodules.errors import UserError

N, M, H, S = 40, 60, 40, 12


@pytest.fixture
def images():
    """Painted, sources, held-out and real images at random, and a region of each painted one."""
    rng = np.random.default_rng(0)
    sets = [rng.integers(0, 256, (number, S, S, 3), dtype=np.uint8) for number in (N, N, H, M)]
    regions = np.zeros((N, S, S), dtype=bool)
    for n in range(N):
        regions[n, n % 5 : n % 5 + 6, 2 : 5 + n % 4] = True
    return *sets, regions


def found_in(painted, sources, held_out, real, regions, usable=None, chunk=7):
    usable = np.ones((N, H), dtype=bool) if usable is None else usable
    chunks = (real[start : start + chunk] for start in range(0, len(real), chunk))
    return nearest_real(painted, regions, sources, held_out, usable, chunks)


def test_distances_are_those_of_normalised_pixels(images):
    painted, _, _, real, regions = images
    a, b = painted[:3][:, regions[0]].astype(float), real[:4][:, regions[0]].astype(float)
    for i, j in np.ndindex(3, 4):
        one, other = (x - x.mean(0) for x in (a[i], b[j]))
        expected = np.sqrt(np.square(one / one.std() - other / other.std()).mean())
        assert region_distances(a, b)[i, j] == pytest.approx(expected)
    assert region_distances(a, 255 - 0.5 * a).diagonal() == pytest.approx([2, 2, 2])
    assert region_distances(a, 0.3 * a + 20).diagonal() == pytest.approx([0, 0, 0], abs=1e-6)
    assert region_distances(np.zeros_like(a), b) == pytest.approx(np.full((3, 4), math.sqrt(2)))


def test_the_nearest_real_image_is_that_of_a_loop(images):
    painted, sources, held_out, real, regions = images
    found = found_in(*images)
    for n in (0, 7, 39):
        apart = region_distances(
            painted[n][None][:, regions[n]], np.concatenate([real, sources[n][None]])[:, regions[n]]
        )
        assert found.distance[n] == pytest.approx(apart.min())
        assert found.real[n] == (OWN if apart.argmin() == M else apart.argmin())
    several = found_in(*images, chunk=60)
    assert np.array_equal(several.real, found.real) and np.allclose(several.held_out, found.held_out)


def test_copies_are_found_and_strangers_are_as_near_as_strangers(images):
    painted, sources, held_out, real, regions = images
    patients = [str(n // 2) for n in range(N)]
    figures = region_copies(found_in(*images), patients)
    assert figures["nearer_share"].value <= 4 * NEAR and figures["nearest"].value == pytest.approx(
        figures["nearest_held_out"].value, rel=0.1
    )
    for n in range(0, N, 2):  # only the region is a copy, darker, and one is that of the source itself
        copied = sources[n] if n == 0 else real[n]
        painted[n][regions[n]] = (copied * 0.5)[regions[n]].astype(np.uint8)
    found = found_in(*images)
    assert found.real[0] == OWN and found.real[2:N:2].tolist() == list(range(2, N, 2))
    assert found.ranks[::2] == pytest.approx(1 / (H + 1))
    figures = region_copies(found, patients)
    assert 0.5 <= figures["nearer_share"].value <= 0.5 + 4 * NEAR and figures["nearer_share"].better == "min"
    assert figures["nearer_share"].low < 0.5 + 4 * NEAR and figures["nearer_share"].num_patients == N // 2
    assert figures["nearest"].value < 0.6 * figures["nearest_held_out"].value


def test_ranks_of_strangers_are_even():
    rng = np.random.default_rng(1)
    drawn = rng.random((20_000, 20))
    ranks = Nearest(drawn[:, 0], np.zeros(20_000, int), drawn[:, 1:]).ranks
    assert np.bincount(np.round(ranks * 20).astype(int), minlength=21)[1:] / 20_000 == pytest.approx(
        np.full(20, 0.05), abs=0.01
    )


def test_images_of_the_same_patient_are_left_out_and_too_few_give_no_share(images):
    usable = np.ones((N, H), dtype=bool)
    usable[3, FEWEST - 1 :] = False
    found = found_in(*images, usable=usable)
    assert np.isnan(found.held_out[3]).sum() == H - FEWEST + 1
    figures = region_copies(found, [str(n) for n in range(N)])
    assert math.isnan(figures["nearer_share"].value) and str(FEWEST) in figures["nearer_share"].why
    assert figures["nearest"].value == pytest.approx(found.distance.mean()) and figures["nearest"].why is None
    nobody = region_copies(found_in(*images, usable=np.zeros((N, H), dtype=bool)), [str(n) for n in range(N)])
    assert math.isnan(nobody["nearest_held_out"].value)


def test_nothing_painted_is_refused():
    with refuses(UserError, "no painted image"):
        region_copies(Nearest(np.zeros(0), np.zeros(0, int), np.zeros((0, 3))), [])
