"""Distances to real images beside the floor: halves by patient, sizes, intervals, and what is told apart."""

import math
from itertools import islice

import numpy as np
import pytest
import torch
from refusals import refuses

from callbacks.metrics.fidelity import MEASURES, estimate, fidelity, halvings, told_apart
from callbacks.metrics.frechet import frechet_distance

PATIENTS = [f"p{row // 3}" for row in range(300)]  # three images of each


def own(num):
    return [f"image {row}" for row in range(num)]


def features(num, shift=0.0, seed=0, dim=8):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(num, dim, generator=draw) + shift


def test_halves_share_no_patient_and_hold_all_images():
    uneven = ["a"] * 40 + [f"b{row}" for row in range(60)]
    for first, second in islice(halvings(uneven, seed=3), 20):
        assert {uneven[row] for row in first}.isdisjoint({uneven[row] for row in second})
        assert sorted([*first, *second]) == list(range(100))
        assert min(len(first), len(second)) >= 30, "no half is much smaller than a patient allows"
    one, other = (list(islice(halvings(uneven, seed), 3)) for seed in (3, 4))
    assert not all(np.array_equal(a[0], b[0]) for a, b in zip(one, other, strict=True))
    with refuses(ValueError, "patient", "halved"):
        next(halvings(["a", "a"], 0))


def test_sizes_are_equal_and_by_the_smallest():
    found = fidelity(features(300), PATIENTS, features(40, seed=1), own(40), num_halvings=3)
    assert {one.num_images for sides in found.values() for one in sides.values()} == {20}
    found = fidelity(features(300), PATIENTS, features(500, seed=1), own(500), num_halvings=3)
    assert found["fd"]["other"].num_images == 150 and found["fd"]["other"].num_patients == 100


def test_the_same_law_is_not_told_apart_and_another_is():
    real = features(300)
    same = fidelity(real, PATIENTS, features(300, seed=1), own(300))
    other = fidelity(real, PATIENTS, features(300, shift=0.5, seed=1), own(300))
    for name in MEASURES:
        assert not told_apart(same[name]["other"], same[name]["floor"]), name
    assert told_apart(other["fd"]["other"], other["fd"]["floor"])
    assert told_apart(other["kd"]["other"], other["kd"]["floor"])
    assert other["fd"]["floor"] == same["fd"]["floor"], "the floor is that of the real images alone"
    # 8 dimensions shifted by 0.5 each: the squared distance of the means is 2
    assert other["fd"]["other"].value - other["fd"]["floor"].value == pytest.approx(2.0, abs=0.5)


def test_fewer_modes_cost_coverage():
    real = torch.cat([features(150), features(150, shift=6.0, seed=2)])
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    found = fidelity(real[order], PATIENTS, features(300, seed=1), own(300))["coverage"]
    assert found["other"].value < 0.6 < 0.9 < found["floor"].value and told_apart(found["other"], found["floor"])


def test_an_interval_is_that_of_student_and_within_the_range():
    one = estimate("fd", [1.0, 2.0, 3.0], seed=0)
    assert one.value == 2 and one.deviation == 1 and one.high == pytest.approx(2 + 4.302653, abs=1e-5)
    assert one.low == 0 and one.better == "min"
    assert estimate("coverage", [0.9, 1.0]).high == 1 and estimate("coverage", [0.9, 1.0]).better == "max"
    assert estimate("kd", [0.0, 1.0]).low < -5, "a kernel distance may be negative"


def test_the_figure_is_that_of_the_halves():
    real, other = features(60), features(60, seed=1)
    patients = [f"p{row}" for row in range(60)]
    found = fidelity(real, patients, other, patients, num_halvings=2, seed=5)
    halves = list(islice(halvings(patients, 5), 2))
    floor = [frechet_distance(real[first], real[second]) for first, second in halves]
    assert found["fd"]["floor"].value == pytest.approx(np.mean(floor)) and math.isfinite(found["fd"]["floor"].high)


def test_what_is_too_little_is_refused():
    with refuses(ValueError, "num_halvings=1"):
        fidelity(features(300), PATIENTS, features(40), own(40), num_halvings=1)
    with refuses(ValueError, "5 images", 6, "300 of 100", "10 of 10"):
        fidelity(features(300), PATIENTS, features(10), own(10))


def test_the_interval_covers_the_other_set_too():
    """Ten sets of one law, each compared with the same real images: they vary about as much as the interval says."""
    real, values, deviations = features(400), [], []
    for seed in range(1, 11):
        found = fidelity(real, own(400), features(60, seed=seed), own(60), num_halvings=20)["kd"]["other"]
        values.append(found.value)
        deviations.append(found.deviation)
    assert np.std(values, ddof=1) < 1.5 * np.median(deviations)
