"""Metrics of a ranking by score: areas under curves, and the sensitivity at a given specificity.

Letters: R = replicates, N = rows, U = distinct scores.

Labels are int [N], 0 or 1; scores are finite floats [N], higher for rows that are more likely to be 1. Rows of one
score are taken together, in no order, so that ties give neither gain nor loss. Weights [R, N] count how often each
row was drawn (bootstrap.patient_weights); None is one replicate in which each counts once. Every metric is float64 [R]
in [0, 1], and NaN in a replicate that lacks one of the two classes.

Source: Fawcett 2006 (curve and area); McClish 1989 (standardised partial area); de Vente et al. 2023 (arXiv
2302.01738), the AIROGS challenge, which ranks by the partial area and the sensitivity below.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from callbacks.metrics.bootstrap import in_blocks
from datamodules.errors import UserError

TOLERANCE = 1e-9  # of a specificity: 19 of 20 is 0.95, whatever the rounding


@dataclass(frozen=True)
class _Curve:
    """Weight of the positives and of the negatives from each distinct score upward: [r, U + 1], first column 0."""

    positives: np.ndarray
    negatives: np.ndarray


def auroc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve [R]: the chance that a positive scores above a negative, ties counting half."""
    return _measure([_area], labels, scores, weights)[0]


def ranking_metrics(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None, names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Several metrics [R] from one sorting, by name: those of METRICS, at its settings, or the ones that are named."""
    names = list(METRICS) if names is None else names
    measured = _measure([METRICS[name] for name in names], labels, scores, weights)
    return dict(zip(names, measured, strict=True))


def roc_curve(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every point of the ROC curve: false positive rates, true positive rates and thresholds, each [U + 1].

    The first point is (0, 0), at the threshold infinity; a rate of a class that is absent is NaN.
    """
    labels, scores = _checked(labels, scores)
    order, ends = _descending(scores)
    curve = _curve(np.ones((1, len(labels))), order, ends, labels)
    fpr = _ratio(curve.negatives[0], curve.negatives[0, -1])
    tpr = _ratio(curve.positives[0], curve.positives[0, -1])
    return fpr, tpr, np.concatenate([[np.inf], scores[order][ends]])


def _measure(
    measures: Sequence[Callable[[_Curve], np.ndarray]],
    labels: np.ndarray,
    scores: np.ndarray,
    weights: np.ndarray | None,
) -> np.ndarray:
    """Each measure [M, R] of the curves of all replicates; NaN where a class is absent."""
    labels, scores = _checked(labels, scores)
    order, ends = _descending(scores)

    def of_block(block: np.ndarray) -> np.ndarray:
        curve = _curve(block, order, ends, labels)
        defined = (curve.positives[:, -1] > 0) & (curve.negatives[:, -1] > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.stack([np.where(defined, measure(curve), np.nan) for measure in measures], axis=1)

    return in_blocks(of_block, weights, len(labels)).T


def _descending(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows from the highest score to the lowest [N], and the last place of each distinct score [U]."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True)) if len(scores) else np.zeros(0, dtype=np.int64)
    return order, ends


def _curve(weights: np.ndarray, order: np.ndarray, ends: np.ndarray, labels: np.ndarray) -> _Curve:
    """Curves of the replicates in weights [r, N]."""
    ordered = np.take(weights, order, axis=1)
    positive = labels[order]
    return _Curve(_running(ordered * positive, ends), _running(ordered * (1 - positive), ends))


def _running(numbers: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Running sums [r, U + 1] at the places `ends`, after a column of 0."""
    sums = np.zeros((len(numbers), len(ends) + 1))
    if len(ends) == numbers.shape[1]:  # no ties
        np.cumsum(numbers, axis=1, out=sums[:, 1:])
    else:
        sums[:, 1:] = np.take(np.cumsum(numbers, axis=1), ends, axis=1)
    return sums


def _area(curve: _Curve) -> np.ndarray:
    widths = np.diff(curve.negatives, axis=1)
    heights = curve.positives[:, 1:] + curve.positives[:, :-1]
    return np.einsum("ru,ru->r", widths, heights) / (2 * curve.positives[:, -1] * curve.negatives[:, -1])


def _average_precision(curve: _Curve) -> np.ndarray:
    positives, negatives = curve.positives[:, 1:], curve.negatives[:, 1:]
    above = positives + negatives
    precision = np.divide(positives, above, out=np.zeros_like(above), where=above > 0)
    return np.einsum("ru,ru->r", np.diff(curve.positives, axis=1), precision) / curve.positives[:, -1]


def _partial_area(curve: _Curve, max_fpr: float) -> np.ndarray:
    """Trapezoids up to the limit, and of the one that crosses it the part before, up to its line's height there."""
    num_points = curve.negatives.shape[1]
    limit = max_fpr * curve.negatives[:, -1:]
    widths = np.diff(np.minimum(curve.negatives, limit), axis=1)
    heights = curve.positives[:, 1:] + curve.positives[:, :-1]
    double_area = np.einsum("ru,ru->r", widths, heights)
    after = np.sum(curve.negatives <= limit, axis=1, keepdims=True)  # the first point beyond the limit
    crosses = (after < num_points)[:, 0]
    after = np.minimum(after, num_points - 1)
    first, last = (np.take_along_axis(curve.negatives, place, axis=1)[:, 0] for place in (after - 1, after))
    bottom, top = (np.take_along_axis(curve.positives, place, axis=1)[:, 0] for place in (after - 1, after))
    width = limit[:, 0] - first
    at_limit = bottom + (top - bottom) * width / (last - first)
    double_area += np.where(crosses, width * (at_limit - top), 0)
    area = double_area / (2 * curve.positives[:, -1] * curve.negatives[:, -1])
    least = max_fpr**2 / 2
    return area if max_fpr == 1 else (1 + (area - least) / (max_fpr - least)) / 2


def _sensitivity(curve: _Curve, specificity: float) -> np.ndarray:
    num_negatives = curve.negatives[:, -1:]
    allowed = curve.negatives <= (1 - specificity + TOLERANCE) * num_negatives
    last = allowed.sum(axis=1, keepdims=True) - 1
    return np.take_along_axis(curve.positives, last, axis=1)[:, 0] / curve.positives[:, -1]


METRICS: dict[str, Callable[[_Curve], np.ndarray]] = {
    "auroc": _area,
    "aupr": _average_precision,
    "partial_auroc": partial(_partial_area, max_fpr=0.1),
    "sensitivity_at_95_specificity": partial(_sensitivity, specificity=0.95),
}
BETTER = dict.fromkeys(METRICS, "max")


def _ratio(part: np.ndarray, whole: float) -> np.ndarray:
    return part / whole if whole > 0 else np.full(len(part), np.nan)


def _checked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as float64 and scores as float64, both [N].

    Raises:
        ValueError: shapes that differ, labels other than 0 and 1, or a score that is not finite.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise UserError(f"labels and scores have shapes {labels.shape} and {scores.shape}: expected [N] of both")
    if not np.isin(labels, (0, 1)).all():
        bad = int(np.flatnonzero(~np.isin(labels, (0, 1)))[0])
        raise UserError(f"the label of row {bad} is {labels[bad]}, and must be 0 or 1: leave out the unknown rows")
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise UserError(f"the score of row {bad} is {scores[bad]}: look at what the classifier made of that image")
    return labels.astype(np.float64), scores
