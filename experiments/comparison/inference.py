"""Mean and interval of a group over its seeds, paired tests between groups, and their correction."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from callbacks.metrics.estimate import Estimate

CONFIDENCE = 0.95
ROUNDING = 1e-12  # differences that vary by less than this share of the values are equal


class Paired(NamedTuple):
    """Mean difference of pairs, and the two-sided paired t-test; NaN where undefined."""

    difference: Estimate
    statistic: float
    p: float


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """Mean, deviation and 95 % t-interval of independent values; fewer than 2 have no deviation, none no mean."""
    array = np.asarray(values, dtype=np.float64)
    if not len(array) or not np.isfinite(array).all():
        return Estimate(math.nan, num_seeds=len(array))
    mean = float(array.mean())
    if len(array) < 2:
        return Estimate(mean, num_seeds=1)
    deviation = float(array.std(ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(array) - 1)) * deviation / math.sqrt(len(array))
    return Estimate(mean, mean - half, mean + half, num_seeds=len(array), deviation=deviation)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Paired:
    """First less second over the seeds that both have, seed -> value.

    The test is undefined with fewer than 2 pairs, and where all differences are equal, which no chance explains.
    """
    seeds = sorted(set(first) & set(second))
    left = np.array([first[seed] for seed in seeds], dtype=np.float64)
    right = np.array([second[seed] for seed in seeds], dtype=np.float64)
    difference = left - right
    found = mean_over_seeds(difference)
    undefined = math.isnan(found.deviation)
    if undefined or np.ptp(difference) <= ROUNDING * max(np.abs(left).max(), np.abs(right).max()):
        return Paired(Estimate(found.value, num_seeds=found.num_seeds), math.nan, math.nan)
    test = stats.ttest_rel(left, right)
    return Paired(found, float(test.statistic), float(test.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction over the p-values that are defined; the others stay NaN."""
    corrected = [math.nan] * len(p_values)
    defined = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, place) in enumerate(defined):
        largest = max(largest, min(1.0, (len(defined) - rank) * p))
        corrected[place] = largest
    return corrected
