"""Learning curves, and what is read off them. Every definition is in docs/comparing-runs.md."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from callbacks.metrics.estimate import Better

NO_EPOCH = -1
SHARE_OF_THE_WAY = 0.95  # from the worst start to the best final value, where no threshold is given


@dataclass(frozen=True, eq=False)
class Curve:
    """Values of a metric, by ascending step.

    Attributes:
        steps: int64 [N], as metrics.csv counts them, each once.
        values: float64 [N], at least one of them finite.
        epochs: int64 [N], NO_EPOCH where it was not logged.
    """

    steps: np.ndarray
    values: np.ndarray
    epochs: np.ndarray

    @property
    def finite(self) -> "Curve":
        """The points whose value is a finite number."""
        kept = np.isfinite(self.values)
        return Curve(self.steps[kept], self.values[kept], self.epochs[kept])

    @property
    def final(self) -> float:
        """The value of the last step, finite or not."""
        return float(self.values[-1])


def is_better(value: float, other: float, mode: Better) -> bool:
    """Whether a value is strictly better than another."""
    return value > other if mode == "max" else value < other


def best_point(curve: Curve, mode: Better) -> int:
    """Place of the best finite value, the first of equal ones."""
    worst = -np.inf if mode == "max" else np.inf
    values = np.where(np.isfinite(curve.values), curve.values, worst)
    return int(np.argmax(values) if mode == "max" else np.argmin(values))


def default_threshold(curves: Sequence[Curve], mode: Better) -> float | None:
    """95 % of the way from the worst first value to the best final one, over all curves; None if there is no such way.

    Only finite values count: the first finite one of each curve, and the final ones that are finite.
    """
    starts = [curve.finite.values[0] for curve in curves]
    finals = [curve.final for curve in curves if np.isfinite(curve.final)]
    if not finals:
        return None
    worst, best = (min(starts), max(finals)) if mode == "max" else (max(starts), min(finals))
    return float(worst + SHARE_OF_THE_WAY * (best - worst)) if is_better(best, worst, mode) else None


def first_reached(curve: Curve, threshold: float, mode: Better) -> int | None:
    """Place of the first logged value at the threshold or beyond; None if there is none. Nothing is interpolated."""
    reached = curve.values >= threshold if mode == "max" else curve.values <= threshold
    reached &= np.isfinite(curve.values)
    return int(np.argmax(reached)) if reached.any() else None


def shared_range(places: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """From the latest first to the earliest last point; None where that is no range."""
    start, end = max(float(x[0]) for x in places), min(float(x[-1]) for x in places)
    return (start, end) if start < end else None


def mean_over(x: np.ndarray, values: np.ndarray, start: float, end: float) -> float:
    """Area under the curve from start to end by the trapezoid, over its width; at the ends the curve is a straight line
    between its points. NaN where a value that it takes is not finite.

    Args:
        x: float [N], ascending, from `start` or before to `end` or after.
    """
    inside = (x > start) & (x < end)
    places = np.concatenate([[start], x[inside], [end]])
    heights = np.interp(places, x, values)
    return float(np.trapezoid(heights, places) / (end - start))
