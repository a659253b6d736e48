"""Calibration: a slow loop over bins, scikit-learn's Brier score, and classifiers whose calibration is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refuses
from sklearn.metrics import brier_score_loss

from callbacks.metrics.calibration import brier_score, expected_calibration_error, reliability

CASES = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([2, 3, 5]))


def case(seed, num_rows, num_levels):
    """Random labels, probabilities rounded to one decimal of half of the rows (on the edges of ten bins), weights."""
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(num_levels), num_rows)
    tenths = np.eye(num_levels)[generator.integers(num_levels, size=(num_rows, 10))].sum(axis=1) / 10
    probabilities = np.where(generator.random((num_rows, 1)) < 0.5, tenths, probabilities)
    return generator.integers(num_levels, size=num_rows), probabilities, generator.integers(4, size=(3, num_rows))


def slow_error(labels, probabilities, num_bins, weights):
    if weights.sum() == 0:
        return np.nan
    total = 0.0
    for number in range(num_bins):
        inside = [
            row
            for row, chances in enumerate(probabilities)
            if number / num_bins < chances.max() <= (number + 1) / num_bins
        ]
        weight = sum(weights[row] for row in inside)
        if weight:
            confidence = sum(weights[row] * probabilities[row].max() for row in inside) / weight
            right = sum(
                weights[row] for row in inside if list(probabilities[row]).index(max(probabilities[row])) == labels[row]
            )
            total += weight / weights.sum() * abs(right / weight - confidence)
    return total


@settings(max_examples=100, deadline=None)
@given(drawn=CASES, num_bins=st.sampled_from([1, 10, 15]))
def test_error_agrees_with_a_slow_loop(drawn, num_bins):
    labels, probabilities, weights = case(*drawn)
    weights[2] = 0
    found = expected_calibration_error(labels, probabilities, num_bins, weights)
    expected = [slow_error(labels, probabilities, num_bins, row) for row in weights]
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert expected_calibration_error(labels, probabilities, num_bins) == pytest.approx(
        [slow_error(labels, probabilities, num_bins, np.ones(len(labels)))], abs=1e-9
    )


@settings(max_examples=100, deadline=None)
@given(drawn=CASES)
def test_brier_score_agrees_with_scikit_learn_on_two_levels_and_with_a_slow_loop_on_more(drawn):
    labels, probabilities, weights = case(*drawn)
    found = brier_score(labels, probabilities, weights)
    for value, row in zip(found, weights, strict=True):
        if row.sum() == 0:
            assert np.isnan(value)
        elif probabilities.shape[1] == 2:
            expected = brier_score_loss(labels, probabilities[:, 1], sample_weight=row, pos_label=1)
            assert value == pytest.approx(expected, abs=1e-6)
        else:
            total = sum(
                row[image] * (chance - (labels[image] == level)) ** 2
                for image, chances in enumerate(probabilities)
                for level, chance in enumerate(chances)
            )
            assert value == pytest.approx(total / row.sum(), abs=1e-9)


def test_sure_and_wrong_is_the_worst_and_sure_and_right_the_best():
    labels = np.array([0, 1, 1, 0])
    for num_levels, worst in ((2, 1), (3, 2)):
        right = np.eye(num_levels)[labels]
        wrong = np.eye(num_levels)[1 - labels]
        assert expected_calibration_error(labels, right) == pytest.approx(0)
        assert expected_calibration_error(labels, wrong) == pytest.approx(1)
        assert brier_score(labels, right) == pytest.approx(0)
        assert brier_score(labels, wrong) == pytest.approx(worst)


def test_a_calibrated_classifier_has_a_small_error_and_an_overconfident_one_the_excess():
    generator = np.random.default_rng(0)
    chance = generator.uniform(0.6, 0.9, 100_000)
    labels = (generator.random(len(chance)) < chance).astype(int)
    calibrated = np.stack([1 - chance, chance], axis=1)
    overconfident = np.stack([0.9 - chance, chance + 0.1], axis=1)
    assert expected_calibration_error(labels, calibrated)[0] < 0.01
    assert expected_calibration_error(labels, overconfident) == pytest.approx(0.1, abs=0.01)


def test_diagram_adds_up_to_the_error():
    labels, probabilities, _ = case(3, 500, 5)
    diagram = reliability(labels, probabilities, num_bins=10)
    assert diagram.centres == pytest.approx(np.arange(0.05, 1, 0.1))
    assert diagram.counts.sum() == 500
    assert np.isnan(diagram.accuracy[diagram.counts == 0]).all()
    filled = diagram.counts > 0
    assert (np.abs(diagram.confidence - diagram.centres)[filled] <= 0.05 + 1e-9).all()
    gaps = np.abs(diagram.accuracy - diagram.confidence)[filled] * diagram.counts[filled] / 500
    assert expected_calibration_error(labels, probabilities, 10) == pytest.approx(gaps.sum())


def test_no_rows():
    assert np.isnan(expected_calibration_error(np.zeros(0, dtype=int), np.zeros((0, 2)))).all()
    assert np.isnan(brier_score(np.zeros(0, dtype=int), np.zeros((0, 3)))).all()


def test_errors_name_the_row():
    probabilities = np.full((2, 2), 0.5)
    with refuses(ValueError, "label", "row 1", 2):
        brier_score(np.array([0, 2]), probabilities)
    with refuses(ValueError, "probabilities", "row 0", "finite"):
        brier_score(np.array([0, 1]), probabilities * np.array([[np.nan], [1]]))
    with refuses(ValueError, "labels", "probabilities", "(2,)", "[N, K]"):
        expected_calibration_error(np.array([0, 1]), probabilities[:, 0])
    with refuses(ValueError, "num_bins", 0):
        expected_calibration_error(np.array([0, 1]), probabilities, 0)
