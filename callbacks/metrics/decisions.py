"""Metrics of decisions: how often a classifier that must choose one level chooses the right one.

Letters: R = replicates, N = rows, K = levels. All are read from the confusion [R, K, K]: first the level that is so,
then the level that was decided. Every metric is float64 [R], and NaN in a replicate in which it has no value.

For two levels precision, recall and f1 are those of level 1. For more they are means over the levels that occur in
the labels or in the decisions, in which a level that was never decided, or never is so, counts 0.

Source: Cohen 1960 (kappa) and 1968 (its quadratic weights); Opitz and Burst 2019 (arXiv 1911.03347), for the mean of
the levels' own f1.
"""

import numpy as np

from callbacks.metrics.bootstrap import in_blocks
from datamodules.errors import UserError

BETTER = dict.fromkeys(("accuracy", "precision", "recall", "specificity", "f1", "kappa", "qwk"), "max")
TIE = 1e-9  # probabilities nearer to one half count as one half


def median_level(probabilities: np.ndarray) -> np.ndarray:
    """The level that each row is decided to have, int64 [N]: the least k with P(level > k) <= 1/2.

    The median of probabilities float [N, K] minimises the expected distance in levels, where the most probable level
    would skip a middle one that is never the largest. Of two levels it is the larger one's.
    """
    above = 1.0 - np.cumsum(np.asarray(probabilities, dtype=np.float64), axis=1)[:, :-1]
    return (above > 0.5 + TIE).sum(axis=1)


def confusion(
    labels: np.ndarray, decisions: np.ndarray, num_levels: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Weight of the rows of each level that were decided to be each level, float64 [R, K, K].

    Args:
        labels: int [N], 0 to K - 1.
        decisions: int [N], 0 to K - 1.
        num_levels: K, at least 2.
        weights: [R, N], how often each row was drawn; None for one replicate of ones.

    Raises:
        ValueError: shapes that do not fit, or a level that is not one of 0 to K - 1.
    """
    labels, decisions = _levels("label", labels, num_levels), _levels("decision", decisions, num_levels)
    if labels.shape != decisions.shape:
        raise UserError(f"labels and decisions have shapes {labels.shape} and {decisions.shape}: expected [N] of both")
    cells = np.zeros((len(labels), num_levels**2))
    cells[np.arange(len(labels)), labels * num_levels + decisions] = 1
    counts = in_blocks(lambda block: block @ cells, weights, len(labels))
    return counts.reshape(-1, num_levels, num_levels)


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Share of the rows that were decided rightly, [R]."""
    return _ratio(_right(counts).sum(axis=1), counts.sum(axis=(1, 2)))


def precision(counts: np.ndarray) -> np.ndarray:
    """Share of the decisions for a level that are right, [R]; for two levels NaN where level 1 was never decided."""
    return _of_levels(counts, _right(counts), counts.sum(axis=1))


def recall(counts: np.ndarray) -> np.ndarray:
    """Share of a level's rows that were decided to be it, [R]: the sensitivity; for two levels NaN without level 1."""
    return _of_levels(counts, _right(counts), counts.sum(axis=2))


def f1(counts: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall, [R]; for two levels NaN where level 1 neither is so nor was decided."""
    return _of_levels(counts, 2 * _right(counts), counts.sum(axis=1) + counts.sum(axis=2))


def specificity(counts: np.ndarray) -> np.ndarray:
    """Share of the rows of level 0 that were decided to be 0, [R], from [R, 2, 2]; NaN without level 0.

    Raises:
        ValueError: other than two levels.
    """
    if counts.shape[1] != 2:
        raise UserError(f"specificity is of two levels, and the confusion has {counts.shape[1]}")
    return _ratio(counts[:, 0, 0], counts[:, 0].sum(axis=1))


def kappa(counts: np.ndarray) -> np.ndarray:
    """Agreement beyond chance, [R], at most 1, about 0 for chance; NaN where one level is all there is."""
    return _kappa(counts, 1 - np.eye(counts.shape[1]))


def quadratic_weighted_kappa(counts: np.ndarray) -> np.ndarray:
    """Agreement beyond chance of ordered levels, [R]: an error counts as the square of how many levels it is off.

    The distance is that of the levels themselves, also where one between them does not occur.
    """
    levels = np.arange(counts.shape[1])
    return _kappa(counts, (levels[:, None] - levels) ** 2)


def _kappa(counts: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """One less the cost [K, K] of the decisions over the cost of decisions made blindly, as often of each level."""
    blind = np.einsum("rk,rl,kl->r", counts.sum(axis=2), counts.sum(axis=1), cost)
    return 1 - _ratio(np.einsum("rkl,kl->r", counts, cost) * counts.sum(axis=(1, 2)), blind)


def _of_levels(counts: np.ndarray, part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part over whole [R, K] of level 1, or its mean over the levels that occur."""
    if counts.shape[1] == 2:
        return _ratio(part[:, 1], whole[:, 1])
    occurs = counts.sum(axis=1) + counts.sum(axis=2) > 0
    return _ratio(np.nan_to_num(_ratio(part, whole)).sum(axis=1), occurs.sum(axis=1))


def _right(counts: np.ndarray) -> np.ndarray:
    """Weight of the right decisions of each level, [R, K]."""
    return np.diagonal(counts, axis1=1, axis2=2)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part over whole, NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole != 0)


def _levels(name: str, levels: np.ndarray, num_levels: int) -> np.ndarray:
    """Levels as int64 [N], checked."""
    levels = np.asarray(levels)
    if levels.ndim != 1 or num_levels < 2:
        raise UserError(f"{name}s have shape {levels.shape} and {num_levels} levels: expected [N] and at least 2")
    bad = np.flatnonzero(~np.isin(levels, np.arange(num_levels)))
    if len(bad):
        raise UserError(
            f"the {name} of row {bad[0]} is {levels[bad[0]]}, and must be 0 to {num_levels - 1}: leave out the "
            "unknown rows"
        )
    return levels.astype(np.int64)
