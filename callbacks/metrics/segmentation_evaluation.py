"""What is measured of a segmenter, with intervals over patients: means over images of each image's own figure."""

from collections.abc import Mapping, Sequence

import numpy as np

from callbacks.metrics.bootstrap import interval, patient_weights, weighted_means
from callbacks.metrics.estimate import SIZES, Estimate
from callbacks.metrics.evaluation import MACRO
from callbacks.metrics.segmentation import BETTER
from datamodules.errors import UserError

Figures = Mapping[str, Mapping[str, np.ndarray]]  # level -> metric -> float [N], NaN where an image has no value


def evaluate_masks(
    figures: Figures,
    is_drawn: Mapping[str, np.ndarray],
    patients: Sequence[str],
    num_replicates: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """Mean over images of each metric, by level and then `macro`, the mean over the levels that have the metric.

    Args:
        figures: of each level, each metric of every image.
        is_drawn: of each level, whether an image's mask shows it, bool [N].
        patients: of each image [N]; the intervals are over patients, not over images.
        num_replicates: of the bootstrap; 0 for no intervals.
        seed: of the replicates.

    Raises:
        UserError: arrays of other lengths than `patients`.
    """
    number, patients = len(patients), np.asarray(patients, dtype=np.str_)
    for level, metrics in figures.items():
        for name, values in [*metrics.items(), ("is_drawn", is_drawn[level])]:
            if len(values) != number:
                raise UserError(f"{name} of {level} has {len(values)} values for {number} patients: one an image.")
    drawn = patient_weights(patients, num_replicates, seed)
    weights = np.concatenate([np.ones((1, number)), drawn])  # first the set itself
    means = {
        level: {name: weighted_means(values, weights) for name, values in metrics.items()}
        for level, metrics in figures.items()
    }
    result = {}
    for level, metrics in figures.items():
        counts = ~np.isnan(metrics["dice"])
        facts = _sizes(counts, is_drawn[level] & counts, patients)
        result[level] = {name: _estimate(name, means[level][name], facts) for name in metrics}
    counts = ~np.isnan(np.stack([metrics["dice"] for metrics in figures.values()])).all(axis=0)
    facts = _sizes(counts, np.any([is_drawn[level] for level in figures], axis=0) & counts, patients)
    result[MACRO] = {
        name: _estimate(name, np.mean([found[name] for found in means.values() if name in found], axis=0), facts)
        for name in BETTER
        if any(name in found for found in means.values())
    }
    return result


def _sizes(counts: np.ndarray, positive: np.ndarray, patients: np.ndarray) -> dict[str, int]:
    sizes = (int(counts.sum()), len(np.unique(patients[counts])), int(positive.sum()))
    return dict(zip(SIZES, sizes, strict=True))


def _estimate(name: str, replicates: np.ndarray, facts: Mapping[str, int]) -> Estimate:
    return interval(replicates[0], replicates[1:], name=name, better=BETTER[name], **facts)
