"""Files of masks: grey values to levels, several files to one mask, and what shows that a file is no mask."""

from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from datamodules.field_of_view import FieldOfView
from datamodules.images import crop_levels, read_image, whole_levels
from datamodules.manifest import ManifestError
from datamodules.masks import NO_MASK

if TYPE_CHECKING:
    from datamodules.sources.public import PublicSource

LOSSY = (".jpg", ".jpeg")
BLACK, WHITE = 32, 224  # grey values of a JPEG mask that may mean black, and white
MOST_GREY = 0.2  # share of the pixels between them: a photograph has more, the edges of a mask fewer
FEW = 8  # grey values of a file that codes levels; a mask with soft edges has more
LEAST_OTHER = 0.001  # share of the pixels of further grey values that is no accident
MOST_OUTSIDE = 0.5  # share of a mask's foreground outside of the field of view; the disc's rim may lie there


def two_levels(part: str, values: np.ndarray, title: str) -> np.ndarray:
    """Levels uint8 [H, W] from grey values uint8 [H, W]: brighter than half is 1, however JPEG blurred the edges.

    Raises:
        ManifestError: grey values that are no mask of two levels: those of a photograph, of more levels, or none that
            is brighter than half though some are not black.
    """
    counts = np.bincount(values.ravel(), minlength=256)
    there = np.flatnonzero(counts)
    is_lossy = PurePath(part).suffix.lower() in LOSSY
    if counts[BLACK:WHITE].sum() > MOST_GREY * values.size:
        share = counts[BLACK:WHITE].sum() / values.size
        raise ManifestError(
            f"{title}: mask {part!r} is grey in {share:.0%} of its pixels, neither black nor white: it looks like an "
            "image. Remedy: give the masks as masks, if the two folders are swapped; or a reader whose mask_level maps "
            "these grey values to levels."
        )
    top = int(there[-1])
    if 0 < top <= 127 and not (is_lossy and top < BLACK):
        raise ManifestError(
            f"{title}: mask {part!r} has grey values of 0 to {top}, none brighter than half, and would be empty. "
            "Remedy: write the mask as 0 and 255; or a reader whose mask_level maps these grey values to levels."
        )
    others = counts[1:top].sum() / values.size
    if not is_lossy and 2 < len(there) <= FEW and others > LEAST_OTHER:
        raise ManifestError(
            f"{title}: mask {part!r} has the grey values {there.tolist()}, and two are needed, black and white. "
            "Remedy: write the mask as 0 and 255; or a reader whose mask_level maps these grey values to levels."
        )
    return (values > 127).astype(np.uint8)


def painted(source: "PublicSource", mask: str, shape: tuple[int, int]) -> np.ndarray:
    """Levels uint8 [H, W] of a manifest's cell: one file, or several joined by `|`, later ones over earlier ones.

    Raises:
        ManifestError: a file of another size than its image, [H, W].
    """
    levels = np.zeros(shape, dtype=np.uint8)
    for part in mask.split("|"):
        values = read_image(source.root / part).max(axis=2)
        if values.shape != shape:
            raise ManifestError(
                f"{source.title}: mask {part!r} has {values.shape[1]} x {values.shape[0]} pixels, its image "
                f"{shape[1]} x {shape[0]}. Remedy: take image and mask from the same copy of the dataset."
            )
        found = source.mask_level(part, values)
        levels[found > 0] = found[found > 0]
    return levels


def framed(source: "PublicSource", mask: str, levels: np.ndarray, fov: FieldOfView | None, size: int) -> np.ndarray:
    """Levels uint8 [H, W] cropped to [size, size] as the image is, whose field of view is `fov`, None for none.

    Outside of it they are background; or unknown (255), where the source is to learn and be measured inside alone.

    Raises:
        ManifestError: a mask most of which lies outside of the field of view: it is of another image.
    """
    if fov is None:
        return whole_levels(levels, size)
    rows, columns = np.nonzero(levels)
    outside = np.hypot(columns - fov.x, rows - fov.y) > fov.radius
    if len(rows) and outside.mean() > MOST_OUTSIDE:
        raise ManifestError(
            f"{source.title}: {outside.mean():.0%} of the foreground of mask {mask!r} lies outside of the field of "
            "view of its image. Remedy: see whether it is the mask of this image, and neither turned nor mirrored."
        )
    return crop_levels(levels, fov, size, NO_MASK if source.field_of_view else 0)
