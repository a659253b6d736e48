"""How near a set of images is to real ones, beside how near real ones are to each other, at the same numbers of images.

A distance depends on the number of images, and on which real ones it is taken to. So the real images are parted into
two halves that share no patient, several times, and so is the other set. One half of the other set is compared with one
real half. The second real half is compared with it too: that is the floor. No generator can be expected to go below it.

Letters: N real images, M other images, D features.

Source of the intervals: the delete-half jackknife over patients (Shao & Wu 1989, Annals of Statistics 17(3)), with as
many patients deleted as kept: the deviation over the halvings estimates that of a figure of all images. Differs from
the paper: some halvings are drawn at random, and both sets are halved. Where a half is cut to the size of a smaller
one, the interval is too wide rather than too narrow.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from scipy.stats import t
from torch import Tensor

from callbacks.metrics import coverage, frechet, kernel
from callbacks.metrics.estimate import Better, Estimate
from datamodules.errors import UserError

Measure = Callable[[Tensor, Tensor], float]
Measures = Mapping[str, tuple[Measure, Better, float, float]]  # of real rows and others; its range
MEASURES: Measures = {
    "fd": (frechet.frechet_distance, frechet.BETTER["fd"], 0.0, math.inf),
    "kd": (kernel.kernel_distance, kernel.BETTER["kd"], -math.inf, math.inf),
    "coverage": (coverage.coverage, coverage.BETTER["coverage"], 0.0, 1.0),
}
FEWEST = coverage.NEAREST + 1  # images of a half, by which coverage is defined


def halvings(patients: Sequence[str], seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of two halves of a set that share no patient, without end; both in random order.

    Patients come in random order, and each goes to the half that has fewer images so far.

    Raises:
        ValueError: fewer than two patients.
    """
    names = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)[1]
    if names.max(initial=0) < 1:
        raise UserError(
            "a set of one patient cannot be halved: halves share no patient. Two patients at least are needed."
        )
    draw, counts = np.random.default_rng(seed), np.bincount(names)
    while True:
        is_first, sizes = np.zeros(len(counts), dtype=bool), [0, 0]
        for patient in draw.permutation(len(counts)):
            is_first[patient] = sizes[0] <= sizes[1]
            sizes[0 if is_first[patient] else 1] += counts[patient]
        rows = is_first[names]
        yield draw.permutation(np.flatnonzero(rows)), draw.permutation(np.flatnonzero(~rows))


def fidelity(
    real: Tensor,
    patients: Sequence[str],
    other: Tensor,
    other_patients: Sequence[str],
    num_halvings: int = 10,
    seed: int = 0,
    measures: Measures = MEASURES,
) -> dict[str, dict[str, Estimate]]:
    """Of each of `measures` `other`, the other set against real images, and `floor`, real images against real ones.

    All are of the same number of images on either side: as many as the smallest half of either set has.

    Args:
        real: features [N, D], or whatever else the measures compare, a row an image.
        patients: of each real image [N].
        other: the same of the set that is compared, [M, D].
        other_patients: of each of its images [M]; a generated image is its own.

    Raises:
        ValueError: fewer than two halvings or patients, or too few images for a half.
    """
    if num_halvings < 2:
        raise UserError(f"num_halvings={num_halvings} must be at least 2: their spread gives the interval.")
    halves, others = (list(islice(halvings(names, seed), num_halvings)) for names in (patients, other_patients))
    size = min(len(half) for pair in [*halves, *others] for half in pair)
    if size < FEWEST:
        raise UserError(
            f"the smallest half has {size} images, and {FEWEST} are needed. Real images: {len(real)} of "
            f"{len(set(patients))} patients, compared ones: {len(other)} of {len(set(other_patients))}."
        )
    found: dict[str, dict[str, list[float]]] = {name: {"other": [], "floor": []} for name in measures}
    for (first, second), (compared, _) in zip(halves, others, strict=True):
        reference, rest = (real[torch.from_numpy(rows[:size])] for rows in (first, second))
        some = other[torch.from_numpy(compared[:size])]
        for name, (measure, *_) in measures.items():
            found[name]["other"].append(measure(reference, some))
            found[name]["floor"].append(measure(reference, rest))
    facts = {"num_images": size, "num_patients": len(set(patients)), "seed": seed}

    def estimates(name: str) -> dict[str, Estimate]:
        return {side: estimate(name, values, measures, **facts) for side, values in found[name].items()}

    return {name: estimates(name) for name in measures}


def estimate(name: str, values: Sequence[float], measures: Measures = MEASURES, **facts: int) -> Estimate:
    """Mean over the halvings, with an interval by their deviation and Student's t, within the figure's range.

    Undefined where the figure has no value (NaN) at one of the halvings.
    """
    _, better, least, most = measures[name]
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    reach = float(t.ppf(0.975, len(values) - 1)) * deviation
    low, high = np.clip([mean - reach, mean + reach], least, most).tolist()
    why = "not every half has an image of it" if math.isnan(mean) else None
    return Estimate(mean, low, high, name=name, better=better, deviation=deviation, why=why, **facts)


def told_apart(other: Estimate, floor: Estimate) -> bool:
    """Whether the other set is worse than real images among themselves, by more than twice the floor's deviation."""
    behind = other.value - floor.value if other.better == "min" else floor.value - other.value
    return behind > 2 * floor.deviation


def is_worse(other: Estimate, real: Estimate) -> bool:
    """Whether a figure of the other set by itself is worse than that of the real set, and their intervals are apart."""
    return other.low > real.high if other.better == "min" else other.high < real.low
