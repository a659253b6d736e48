"""The linear probe against slow oracles, and the agreement of what was asked for with what is seen."""

import numpy as np
import pytest
from scipy import stats

from callbacks.metrics.probe import RIDGES, LinearProbe, agreement, balanced_rows, mean_of


def drawn(num=120, dim=40, seed=0):
    """Features of which some tell the first finding (two levels), others the second (four), none the third."""
    draw = np.random.default_rng(seed)
    labels = np.stack([draw.integers(0, 2, num), draw.integers(0, 4, num), draw.integers(0, 2, num)], axis=1)
    features = draw.normal(size=(num, dim)) * draw.uniform(0.5, 2, dim)
    features[:, 0] += 2 * labels[:, 0]
    features[:, 1] += 2 * labels[:, 1]
    return features, labels


def test_the_probe_is_the_ridge_that_leaves_one_out_best():
    """By leaving each image out in turn, and solving in the space of features."""
    features, labels = drawn(num=40, dim=8)
    labels[::7, 0] = -1
    probe = LinearProbe(features, labels)
    x = (features - features.mean(0)) / (features.std(0) + 1e-6)
    known = labels[:, 0] >= 0
    x, y = x[known] - x[known].mean(0), labels[known, 0] - labels[known, 0].mean()

    def solved(ridge, rows):
        return np.linalg.solve(x[rows].T @ x[rows] + ridge * np.eye(x.shape[1]), x[rows].T @ y[rows])

    everything = np.arange(len(y))
    errors = [
        np.mean([(y[row] - x[row] @ solved(ridge, np.delete(everything, row))) ** 2 for row in everything])
        for ridge in RIDGES
    ]
    np.testing.assert_allclose(probe.weights[:, 0], solved(RIDGES[int(np.argmin(errors))], everything), rtol=1e-6)


def test_agreement_is_the_area_under_the_curve_and_its_mean_over_levels():
    features, labels = drawn()
    probe, (others, asked) = LinearProbe(features, labels), drawn(seed=1)
    scores = probe.scores(others)
    side, grade, nothing = agreement(asked, scores, 300, 0)
    positive, negative = (scores[asked[:, 0] == level, 0] for level in (1, 0))
    area = stats.mannwhitneyu(positive, negative).statistic / len(positive) / len(negative)
    assert side.value == pytest.approx(area) and 0.7 < side.low < side.value < side.high
    cuts = [stats.mannwhitneyu(scores[asked[:, 1] >= cut, 1], scores[asked[:, 1] < cut, 1]).statistic
            / (asked[:, 1] >= cut).sum() / (asked[:, 1] < cut).sum() for cut in (1, 2, 3)]  # fmt: skip
    assert grade.value == pytest.approx(np.mean(cuts)) and grade.value > 0.8
    assert abs(nothing.value - 0.5) < 0.15
    assert mean_of([side, grade]) == pytest.approx((side.value + grade.value) / 2)


def test_what_cannot_be_told_is_not_told():
    features, labels = drawn()
    labels[:, 1], labels[:, 2] = -1, 0
    probe = LinearProbe(features, labels)
    assert probe.told.tolist() == [True, False, False]
    figures = agreement(labels, probe.scores(features), 20, 0)
    assert [np.isnan(figure.value) for figure in figures] == [False, True, True]
    assert np.isnan(mean_of(figures[1:])) and mean_of(figures) == figures[0].value


def test_levels_come_in_turn():
    labels = np.zeros((1000, 2), dtype=int)
    labels[:3, 0], labels[0, 1], labels[1, 1] = 1, 2, -1
    rows = balanced_rows(labels, 100, 0)
    found = labels[rows]
    assert (found[:, 0] == 1).sum() >= 25 and (found[:, 1] == 2).sum() >= 25, "each of the four levels"
    assert np.array_equal(rows, balanced_rows(labels, 100, 0)) and len(balanced_rows(np.full((5, 2), -1), 7, 0)) == 7
