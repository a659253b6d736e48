"""What squares of a fundus are compared by: the detail and the light within the disc, and a hash of the detail."""

import cv2
import numpy as np

SIDE = 64  # pixels of the square that is compared
RIM = 0.94  # fraction of the radius that is compared: the edge of the disc is no feature
MIN_INSIDE = 0.1  # fraction of the square that must be bright
LOCAL = 5.0  # pixels, deviation of the window of the local mean: wider than a vessel, narrower than the shading
SOFT = 0.6  # pixels, deviation of the blur of the detail: what a sampling half a pixel off changes, and JPEG's noise
MIN_CONTRAST = 1.0  # grey levels, deviation of the green from its local mean
SHIFTS = [(x / 2, y / 2) for x in (-1, 0) for y in (-1, 0)]  # pixels across and down, besides one pixel each way
SCALES = (0.98, 1.0, 1.02)
MIN_LIGHT = 0.98  # correlation of the lights of two squares that are compared in detail


def _frequencies() -> tuple[np.ndarray, np.ndarray]:
    """Which frequencies make the hash, bool [SIDE, SIDE]; its bits that mirroring turns over, bool [255]."""
    down, across = np.mgrid[:SIDE, :SIDE]
    hashed = (down + across >= 6) & (down + across <= 22)
    return hashed, across[hashed] % 2 == 1


HASHED, ODD = _frequencies()
DISC = np.hypot(*(np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2)) < RIM * SIDE / 2


def as_words(bits: np.ndarray) -> np.ndarray:
    """Bits, bool [255], as words, uint64 [4]. 255, so that the number that differs fits into a byte."""
    return np.packbits(np.append(bits, False)).view(np.uint64)


def hash_of(planes: np.ndarray) -> np.ndarray:
    """The perceptual hash of a square, uint64 [4]: the signs of the low frequencies of its detail."""
    return as_words(cv2.dct(planes[0])[HASHED] > 0)


def planes_of(square: np.ndarray) -> np.ndarray | None:
    """Detail, light and inside of uint8 [S, S, 3], float32 [3, SIDE, SIDE]; None where it is dark or blank.

    Inside is 1 in the disc and 0 outside. Light is the local mean of the green there, in grey levels. Detail is what is
    left of the green, with a local deviation of 1, cut off at 3, 0 outside.
    """
    small = square if len(square) == SIDE else cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    inside = _inside(small)
    if inside.mean() < MIN_INSIDE:
        return None
    weight = _blur(inside, LOCAL) + 1e-6
    green = small[..., 1].astype(np.float32)
    light = _blur(green * inside, LOCAL) / weight
    detail = (green - light) * inside
    if np.square(detail).sum() < MIN_CONTRAST**2 * inside.sum():
        return None
    deviation = np.sqrt(_blur(detail * detail, LOCAL) / weight)
    detail = np.clip(detail / (deviation + 1.0), -3.0, 3.0) * inside
    return np.stack([_blur(detail, SOFT), light, inside])


def _inside(small: np.ndarray) -> np.ndarray:
    """Which pixels show the retina, float32 [SIDE, SIDE] of 0 and 1: in the disc, not cut off by the sensor."""
    bright = small.max(axis=2)
    bright = (bright > max(8.0, 0.15 * float(np.percentile(bright, 95)))).astype(np.uint8)
    kernel = np.ones((5, 5), np.uint8)
    closed = cv2.morphologyEx(bright, cv2.MORPH_CLOSE, kernel)
    eroded = cv2.erode(closed, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return (eroded & DISC).astype(np.float32)


def _blur(pixels: np.ndarray, deviation: float) -> np.ndarray:
    return cv2.GaussianBlur(pixels, (0, 0), deviation, borderType=cv2.BORDER_CONSTANT)


def similarity(planes: np.ndarray, other: np.ndarray, mirrored: bool) -> float:
    """The correlation of the details of two squares, 0 where their lights differ."""
    other = other[..., ::-1] if mirrored else other
    return _same_detail(planes, other) if _same_light(planes, other) >= MIN_LIGHT else 0.0


def _same_light(planes: np.ndarray, other: np.ndarray) -> float:
    """The correlation of the lights of two squares, float32 [3, SIDE, SIDE] each, where both are inside; -1 to 1."""
    inside = (planes[2] > 0) & (other[2] > 0)
    lights = np.stack([planes[1][inside], other[1][inside]]).astype(np.float64)
    lights -= lights.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(lights[0]) * np.linalg.norm(lights[1])
    return float(lights[0] @ lights[1] / norm) if norm > 0 else -1.0


def _same_detail(planes: np.ndarray, other: np.ndarray) -> float:
    """The greatest correlation of the details of two squares, over small shifts and scales; 0 to 1."""
    first, second = planes[0], np.ascontiguousarray(other[0])
    best, middle = 0.0, (SIDE / 2 - 0.5, SIDE / 2 - 0.5)
    for scale in SCALES:
        for shift in SHIFTS:
            matrix = cv2.getRotationMatrix2D(middle, 0.0, scale)
            matrix[:, 2] += shift
            moved = cv2.warpAffine(second, matrix, (SIDE, SIDE), flags=cv2.INTER_CUBIC)
            inner = np.ascontiguousarray(moved[1:-1, 1:-1])
            best = max(best, float(cv2.matchTemplate(first, inner, cv2.TM_CCOEFF_NORMED).max()))
    return min(best, 1.0)
