"""From runs to the numbers of a comparison: a result for each run, each group and each pair of groups."""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from callbacks.metrics.estimate import Better, Estimate
from experiments.comparison.curves import (
    NO_EPOCH,
    Curve,
    best_point,
    default_threshold,
    first_reached,
    mean_over,
    shared_range,
)
from experiments.comparison.groups import Group
from experiments.comparison.inference import Paired, holm, mean_over_seeds, paired
from experiments.comparison.reading import LoggedRun

MOST_UNCORRECTED = 2  # groups; of more the p-values are corrected
What = Literal["final", "best"]
Axis = Literal["images", "steps"]
WHATS: tuple[What, ...] = ("final", "best")


@dataclass(frozen=True)
class Point:
    """A logged point: epoch and images are None where they are unknown."""

    step: int
    epoch: int | None
    images: int | None


@dataclass(frozen=True)
class RunResult:
    """What a run reached.

    Attributes:
        final: the last logged value, finite or not.
        best: the best finite value, logged at `best_at`.
        reached: where the threshold was first reached; None if it was not, or if there is none.
        area: mean of the metric over the range that all runs share; NaN where there is none.
    """

    run: LoggedRun
    group: Group
    curve: Curve
    final: float
    best: float
    best_at: Point
    reached: Point | None
    area: float


@dataclass(frozen=True)
class GroupResult:
    """A group: its seeds' final and best values, how many runs reached the threshold and the median of where.

    Attributes:
        median_step, median_images: over all runs, those that did not reach it counted as beyond all others: infinite
            where half of them or more did not; None where a number of images is unknown, or there is no threshold.
    """

    group: Group
    final: Estimate
    best: Estimate
    num_reached: int
    median_step: float | None
    median_images: float | None


@dataclass(frozen=True)
class PairResult:
    """Paired tests of the first group against the second; `corrected` is NaN where the test is undefined."""

    first: Group
    second: Group
    what: What
    test: Paired
    corrected: float


@dataclass(frozen=True)
class Comparison:
    """All that the tables and the figure show.

    Attributes:
        axis: what curves are drawn against and areas are taken over: images where those of all runs are known.
        threshold: None where none was given and there is none by the rule.
        shared: the range that the curves of all runs cover, in units of `axis`; None where there is none.
        corrected: whether the p-values are corrected.
    """

    metric: str
    mode: Better
    mode_given: bool
    axis: Axis
    threshold: float | None
    threshold_given: bool
    shared: tuple[float, float] | None
    runs: tuple[RunResult, ...]
    groups: tuple[GroupResult, ...]
    pairs: tuple[PairResult, ...]

    @property
    def corrected(self) -> bool:
        """Whether there are so many groups that the p-values are corrected."""
        return len(self.groups) > MOST_UNCORRECTED

    def of_group(self, group: Group) -> list[RunResult]:
        """The results of a group's runs."""
        return [result for result in self.runs if result.group is group]

    def place(self, result: RunResult) -> np.ndarray:
        """Where the points of a curve lie, float64 [N] in units of `axis`."""
        return _places(result.run, result.curve, self.axis)


def compare(
    groups: Sequence[Group], metric: str, mode: Better, mode_given: bool = False, threshold: float | None = None
) -> Comparison:
    """Compare groups of runs, all of which have a curve of the metric; without a threshold it is found by the rule."""
    pairs = [(run, group, run.curve) for group in groups for run in group.runs if run.curve is not None]
    axis: Axis = "images" if all(run.images_per_step for run, _, _ in pairs) else "steps"
    shared = shared_range([_places(run, curve, axis) for run, _, curve in pairs])
    level = default_threshold([curve for _, _, curve in pairs], mode) if threshold is None else threshold
    results = []
    for run, group, curve in pairs:
        best = best_point(curve, mode)
        reached = None if level is None else first_reached(curve, level, mode)
        results.append(RunResult(
            run=run,
            group=group,
            curve=curve,
            final=curve.final,
            best=float(curve.values[best]),
            best_at=_point(run, curve, best),
            reached=None if reached is None else _point(run, curve, reached),
            area=mean_over(_places(run, curve, axis), curve.values, *shared) if shared else math.nan,
        ))  # fmt: skip
    by_group = [[result for result in results if result.group is group] for group in groups]
    return Comparison(
        metric=metric,
        mode=mode,
        mode_given=mode_given,
        axis=axis,
        threshold=level,
        threshold_given=threshold is not None,
        shared=shared,
        runs=tuple(results),
        groups=tuple(_group_result(group, own, level) for group, own in zip(groups, by_group, strict=True)),
        pairs=tuple(test for what in WHATS for test in _tests(groups, by_group, what)),
    )


def values_by_seed(results: Sequence[RunResult], what: What) -> dict[int, float]:
    """Seed -> value, the mean over runs of the same seed; runs without a seed are left out."""
    values: dict[int, list[float]] = {}
    for result in results:
        if result.run.seed is not None:
            values.setdefault(result.run.seed, []).append(getattr(result, what))
    return {seed: statistics.fmean(of_seed) for seed, of_seed in values.items()}


def _group_result(group: Group, results: Sequence[RunResult], threshold: float | None) -> GroupResult:
    without = [result for result in results if result.run.seed is None]  # each stands for itself
    final, best = (
        mean_over_seeds([*values_by_seed(results, what).values(), *(getattr(result, what) for result in without)])
        for what in WHATS
    )
    reached = [result.reached for result in results]
    known = all(result.run.images_per_step for result in results)
    return GroupResult(
        group=group,
        final=final,
        best=best,
        num_reached=sum(point is not None for point in reached),
        median_step=None if threshold is None else _median([point and point.step for point in reached]),
        median_images=None if threshold is None or not known else _median([p and p.images for p in reached]),
    )


def _median(places: Sequence[int | None]) -> float:
    return statistics.median(math.inf if place is None else float(place) for place in places)


def _tests(groups: Sequence[Group], results: Sequence[Sequence[RunResult]], what: What) -> Iterator[PairResult]:
    """A test for each pair of groups; the p-values of one kind are corrected together."""
    values: list[Mapping[int, float]] = [values_by_seed(of_group, what) for of_group in results]
    pairs = list(itertools.combinations(range(len(groups)), 2))
    tests = [paired(values[i], values[j]) for i, j in pairs]
    corrected = holm([test.p for test in tests])
    for (i, j), test, p in zip(pairs, tests, corrected, strict=True):
        yield PairResult(groups[i], groups[j], what, test, p)


def _places(run: LoggedRun, curve: Curve, axis: Axis) -> np.ndarray:
    factor = run.images_per_step if axis == "images" else 1
    return curve.steps * float(factor or 1)


def _point(run: LoggedRun, curve: Curve, place: int) -> Point:
    step, epoch, batch = int(curve.steps[place]), int(curve.epochs[place]), run.images_per_step
    return Point(step, None if epoch == NO_EPOCH else epoch, None if batch is None else step * batch)
