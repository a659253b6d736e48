"""Metrics of decisions: scikit-learn, with weights, absent levels, and what has no value."""

import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from refusals import refuses
from sklearn import metrics as sklearn_metrics

from callbacks.metrics.decisions import (
    accuracy,
    confusion,
    f1,
    kappa,
    median_level,
    precision,
    quadratic_weighted_kappa,
    recall,
    specificity,
)

ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=50)
KAPPAS = {None: kappa, "quadratic": quadratic_weighted_kappa}


def columns(rows, num_levels):
    labels, decisions, weights = (np.array(column) for column in zip(*rows, strict=True))
    return labels % num_levels, decisions % num_levels, weights


def score(name, labels, decisions, weights, /, **options):
    """The metric of scikit-learn over the rows that were drawn; NaN if none was."""
    drawn = weights > 0
    if not drawn.any():
        return np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(sklearn_metrics, name)(
            labels[drawn], decisions[drawn], sample_weight=weights[drawn].astype(float), **options
        )


@pytest.mark.parametrize("num_levels", [2, 3, 5])
@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
@example(rows=[(0, 0, 0)])
@example(rows=[(0, 0, 1)])
@example(rows=[(1, 0, 1), (0, 1, 1)])
def test_agrees_with_scikit_learn(num_levels, rows):
    labels, decisions, weights = columns(rows, num_levels)
    counts = confusion(labels, decisions, num_levels, np.stack([np.ones(len(labels)), weights]))
    everything = list(range(num_levels))
    for replicate, row in enumerate([np.ones(len(labels)), weights]):
        expected = score("confusion_matrix", labels, decisions, row, labels=everything)
        assert counts[replicate] == pytest.approx(np.zeros((num_levels, num_levels)) if row.sum() == 0 else expected)
        found = counts[replicate : replicate + 1]
        assert accuracy(found) == pytest.approx(
            [score("accuracy_score", labels, decisions, row)], abs=1e-6, nan_ok=True
        )
        average = {"average": "binary", "zero_division": np.nan} if num_levels == 2 else {"average": "macro"}
        for name, measure in (("precision_score", precision), ("recall_score", recall), ("f1_score", f1)):
            options = {"zero_division": 0} | average
            expected = score(name, labels, decisions, row, **options)
            assert measure(found) == pytest.approx([expected], abs=1e-6, nan_ok=True), name
        for weighting, measure in KAPPAS.items():
            expected = score("cohen_kappa_score", labels, decisions, row, weights=weighting, labels=everything)
            assert measure(found) == pytest.approx([expected], abs=1e-6, nan_ok=True), weighting


@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
def test_specificity_is_the_recall_of_level_0(rows):
    labels, decisions, weights = columns(rows, 2)
    expected = score("recall_score", labels, decisions, weights, pos_label=0, zero_division=np.nan)
    assert specificity(confusion(labels, decisions, 2, weights[None])) == pytest.approx(
        [expected], abs=1e-6, nan_ok=True
    )


def test_a_small_case_by_hand():
    labels, decisions = np.array([0, 0, 0, 1, 1, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 1, 0, 0])
    counts = confusion(labels, decisions, 2)
    assert counts.tolist() == [[[2, 1], [2, 3]]]
    assert accuracy(counts) == pytest.approx(5 / 8)
    assert precision(counts) == pytest.approx(3 / 4)
    assert recall(counts) == pytest.approx(3 / 5)
    assert specificity(counts) == pytest.approx(2 / 3)
    assert f1(counts) == pytest.approx(6 / 9)
    assert kappa(counts) == pytest.approx((5 / 8 - 1 / 2) / (1 - 1 / 2))  # by chance 3/8 * 4/8 + 5/8 * 4/8


def test_what_has_no_value_is_nan_and_not_0():
    none_decided = confusion(np.array([0, 1]), np.array([0, 0]), 2)
    assert np.isnan(precision(none_decided)).all()
    assert recall(none_decided) == pytest.approx(0)
    assert f1(none_decided) == pytest.approx(0)
    only_0 = confusion(np.array([0, 0]), np.array([0, 0]), 2)
    assert accuracy(only_0) == specificity(only_0) == pytest.approx(1)
    assert all(np.isnan(measure(only_0)).all() for measure in (precision, recall, f1, kappa, quadratic_weighted_kappa))
    only_1 = confusion(np.array([1, 1]), np.array([1, 0]), 2)
    assert np.isnan(specificity(only_1)).all()
    for num_levels in (2, 3):
        nothing = confusion(np.array([0, 1]), np.array([1, 0]), num_levels, np.zeros((4, 2)))
        for measure in (accuracy, precision, recall, f1, kappa, quadratic_weighted_kappa):
            assert np.isnan(measure(nothing)).tolist() == [True] * 4


def test_macro_f1_leaves_out_levels_that_occur_nowhere_and_counts_the_missed_ones_as_0():
    labels, decisions = np.array([0, 0, 2, 2]), np.array([0, 0, 2, 3])  # of five levels 1 and 4 occur nowhere
    assert f1(confusion(labels, decisions, 5)) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert f1(confusion(labels, decisions, 5, np.array([[1, 1, 1, 0]]))) == pytest.approx(1)


def test_quadratic_kappa_keeps_the_distance_over_a_level_that_does_not_occur():
    labels, decisions = np.array([0, 0, 2, 4]), np.array([0, 2, 2, 4])
    by_chance = np.mean([(label - decision) ** 2 for label in labels for decision in decisions])
    assert quadratic_weighted_kappa(confusion(labels, decisions, 5)) == pytest.approx(1 - 1 / by_chance)
    assert quadratic_weighted_kappa(confusion(labels, np.array([0, 0, 2, 2]), 5)) < quadratic_weighted_kappa(
        confusion(labels, np.array([0, 0, 2, 3]), 5)
    )


def test_errors_name_the_row():
    with refuses(ValueError, "label", "row 1", -1):
        confusion(np.array([0, -1]), np.array([0, 1]), 2)
    with refuses(ValueError, "decision", "row 0", 2):
        confusion(np.array([0, 1]), np.array([2, 1]), 2)
    with refuses(ValueError, "labels", "decisions", "(2,)", "(1,)"):
        confusion(np.array([0, 1]), np.array([1]), 2)
    with refuses(ValueError, "specificity", 3):
        specificity(confusion(np.array([0, 1]), np.array([0, 1]), 3))


def test_the_median_level_is_nearest_on_the_average():
    chances = np.random.default_rng(0).dirichlet(np.ones(5), size=200)
    distance = np.abs(np.arange(5)[:, None] - np.arange(5))  # [decision, level]
    expected = (chances @ distance.T).argmin(axis=1)
    assert (median_level(chances) == expected).all() and (median_level(chances) != chances.argmax(axis=1)).any()
    assert median_level(np.array([[0.5, 0.5], [0.4, 0.6], [0.6, 0.4]])).tolist() == [0, 1, 0]
