"""Bootstrap over patients: what is drawn, how often intervals hold the truth, and the paired difference."""

import numpy as np
import pytest
from refusals import refuses

from callbacks.metrics.bootstrap import (
    BLOCK_SIZE,
    in_blocks,
    interval,
    paired_difference,
    patient_weights,
)
from callbacks.metrics.estimate import Estimate


def share(values, weights):
    """Weighted mean [R] of values [N], NaN without weight."""
    total = weights.sum(axis=1)
    return np.divide(weights @ values, total, out=np.full(len(total), np.nan), where=total > 0)


def names(num_patients, images_each=1):
    return [f"patient {number}" for number in range(num_patients) for _ in range(images_each)]


def width(found):
    return found.high - found.low


def test_patients_are_drawn_whole_and_as_many_as_there_are():
    patients = ["b", "a", "b", "c", "b"]
    weights = patient_weights(patients, 500, seed=0)
    assert weights.shape == (500, 5)
    assert np.issubdtype(weights.dtype, np.integer)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 0] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert weights[:, [0, 1, 3]].mean(axis=0) == pytest.approx([1, 1, 1], abs=0.12)
    assert len({tuple(row) for row in weights.tolist()}) == 10  # ways to draw three of three with replacement


def test_the_same_seed_draws_the_same_whatever_the_order_of_the_rows():
    patients, order = names(40, 2), np.random.default_rng(0).permutation(80)
    weights = patient_weights(patients, 20, seed=3)
    assert (patient_weights(patients, 20, seed=3) == weights).all()
    assert (patient_weights([patients[row] for row in order], 20, seed=3) == weights[:, order]).all()
    assert (patient_weights(patients, 20, seed=4) != weights).any()
    assert (patient_weights(patients, 8, seed=3) == weights[:8]).all()


def test_one_patient_alone_gives_no_interval():
    values = np.array([0.0, 1.0, 1.0])
    weights = patient_weights(["only"] * 3, 100, seed=0)
    found = interval(values.mean(), share(values, weights))
    assert found.value == pytest.approx(2 / 3)
    assert np.isnan([found.low, found.high]).all()
    difference, p_value = paired_difference(share(values, weights), share(values, weights))
    assert np.isnan([difference.value, difference.low, difference.high, p_value]).all()


def test_a_value_of_one_patient_among_many_has_no_interval():
    weights = patient_weights(names(50), 400, seed=0)[:, :1]
    found = interval(1.0, share(np.ones(1), weights))
    assert np.isnan([found.low, found.high]).all()


def test_no_rows_and_no_replicates():
    assert patient_weights([], 3, seed=0).shape == (3, 0)
    assert patient_weights(["a", "b"], 0, seed=0).shape == (0, 2)
    assert np.isnan(interval(0.5, np.zeros(0)).low)
    assert np.isnan(paired_difference(np.zeros(0), np.zeros(0))[1])


def test_bounds_are_percentiles_of_the_replicates_that_have_a_value():
    replicates = np.append(np.arange(1001.0), np.full(50, np.nan))
    found = interval(7.0, np.random.default_rng(0).permutation(replicates))
    assert [found.value, found.low, found.high] == pytest.approx([7, 25, 975])
    half = interval(7.0, replicates, level=0.5)
    assert [half.low, half.high] == pytest.approx([250, 750])


def test_bounds_need_nine_replicates_of_ten():
    replicates = np.ones(100)
    replicates[:10] = np.nan
    assert interval(1.0, replicates) == Estimate(1.0, 1.0, 1.0)
    replicates[10] = np.nan
    assert np.isnan(interval(1.0, replicates).low)
    assert np.isnan(interval(np.nan, np.ones(100)).high)


def covered(num_sets, patients, draw, truth):
    """Share of the sets whose interval of the mean holds the truth."""
    held = 0
    for number in range(num_sets):
        values = draw(np.random.default_rng(number))
        found = interval(values.mean(), share(values, patient_weights(patients, 300, seed=number)))
        held += found.low <= truth <= found.high
    return held / num_sets


def test_intervals_hold_the_truth_as_often_as_they_say():
    held = covered(300, names(150), lambda generator: (generator.random(150) < 0.7).astype(float), 0.7)
    assert 0.91 <= held <= 0.98


def test_alike_images_of_a_patient_are_no_more_images_than_one():
    def draw(generator):
        return np.repeat(generator.random(60) < 0.7, 5).astype(float)

    assert covered(300, names(60, 5), draw, 0.7) >= 0.90
    assert covered(300, names(300), draw, 0.7) <= 0.75  # as if each image were a patient of its own


def test_clusters_widen_the_interval():
    values = np.repeat(np.random.default_rng(0).random(100), 4)
    of_patients = interval(values.mean(), share(values, patient_weights(names(100, 4), 2000, seed=0)))
    of_images = interval(values.mean(), share(values, patient_weights(names(400), 2000, seed=0)))
    assert width(of_patients) / width(of_images) == pytest.approx(2, rel=0.1)


def test_a_paired_difference_is_narrower_than_two_intervals():
    generator = np.random.default_rng(0)
    better = generator.random(200)
    worse = better - 0.02 + 0.01 * generator.standard_normal(200)
    weights = patient_weights(names(200), 1000, seed=0)
    found, p_value = paired_difference(share(better, weights), share(worse, weights), (better - worse).mean())
    assert found.value == pytest.approx((better - worse).mean())
    assert found.low > 0
    assert p_value == pytest.approx(2 / 1001)
    unpaired = share(worse, patient_weights(names(200), 1000, seed=1))
    blurred, p_unpaired = paired_difference(share(better, weights), unpaired)
    assert width(blurred) > 10 * width(found)
    assert p_unpaired > 0.1


def test_p_value_is_two_sided_and_counts_the_rarer_side():
    differences = np.append(np.full(10, -1.0), np.full(989, 1.0))
    found, p_value = paired_difference(differences, np.zeros(999))
    assert p_value == pytest.approx(2 * 11 / 1000)
    assert paired_difference(np.zeros(999), differences)[1] == pytest.approx(p_value)
    assert found.value == 1.0
    assert paired_difference(differences, differences) == (Estimate(0.0, 0.0, 0.0), 1.0)
    differences[:200] = np.nan
    found, p_value = paired_difference(differences, np.zeros(999), value=0.5)
    assert found.value == 0.5
    assert np.isnan([found.low, found.high, p_value]).all()


def test_p_values_of_equal_classifiers_are_spread_evenly():
    small = 0
    for seed in range(300):
        generator = np.random.default_rng(seed)
        a, b = generator.random(80), generator.random(80)
        weights = patient_weights(names(80), 300, seed=seed)
        small += paired_difference(share(a, weights), share(b, weights))[1] <= 0.2
    assert 0.13 <= small / 300 <= 0.28


def test_blocks_do_not_change_the_answer_and_stay_small():
    weights = np.random.default_rng(0).integers(3, size=(50, BLOCK_SIZE // 20))
    sizes = []

    def measure(block):
        sizes.append(len(block))
        assert block.dtype == np.float64
        return block.sum(axis=1)

    assert (in_blocks(measure, weights, weights.shape[1]) == weights.sum(axis=1)).all()
    assert sizes == [20, 20, 10]


def test_errors_say_what_to_give():
    with refuses(ValueError, "level", 95):
        interval(0.5, np.ones(10), level=95)
    with refuses(ValueError, "num_replicates", -1):
        patient_weights(["a"], -1, seed=0)
    with refuses(ValueError, "(3,)", "(2,)", "[R]"):
        paired_difference(np.ones(3), np.ones(2))
    with refuses(ValueError, "(2, 3)", "[R, N]", "N = 4"):
        in_blocks(lambda block: block, np.ones((2, 3)), 4)
    with refuses(ValueError, "weights", "negative", "finite"):
        in_blocks(lambda block: block, np.array([[1, np.nan]]), 2)
