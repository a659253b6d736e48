"""Bootstrap over patients: how often each row is drawn, intervals, and the difference between two classifiers.

Letters: R = replicates, N = rows (images), P = patients.

A replicate draws P patients with replacement and takes every image of each, because the images of one patient are
alike: drawing images one by one would give intervals that are too narrow (Field and Welsh 2007, the cluster
bootstrap). A replicate is kept as a row of weights [N], the number of times each image was drawn, so that a metric
measures all replicates in one call. Where a metric has no value its replicate is NaN, and it is left out.

Source: Efron and Tibshirani 1993, chapter 13 (percentile interval); Davison and Hinkley 1997, chapter 4 (the one added
to both counts of a p-value, which is so never 0).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from callbacks.metrics.estimate import Estimate
from datamodules.errors import UserError

BLOCK_SIZE = 2**18  # numbers of a block of weights: 2 MiB of float64, which stays in a core's cache
LEAST_DEFINED = 0.9  # share of the replicates that must have a value for an interval to have bounds


def patient_weights(patients: Sequence[str], num_replicates: int, seed: int) -> np.ndarray:
    """How often each row is drawn in each replicate, int32 [R, N].

    The draw depends on the seed and on the set of patients, not on the order of the rows. One patient alone cannot
    be redrawn in another way: all weights are then 0, by which every metric is NaN and every interval undefined.

    Args:
        patients: the patient of each row [N].
        num_replicates: R, at least 0.
        seed: of the draw.

    Raises:
        ValueError: a negative num_replicates.
    """
    if num_replicates < 0:
        raise UserError(f"num_replicates is {num_replicates}, and must be at least 0")
    names, place = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    weights = np.zeros((num_replicates, len(place)), dtype=np.int32)
    if len(names) < 2:
        return weights
    generator = np.random.default_rng(seed)
    for row in weights:
        drawn = generator.integers(len(names), size=len(names))
        row[:] = np.bincount(drawn, minlength=len(names))[place]
    return weights


def in_blocks(measure: Callable[[np.ndarray], np.ndarray], weights: np.ndarray | None, num_rows: int) -> np.ndarray:
    """Measure all replicates, some at a time, so that memory does not grow with their number.

    Args:
        measure: maps weights float64 [r, N] of some replicates to an array [r, ...].
        weights: [R, N], not negative; None for one replicate of ones.
        num_rows: N.

    Returns:
        What `measure` gave, one replicate after the other, float64 [R, ...].

    Raises:
        ValueError: weights of another shape, negative, or not finite.
    """
    if weights is None:
        weights = np.ones((1, num_rows))
    weights = np.asarray(weights)
    if weights.ndim != 2 or weights.shape[1] != num_rows:
        raise UserError(f"weights have shape {weights.shape}: expected [R, N] with N = {num_rows}")
    size = max(1, BLOCK_SIZE // max(1, num_rows))
    parts = []
    for start in range(0, max(1, len(weights)), size):  # once even for no replicates: the shape is then known
        block = weights[start : start + size].astype(np.float64)
        if block.size and not (block.min() >= 0 and block.max() < np.inf):
            raise UserError("weights hold negative numbers or numbers that are not finite: they count rows")
        parts.append(measure(block))
    return np.concatenate(parts).astype(np.float64, copy=False)


def weighted_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean [R] of the values [N] that are not NaN, by each row of weights [R, N]; NaN where none of them counts."""
    has_value = ~np.isnan(values)
    total = weights[:, has_value].sum(axis=1)
    sums = weights[:, has_value] @ values[has_value]
    return np.divide(sums, total, out=np.full(len(weights), np.nan), where=total > 0)


def interval(value: float, replicates: np.ndarray, level: float = 0.95, **facts: Any) -> Estimate:
    """Percentile interval of `value` from the replicates [R] that are not NaN; `facts` are attributes of the estimate.

    The bounds are NaN (undefined) where the value is, and where fewer than 90 % of the replicates have one.

    Raises:
        ValueError: a level that is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise UserError(f"level is {level}, and must lie between 0 and 1, such as 0.95")
    defined = _defined(replicates)
    if defined is None or np.isnan(value):
        return Estimate(float(value), **facts)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), float(low), float(high), **facts)


def paired_difference(
    a: np.ndarray, b: np.ndarray, value: float | None = None, level: float = 0.95
) -> tuple[Estimate, float]:
    """Difference a - b of one metric of two classifiers, and its two-sided bootstrap p-value.

    The p-value is twice the share of the replicates on the rarer side of 0 (those at 0 count on both sides), at most
    1 and at least 2 / (R + 1). It is NaN where the interval is undefined.

    Args:
        a: replicates [R] of the one.
        b: replicates [R] of the other, from the same weights: else nothing is paired.
        value: the difference on the set itself; None for the median over the replicates.
        level: of the interval.

    Raises:
        ValueError: a and b differ in shape.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise UserError(f"a and b have shapes {a.shape} and {b.shape}: expected [R], from the same weights")
    defined = _defined(a - b)
    if defined is None:
        return Estimate(np.nan if value is None else float(value)), np.nan
    found = interval(float(np.median(defined)) if value is None else value, a - b, level)
    rarer = min(np.sum(defined <= 0), np.sum(defined >= 0))
    p_value = min(1.0, 2 * (1 + rarer) / (1 + len(defined)))
    return found, np.nan if np.isnan(found.low) else float(p_value)


def _defined(replicates: np.ndarray) -> np.ndarray | None:
    """The replicates that have a value, or None where they are too few."""
    replicates = np.asarray(replicates, dtype=np.float64)
    defined = replicates[~np.isnan(replicates)]
    return defined if len(defined) and len(defined) >= LEAST_DEFINED * len(replicates) else None
