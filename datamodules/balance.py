"""Chances of training images by which rare levels of findings are seen more often, or as often as others."""

from collections.abc import Sequence

import numpy as np

from datamodules.errors import UserError
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
        raise UserError(
            f"data.balance names {name}, which is unknown in all {len(levels)} training images. Remedy: leave it out."
        )
    found, place, numbers = np.unique(levels[known], return_inverse=True, return_counts=True)
    chances = np.full(len(levels), 1 / len(levels))
    chances[known] = known.mean() / len(found) / numbers[place]
    return chances


def repeated_chances(labels: np.ndarray, threshold: float) -> np.ndarray:
    """Chance of each image at every draw, float64 [N], summing to 1: images of rare levels are drawn more often.

    An image counts max(1, sqrt(threshold / share)) times, of the rarest of its levels, the share being of the images
    that tell the finding. Source: repeat factor sampling, Gupta et al. 2019 (arXiv 1908.03195), section 4.3. Differs
    from the paper: images are drawn, and not repeated by rounding.

    Args:
        labels: int64 [N, F], -1 for unknown.
        threshold: the share from which on a level is not rare, above 0 and up to 1.
    """
    factors = np.ones(len(labels))
    for levels in labels.T:
        known = levels >= 0
        _, place, numbers = np.unique(levels[known], return_inverse=True, return_counts=True)
        shares = numbers / max(known.sum(), 1)
        factors[known] = np.maximum(factors[known], np.sqrt(threshold / shares)[place])
    return factors / factors.sum()
