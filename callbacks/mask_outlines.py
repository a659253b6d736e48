"""Masks as outlines on their images."""

from collections.abc import Sequence

import cv2
import numpy as np

from callbacks.image_sheet import compose

OUTLINES = ((0, 255, 0), (0, 225, 255), (255, 255, 0), (255, 0, 255), (255, 255, 255), (255, 150, 0), (90, 120, 255))
"""Red, green and blue of each level's line, of the first but the background on."""
UNKNOWN_PIXEL = 255  # of a mask in a file


def outlined(image: np.ndarray, mask: np.ndarray, num_levels: int) -> np.ndarray:
    """The image uint8 [S, S, 3] with a line of a pixel around each level of the mask [S, S] but the first."""
    image = image.copy()
    for level in range(1, num_levels):
        inside = (mask == level).astype(np.uint8)
        edge = (inside == 1) & (cv2.erode(inside, np.ones((3, 3), np.uint8)) == 0)
        image[edge] = OUTLINES[(level - 1) % len(OUTLINES)]
    return image


def coloured(mask: np.ndarray) -> np.ndarray:
    """A mask [S, S] as a picture uint8 [S, S, 3]: background black, unknown grey, levels in colour."""
    picture = np.zeros((*mask.shape, 3), dtype=np.uint8)
    for level in np.unique(mask):
        if level != 0:
            is_known = 0 < level < UNKNOWN_PIXEL
            picture[mask == level] = OUTLINES[(int(level) - 1) % len(OUTLINES)] if is_known else (96, 96, 96)
    return picture


def enlarged(array: np.ndarray, factor: int) -> np.ndarray:
    """An image [S, S, 3] or mask [S, S] with each pixel as a square of `factor` pixels."""
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def mask_sheet(
    images: np.ndarray, drawn: np.ndarray, found: np.ndarray, num_levels: int, captions: Sequence[str]
) -> np.ndarray:
    """A row for each image: the image, the outlines that were drawn, the outlines that were found.

    Args:
        images: uint8 [N, S, S, 3].
        drawn, found: levels [N, S, S], -1 for unknown.
        captions: of each row, N.

    Returns:
        uint8 [height, width, 3].
    """
    factor = -(-256 // images.shape[1])  # lines of a pixel hide less of an enlarged image
    large = [array.repeat(factor, axis=1).repeat(factor, axis=2) for array in (images, drawn, found)]
    rows = [
        [image, outlined(image, mask, num_levels), outlined(image, other, num_levels)]
        for image, mask, other in zip(*large, strict=True)
    ]
    return compose(np.array(rows), captions)
