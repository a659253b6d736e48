"""Metrics of calibration: whether what a classifier calls 80 % sure is right in 80 % of the cases.

Letters: R = replicates, N = rows, K = levels, M = bins. Labels are int [N], 0 to K - 1; probabilities are finite
floats [N, K]. Every metric is float64 [R], and NaN in a replicate without weight.

The confidence of a row is its highest probability, and it is right if that is the probability of the label (of equal
ones, the first). Bins are of equal width, from their lower edge, excluded, to their upper edge, included; 0 belongs
to the first.

Source: Guo et al. 2017 (arXiv 1706.04599), equations (2) and (3); Brier 1950.
"""

from dataclasses import dataclass

import numpy as np

from callbacks.metrics.bootstrap import in_blocks
from datamodules.errors import UserError

BETTER = {"ece": "min", "brier": "min"}


@dataclass(frozen=True)
class Reliability:
    """For each of M bins: its centre, the mean confidence, the share that is right, and the number of rows.

    All float64 [M] but the counts, which are int64. Confidence and accuracy of an empty bin are NaN.
    """

    centres: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, num_bins: int = 15, weights: np.ndarray | None = None
) -> np.ndarray:
    """Mean distance between confidence and accuracy over bins, weighted by their rows, [R] in [0, 1].

    Noise counts as error: the fewer the rows, the larger it comes out, and larger in replicates than in the set itself,
    so that the interval of a well calibrated classifier may lie above its value.

    Raises:
        ValueError: shapes that do not fit, labels that are no level, numbers that are not finite, or no bins.
    """
    labels, probabilities = _checked(labels, probabilities)
    confidence, right, place = _binned(labels, probabilities, num_bins)
    gaps = np.zeros((len(labels), num_bins))
    gaps[np.arange(len(labels)), place] = right - confidence

    def of_block(block: np.ndarray) -> np.ndarray:
        return _over_weight(np.abs(block @ gaps).sum(axis=1), block)

    return in_blocks(of_block, weights, len(labels))


def brier_score(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean squared error of the probabilities, [R]: 0 is best.

    For two levels that of the probability of level 1, in [0, 1]; for more the sum over all levels, in [0, 2].

    Raises:
        ValueError: shapes that do not fit, labels that are no level, or numbers that are not finite.
    """
    labels, probabilities = _checked(labels, probabilities)
    errors = (probabilities - np.eye(probabilities.shape[1])[labels]) ** 2
    errors = errors[:, 1] if errors.shape[1] == 2 else errors.sum(axis=1)
    return in_blocks(lambda block: _over_weight(block @ errors, block), weights, len(labels))


def reliability(labels: np.ndarray, probabilities: np.ndarray, num_bins: int = 15) -> Reliability:
    """What a reliability diagram draws.

    Raises:
        ValueError: shapes that do not fit, labels that are no level, numbers that are not finite, or no bins.
    """
    labels, probabilities = _checked(labels, probabilities)
    confidence, right, place = _binned(labels, probabilities, num_bins)
    counts = np.bincount(place, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            (np.arange(num_bins) + 0.5) / num_bins,
            np.bincount(place, confidence, num_bins) / counts,
            np.bincount(place, right, num_bins) / counts,
            counts,
        )


def _binned(labels: np.ndarray, probabilities: np.ndarray, num_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, whether it is right (0 or 1), and the bin, each [N]."""
    if num_bins < 1:
        raise UserError(f"num_bins is {num_bins}, and must be at least 1")
    edges = np.arange(1, num_bins) / num_bins
    confidence = probabilities.max(axis=1)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    return confidence, right, np.searchsorted(edges, confidence, side="left")


def _over_weight(sums: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Sums [r] over the weight of each replicate, NaN where it has none."""
    total = block.sum(axis=1)
    return np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)


def _checked(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as int64 [N] and probabilities as float64 [N, K]."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or probabilities.shape[1] < 2:
        raise UserError(
            f"labels and probabilities have shapes {labels.shape} and {probabilities.shape}: expected [N] and [N, K]"
        )
    bad = np.flatnonzero(~np.isin(labels, np.arange(probabilities.shape[1])))
    if len(bad):
        raise UserError(
            f"the label of row {bad[0]} is {labels[bad[0]]}, and must be 0 to {probabilities.shape[1] - 1}: leave "
            "out the unknown rows"
        )
    bad = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(bad):
        raise UserError(
            f"the probabilities of row {bad[0]} are not finite: look at what the classifier made of that image"
        )
    return labels.astype(np.int64), probabilities
