"""Mean and interval of a group over its seeds, paired tests between groups, and their correction."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
ROUNDING = 1e-12  # differences that vary by less than this share of the values are equal


class Spread(NamedTuple):
    """Mean, sample standard deviation and 95 % t-interval of so many values; NaN where undefined."""

    num: int
    mean: float
    deviation: float
    low: float
    high: float


class Paired(NamedTuple):
    """Mean difference of so many pairs, its 95 % t-interval, and the two-sided paired t-test; NaN where undefined."""

    num: int
    difference: float
    low: float
    high: float
    statistic: float
    p: float


def spread(values: Sequence[float]) -> Spread:
    """Of values that are taken as independent; fewer than 2 have no deviation, none no mean."""
    array = np.asarray(values, dtype=np.float64)
    if not len(array) or not np.isfinite(array).all():
        return Spread(len(array), *[math.nan] * 4)
    mean = float(array.mean())
    if len(array) < 2:
        return Spread(1, mean, *[math.nan] * 3)
    deviation = float(array.std(ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(array) - 1)) * deviation / math.sqrt(len(array))
    return Spread(len(array), mean, deviation, mean - half, mean + half)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Paired:
    """First less second over the seeds that both have, seed -> value.

    The test is undefined with fewer than 2 pairs, and where all differences are equal, which no chance explains.
    """
    seeds = sorted(set(first) & set(second))
    left = np.array([first[seed] for seed in seeds], dtype=np.float64)
    right = np.array([second[seed] for seed in seeds], dtype=np.float64)
    difference = left - right
    found = spread(difference)
    undefined = math.isnan(found.deviation)
    if undefined or np.ptp(difference) <= ROUNDING * max(np.abs(left).max(), np.abs(right).max()):
        return Paired(found.num, found.mean, math.nan, math.nan, math.nan, math.nan)
    test = stats.ttest_rel(left, right)
    return Paired(found.num, found.mean, found.low, found.high, float(test.statistic), float(test.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction over the p-values that are defined; the others stay NaN."""
    corrected = [math.nan] * len(p_values)
    defined = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, place) in enumerate(defined):
        largest = max(largest, min(1.0, (len(defined) - rank) * p))
        corrected[place] = largest
    return corrected
