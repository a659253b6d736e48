"""Balanced sampling: chances of training images by which a finding's rare levels are seen as often as the others."""

from collections.abc import Sequence

import numpy as np

from datamodules.findings import NAMES


def balanced_weights(labels: np.ndarray, findings: Sequence[str]) -> np.ndarray:
    """Chance of each image at every draw, float64 [N], summing to 1.

    For one finding each level that occurs has the same chance as the next, and images of which it is unknown keep
    their share of the set. For several, the chances of each are averaged: no image is left out.

    Args:
        labels: int64 [N, F], -1 for unknown.

    Raises:
        ValueError: a finding that is unknown in every image.
    """
    chances = [_of_one(labels[:, NAMES.index(name)], name) for name in findings]
    return np.mean(chances, axis=0)


def _of_one(levels: np.ndarray, name: str) -> np.ndarray:
    known = levels >= 0
    if not known.any():
        raise ValueError(
            f"data.balance names {name}, which is unknown in all {len(levels)} training images. Remedy: leave it out."
        )
    found, place, numbers = np.unique(levels[known], return_inverse=True, return_counts=True)
    chances = np.full(len(levels), 1 / len(levels))
    chances[known] = known.mean() / len(found) / numbers[place]
    return chances
