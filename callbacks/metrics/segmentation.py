"""How like a found mask is to a drawn one, image by image; and how large and in how many pieces a mask is.

Letters: B images, K levels of a mask, background first, L = K - 1 levels that are measured, T thresholds.

Pixels of level -1 are unknown: they count as neither drawn nor found. An image of which no pixel is known has no value
(NaN). Where nothing is drawn and nothing found, Dice, IoU and clDice are 1 and the distance 0; where one of the two is
empty, they are 0 and the distance is the image's diagonal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from scipy import ndimage
from skimage.measure import perimeter
from skimage.morphology import skeletonize
from torch import Tensor

BETTER = MappingProxyType({"dice": "max", "iou": "max", "hd95": "min", "hd95_percent": "min", "cldice": "max"})
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
EIGHT = np.ones((3, 3), dtype=bool)  # pixels that touch by a corner belong together


def dice_by_threshold(probabilities: Tensor, masks: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> np.ndarray:
    """Dice of each image, at each threshold, of each level but the background; float64 [B, T, L].

    A pixel is found where 1 - P(background) is at least the threshold; it has the likeliest of the other levels. All
    thresholds are counted in one pass: by how many of them a pixel is found.

    Args:
        probabilities: float [B, K, H, W].
        masks: int64 [B, H, W].
        thresholds: ascending.
    """
    num_images, num_levels = probabilities.shape[0], probabilities.shape[1] - 1
    limits = torch.tensor(thresholds, dtype=probabilities.dtype, device=probabilities.device)
    passed = torch.bucketize(1 - probabilities[:, 0], limits, right=True)  # how many limits are reached
    likeliest, known = probabilities[:, 1:].argmax(dim=1), masks >= 0
    image = torch.arange(num_images, device=masks.device).view(-1, 1, 1).expand_as(masks)

    def counts(levels: Tensor, where: Tensor, number: Tensor, size: int) -> np.ndarray:
        """Pixels [B, L, size] by image, level and number."""
        place = ((image * num_levels + levels) * size + number)[where]
        found = torch.bincount(place, minlength=num_images * num_levels * size)
        return found.view(num_images, num_levels, size).cpu().numpy().astype(np.float64)

    def reached(found: np.ndarray) -> np.ndarray:
        """Pixels [B, L, T] that reach each limit."""
        return found[..., ::-1].cumsum(axis=-1)[..., ::-1][..., 1:]

    size = len(thresholds) + 1
    found = reached(counts(likeliest, known, passed, size))
    shared = reached(counts(likeliest, known & (likeliest + 1 == masks), passed, size))
    drawn = counts((masks - 1).clamp_min(0), masks > 0, torch.zeros_like(masks), 1)
    total = found + drawn
    dice = np.where(total > 0, 2 * shared / np.maximum(total, 1), 1.0)
    dice[~known.flatten(1).any(dim=1).cpu().numpy()] = np.nan
    return dice.transpose(0, 2, 1)


def best_threshold(dice: np.ndarray, thresholds: Sequence[float] = THRESHOLDS) -> int:
    """Place of the threshold with the greatest mean Dice, by image and level; of several the nearest to one half.

    Args:
        dice: float [N, T, L], NaN for images that do not count.

    Returns:
        That of one half where no image counts.
    """
    counted = dice[~np.isnan(dice).any(axis=(1, 2))]
    means = counted.mean(axis=(0, 2)) if len(counted) else np.zeros(len(thresholds))
    best = np.flatnonzero(means >= means.max() - 1e-12)
    return int(best[np.abs(np.asarray(thresholds)[best] - 0.5).argmin()])


def iou_of(dice: np.ndarray) -> np.ndarray:
    """Intersection over union of one image, which follows from its Dice: d / (2 - d)."""
    return dice / (2 - dice)


def compare_masks(found: np.ndarray, drawn: np.ndarray, is_thin: bool = False) -> dict[str, float]:
    """The metrics of BETTER for one image and one level, `cldice` where the structure is thin.

    `hd95` is in pixels of the image at hand, `hd95_percent` in percent of its diagonal.

    Args:
        found, drawn: bool [H, W].
    """
    shared, total = float((found & drawn).sum()), float(found.sum() + drawn.sum())
    dice = 2 * shared / total if total else 1.0
    distance, diagonal = hausdorff95(found, drawn), float(np.hypot(*drawn.shape))
    metrics = {"dice": dice, "iou": dice / (2 - dice), "hd95": distance, "hd95_percent": 100 * distance / diagonal}
    return metrics | ({"cldice": centreline_dice(found, drawn)} if is_thin else {})


def hausdorff95(found: np.ndarray, drawn: np.ndarray) -> float:
    """95th percentile of the distances between two boundaries, in pixels; the greater of both directions.

    A boundary is what an erosion by the cross takes away; outside the image is background. As MONAI defines it in
    `compute_hausdorff_distance(percentile=95)`: the percentile of each direction first, then the greater.

    Args:
        found, drawn: bool [H, W].
    """
    if not found.any() or not drawn.any():
        return 0.0 if found.any() == drawn.any() else float(np.hypot(*drawn.shape))
    edges = [mask ^ ndimage.binary_erosion(mask) for mask in (found, drawn)]
    to_found, to_drawn = (ndimage.distance_transform_edt(~edge) for edge in edges)
    return float(max(np.percentile(to_drawn[edges[0]], 95), np.percentile(to_found[edges[1]], 95)))


def centreline_dice(found: np.ndarray, drawn: np.ndarray) -> float:
    """clDice: harmonic mean of how much of each skeleton lies in the other mask.

    Source: Shit et al. 2021 (arXiv 2003.07311), with the skeletons of Zhang and Suen 1984.

    Args:
        found, drawn: bool [H, W].
    """
    if not found.any() or not drawn.any():
        return float(found.any() == drawn.any())
    precision, sensitivity = (
        float(other[line].mean()) for other, line in ((drawn, skeletonize(found)), (found, skeletonize(drawn)))
    )
    return 2 * precision * sensitivity / (precision + sensitivity) if precision + sensitivity else 0.0


@dataclass(frozen=True)
class MaskShape:
    """Size and pieces of a mask.

    Attributes:
        area: pixels.
        perimeter: pixels, by Benkrid and Crookes 2000; 0 of a single pixel.
        centroids: row and column of each piece, float64 [N, 2]; pixels that touch by a corner belong together.
    """

    area: int
    perimeter: float
    centroids: np.ndarray

    @property
    def num_components(self) -> int:
        """Pieces."""
        return len(self.centroids)

    @classmethod
    def of(cls, mask: np.ndarray) -> "MaskShape":
        """That of a mask, bool [H, W]."""
        labels, number = ndimage.label(mask, structure=EIGHT)
        centroids = np.array(ndimage.center_of_mass(mask, labels, np.arange(1, number + 1))).reshape(-1, 2)
        return cls(int(mask.sum()), float(perimeter(mask)), centroids)
