"""Outlines of masks on images, thin however few pixels the image has."""

from collections.abc import Sequence

import cv2
import numpy as np

COLOURS = ((0, 255, 120), (255, 214, 0), (0, 200, 255), (255, 90, 200), (255, 255, 255), (170, 120, 255))
"""RGB of the levels 1, 2, … of a mask; they begin again where there are more."""


def outlined(image: np.ndarray, mask: np.ndarray, factor: int = 1, thickness: int = 1) -> np.ndarray:
    """An image uint8 [S, S, 3] enlarged by a whole factor, with the outline of each level of its mask [S, S] on it.

    Levels below 1 and above 254 (background, unknown) have none. Returns uint8 [factor S, factor S, 3].
    """
    drawn = np.ascontiguousarray(image.repeat(factor, axis=0).repeat(factor, axis=1))
    for level in np.unique(mask):
        if 0 < level < 255:
            region = (mask == level).astype(np.uint8).repeat(factor, axis=0).repeat(factor, axis=1)
            lines, _ = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(drawn, lines, -1, colour_of(int(level)), thickness)
    return drawn


def coloured(mask: np.ndarray) -> np.ndarray:
    """A mask [S, S] as a picture uint8 [S, S, 3]: background black, unknown grey, each level in its colour."""
    picture = np.zeros((*mask.shape, 3), dtype=np.uint8)
    for level in np.unique(mask):
        if level != 0:
            picture[mask == level] = colour_of(int(level)) if 0 < level < 255 else (96, 96, 96)
    return picture


def colour_of(level: int) -> Sequence[int]:
    """RGB of a level from 1 on."""
    return COLOURS[(level - 1) % len(COLOURS)]
