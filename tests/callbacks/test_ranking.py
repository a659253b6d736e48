"""Ranking metrics: scikit-learn on ties, weights and absent classes, and the AIROGS sensitivity counted by hand."""

import warnings
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from refusals import refuses
from sklearn import metrics as sklearn_metrics

from callbacks.metrics import ranking
from callbacks.metrics.ranking import METRICS, auroc, ranking_metrics, roc_curve

TIED = st.tuples(st.integers(0, 1), st.integers(0, 10).map(lambda tenths: tenths / 10), st.integers(0, 3))
FINE = st.tuples(st.integers(0, 1), st.floats(-5, 5), st.floats(0.1, 4))
ROWS = st.lists(TIED, min_size=2, max_size=60) | st.lists(FINE, min_size=2, max_size=60)
TRIED = {name: partial(lambda name, *rows: ranking_metrics(*rows, names=[name])[name], name) for name in METRICS}


def partial_auroc(labels, scores, max_fpr):
    return ranking._measure([partial(ranking._partial_area, max_fpr=max_fpr)], labels, scores, None)[0]


def sensitivity_at_specificity(labels, scores, specificity=0.95):
    return ranking._measure([partial(ranking._sensitivity, specificity=specificity)], labels, scores, None)[0]


def columns(rows):
    labels, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    return labels, scores, weights


def sensitivity_by_hand(labels, scores, weights, specificity):
    """Every threshold in turn: the highest sensitivity among those that let enough of the negatives pass."""
    best = 0.0
    for threshold in np.unique(scores[weights > 0]):
        called = scores >= threshold
        passed = weights[(labels == 0) & ~called].sum() / weights[labels == 0].sum()
        if passed >= specificity - 1e-9:
            best = max(best, weights[(labels == 1) & called].sum() / weights[labels == 1].sum())
    return best


def reference(name, labels, scores, weights):
    if len(np.unique(labels[weights > 0])) < 2:
        return np.nan
    if name == "aupr":
        return sklearn_metrics.average_precision_score(labels, scores, sample_weight=weights)
    if name == "sensitivity_at_95_specificity":
        return sensitivity_by_hand(labels, scores, weights, 0.95)
    kept = weights > 0  # else scikit-learn's partial area sees a class that has no weight
    max_fpr = 0.1 if name == "partial_auroc" else None
    return sklearn_metrics.roc_auc_score(labels[kept], scores[kept], sample_weight=weights[kept], max_fpr=max_fpr)


@pytest.mark.parametrize("name", list(METRICS))
@settings(max_examples=120, deadline=None)
@given(rows=ROWS)
@example(rows=[(1, 0.5, 1), (1, 0.2, 1)])
@example(rows=[(0, 0.5, 1), (0, 0.2, 1)])
@example(rows=[(0, 0.5, 1), (1, 0.5, 0)])
@example(rows=[(0, 0.5, 0), (1, 0.5, 0)])
@example(rows=[(0, 0.5, 2), (1, 0.5, 3)])
def test_agrees_with_scikit_learn(name, rows):
    labels, scores, weights = columns(rows)
    weights = np.stack([np.ones(len(labels)), weights, weights[::-1]])
    found = TRIED[name](labels, scores, weights)
    assert found.shape == (3,)
    assert found.dtype == np.float64
    expected = [reference(name, labels, scores, row) for row in weights]
    assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert ranking_metrics(labels, scores, weights)[name] == pytest.approx(found, nan_ok=True)
    assert TRIED[name](labels, scores) == pytest.approx(found[:1], nan_ok=True)


@settings(max_examples=120, deadline=None)
@given(rows=st.lists(TIED, min_size=2, max_size=60))
def test_weights_stand_for_rows_that_are_drawn_again(rows):
    labels, scores, weights = columns(rows)
    again = np.repeat(np.arange(len(labels)), weights)
    for name, values in ranking_metrics(labels, scores, weights[None]).items():
        assert values == pytest.approx(TRIED[name](labels[again], scores[again]), abs=1e-9, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, max_fpr=st.sampled_from([0.02, 0.25, 0.5, 1.0]))
def test_partial_area_at_other_limits(rows, max_fpr):
    labels, scores, _ = columns(rows)
    if len(np.unique(labels)) == 2:
        expected = sklearn_metrics.roc_auc_score(labels, scores, max_fpr=max_fpr)
        assert partial_auroc(labels, scores, max_fpr=max_fpr) == pytest.approx(expected, abs=1e-6)


def test_sensitivity_is_at_the_last_point_that_is_specific_enough():
    # twenty negatives at 0 ... 19; one of them may score above the threshold, two may not
    scores = np.array([*range(20), 18.5, 17.5, 17.5, 5])
    labels = np.array([0] * 20 + [1] * 4)
    assert sensitivity_at_specificity(labels, scores) == pytest.approx(0.25)  # 18.5; then 18 is a second negative
    assert sensitivity_at_specificity(labels, scores, specificity=0.9) == pytest.approx(0.75)
    assert sensitivity_at_specificity(labels, scores, specificity=0.91) == pytest.approx(0.25)
    assert sensitivity_at_specificity(labels, scores, specificity=0) == pytest.approx(1)


def test_sensitivity_is_0_where_the_highest_score_is_shared_with_too_many_negatives():
    assert sensitivity_at_specificity(np.array([0, 0, 1, 1]), np.full(4, 0.5)) == pytest.approx(0)


@pytest.mark.parametrize("num_negatives", [20, 40, 60, 100, 140, 220, 1000])
def test_a_specificity_that_is_met_exactly_counts_whatever_the_rounding(num_negatives):
    allowed = num_negatives // 20
    scores = np.array([2.0] * allowed + [1.0] + [0.0] * (num_negatives - allowed))
    labels = np.array([0] * allowed + [1] + [0] * (num_negatives - allowed))
    assert sensitivity_at_specificity(labels, scores) == pytest.approx(1)
    assert sensitivity_at_specificity(labels, scores, specificity=0.951) == pytest.approx(0)


@settings(max_examples=120, deadline=None)
@given(rows=ROWS)
def test_curve_has_the_points_of_scikit_learn(rows):
    labels, scores, _ = columns(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sklearn_metrics.roc_curve(labels, scores, pos_label=1, drop_intermediate=False)
    for found, points in zip(roc_curve(labels, scores), expected, strict=True):
        assert found == pytest.approx(points, abs=1e-9, nan_ok=True)


def test_many_replicates_are_the_same_as_one_by_one():
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(2, size=3000), generator.random(3000).round(2)
    weights = generator.integers(4, size=(200, 3000))  # several blocks
    together = ranking_metrics(labels, scores, weights)
    for replicate in (0, 86, 87, 88, 199):
        for name, values in ranking_metrics(labels, scores, weights[replicate : replicate + 1]).items():
            assert together[name][replicate] == pytest.approx(values[0], rel=1e-12)


def test_no_rows_and_no_replicates():
    for measure in TRIED.values():
        assert np.isnan(measure(np.zeros(0, dtype=int), np.zeros(0))).tolist() == [True]
        assert measure(np.array([0, 1]), np.array([0.1, 0.2]), np.zeros((0, 2))).shape == (0,)


def test_errors_name_the_row():
    labels, scores = np.array([0, 1, 1]), np.array([0.1, 0.2, 0.3])
    with refuses(ValueError, "label", "row 1", -1):
        auroc(np.array([0, -1, 1]), scores)
    with refuses(ValueError, "score", "row 2", "nan"):
        auroc(labels, np.array([0.1, 0.2, np.nan]))
    with refuses(ValueError, "labels", "scores", "(3,)", "(2,)"):
        auroc(labels, scores[:2])
    with refuses(ValueError, "weights", "(3,)", "[R, N]", "N = 3"):
        auroc(labels, scores, np.ones(3))
    with refuses(ValueError, "weights", "negative"):
        auroc(labels, scores, np.array([[1, -1, 1]]))
