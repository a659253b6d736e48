"""How large masks are, in how many pieces and where: means and deviations of a set, and distances between two sets.

Letters: N images, K levels of a mask, background first, L = K - 1 levels that are measured, P properties.

`presence` is 1 where an image shows the level and 0 where not, and its mean the share of the images that do. All other
properties are of the images that show it: `area` as a share of the image, `perimeter` in sides of the image, the
number of components, and `row` and `column` of the centroid of all its pixels, from 0 (top, left) to 1. An image of
which no pixel is known has no value (NaN).

The distance is Wasserstein-1, in the unit of the property: how far the values of one set have to be moved, on average,
to be those of the other. Of `presence` it is the difference of the shares.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import wasserstein_distance
from torch import Tensor

from callbacks.metrics.bootstrap import interval, patient_weights, weighted_means
from callbacks.metrics.estimate import Estimate
from callbacks.metrics.fidelity import Measure, Measures
from callbacks.metrics.segmentation import MaskShape

PROPERTIES = ("presence", "area", "perimeter", "num_components", "row", "column")
BETTER = {"wasserstein": "min"}


def columns(levels: Sequence[str]) -> list[str]:
    """Names of L P properties, those of the first level first, such as `area_optic_disc`."""
    return [f"{name}_{level.replace(' ', '_')}" for level in levels[1:] for name in PROPERTIES]


def properties_of(mask: np.ndarray, num_levels: int) -> np.ndarray:
    """The properties of each level but the background, float64 [L P].

    Args:
        mask: levels int64 [S, S], -1 for unknown.
    """
    found = np.full((num_levels - 1, len(PROPERTIES)), np.nan)
    if (mask >= 0).any():
        found[:, 0] = 0
    for level in range(1, num_levels):
        if not (mask == level).any():
            continue
        shape, side = MaskShape.of(mask == level), len(mask)
        row, column = (np.argwhere(mask == level).mean(axis=0) + 0.5) / side
        found[level - 1] = (1, shape.area / side**2, shape.perimeter / side, shape.num_components, row, column)
    return found.ravel()


def distances(levels: Sequence[str]) -> Measures:
    """Measures by which `fidelity` compares properties [N, L P] of two sets, such as `wasserstein_area_<level>`."""
    return {
        f"wasserstein_{name}": (_distance_of(place), BETTER["wasserstein"], 0.0, np.inf)
        for place, name in enumerate(columns(levels))
    }


def _distance_of(place: int) -> Measure:
    def distance(real: Tensor, other: Tensor) -> float:
        a, b = (values[~np.isnan(values)] for values in (real[:, place].numpy(), other[:, place].numpy()))
        return float(wasserstein_distance(a, b)) if len(a) and len(b) else np.nan

    return distance


def moments(
    values: np.ndarray, levels: Sequence[str], patients: Sequence[str], num_replicates: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """`<property>_<level>_mean` and `_deviation`, over the images that have the property, with intervals over patients.

    No direction is better. Of `presence` there is the mean alone.

    Args:
        values: properties [N, L P].
        patients: of each image [N].
    """
    weights = np.concatenate([np.ones((1, len(values))), patient_weights(patients, num_replicates, seed)])
    found = {}
    for name, column in zip(columns(levels), values.T, strict=True):
        has_value = ~np.isnan(column)
        facts = {"num_images": int(has_value.sum()), "num_patients": len(set(np.asarray(patients)[has_value]))}
        each = {"mean": weighted_means(column, weights)}
        if not name.startswith("presence"):
            each["deviation"] = _deviations(column, weights)
        for what, drawn in each.items():
            full = f"{name}_{what}"
            found[full] = interval(float(drawn[0]), drawn[1:], name=full, seed=seed, **facts)
    return found


def _deviations(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sample standard deviation [R] of the values [N] that are not NaN, by weights [R, N]; NaN of fewer than two."""
    has_value = ~np.isnan(values)
    centred = values - values[has_value].mean() if has_value.any() else values
    variance = weighted_means(centred**2, weights) - weighted_means(centred, weights) ** 2
    total = weights[:, has_value].sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 1, np.sqrt(np.maximum(variance, 0) * total / (total - 1)), np.nan)
