"""From a photograph on disk to a square: reading, finding the field of view, cropping to it.

A fundus camera shows the retina in a disc on a dark ground; sensors often cut the disc at the top and the bottom. The
disc's edge is found on a reduced copy by fitting a circle (RANSAC, then least squares), and its support along the
visible part of the circle is what tells a fundus photograph from another picture.

Letters: H, W height and width in pixels; S side of the square in pixels; (x, y) the disc's centre, radius its radius,
all in pixels of the array at hand.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

from datamodules.bit_depth import colour_to_eight, grey_to_eight
from datamodules.errors import UserError
from datamodules.image_files import ImageError, Plain, opened, read_bytes, without_metadata

VERSION = 4  # changes whenever the same file would give other pixels; every image cache depends on it

DETECTION_SIDE = 256  # the disc is sought on a copy whose longer side has so many pixels
NUM_BINS = 180  # angular bins of two degrees, for the support of a circle
TOLERANCE = 0.012  # how far an edge point may lie from the circle, as a fraction of the radius
LEAST_TOLERANCE = 0.8  # and in pixels of the reduced copy, for small images
MIN_SUPPORT = 0.8  # fraction of the circle's visible part that must be an edge
MIN_ARC = 0.25  # fraction of the full circle that must be an edge
MIN_RADIUS, MAX_RADIUS = 0.25, 0.85  # radius as a fraction of the shorter and of the longer side


class NotAFundusError(UserError):
    """An image that does not show a fundus; the message is the reason."""


@dataclass(frozen=True)
class FieldOfView:
    """The disc that the camera sees: centre and radius in pixels."""

    x: float
    y: float
    radius: float


def read_image(file: str | Path | BinaryIO, min_side: int | None = None) -> np.ndarray:
    """Read an image file as uint8 [H, W, 3] RGB, upright according to its EXIF orientation.

    With `min_side`, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size (much faster) as long as its shorter side
    keeps at least so many pixels. Raises ImageError with the reason: empty, not an image, truncated; and OSError or
    MemoryError where the machine cannot read at the moment (a share that is away, no memory), which says nothing of
    the image.
    """
    try:
        plain = without_metadata(read_bytes(file))
        with opened(plain) as image:
            if min_side is not None and plain.kind == "JPEG":
                scale = max(s for s in (1, 2, 4, 8) if s == 1 or min(image.size) // s >= min_side)
                image.draft("RGB", (image.width // scale, image.height // scale))
            image.load()
            return np.ascontiguousarray(_upright(_to_rgb(image, plain), plain.orientation))
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, … on damaged files
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if "out of memory" in str(error).lower() or getattr(error, "code", None) == cv2.Error.StsNoMem:
            raise MemoryError(f"no memory to decode {file}: {error}") from error
        raise ImageError(f"cannot be decoded: {str(error) or type(error).__name__}") from error


def _to_rgb(image: Image.Image, plain: Plain) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":  # grey of 10 to 16 bits, or float
        grey = grey_to_eight(np.asarray(image), plain.bits, image.mode == "F")
        return np.repeat(grey[:, :, None], 3, axis=2)
    if plain.depth == 16 and image.mode in ("RGB", "RGBA"):
        high = np.asarray(image)
        eight = colour_to_eight(high, plain)
        image = image if eight is high else Image.fromarray(eight)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels [H, W, 3] as an EXIF orientation says, 1 to 8."""
    if orientation >= 5:
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    return rgb[:, ::-1] if orientation in (2, 3, 6, 7) else rgb


def detect_field_of_view(rgb: np.ndarray) -> FieldOfView:
    """Find the disc of a fundus photograph, uint8 [H, W, 3], wherever the sensor cuts it.

    Raises NotAFundusError with the reason: uniform, no dark surround, no circular edge, colours of another subject.
    """
    _check_rgb(rgb)
    height, width = rgb.shape[:2]
    if min(height, width) < 32:
        raise NotAFundusError(f"the image is only {width} x {height} pixels")
    scale = DETECTION_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR)
    bright = cv2.medianBlur(small.max(axis=2), 5)  # keeps the edge in its place, where a mean would move it out
    low, high = (float(v) for v in np.percentile(bright, (1, 99)))
    if high - low < 12:
        raise NotAFundusError(f"the image is uniform (brightness {low:.0f} to {high:.0f} of 255)")
    best, best_score = None, 0.0
    for fraction in (0.06, 0.1, 0.15, 0.22):
        circle = _fit_circle(bright > low + max(6.0, fraction * (high - low)))
        if circle is not None and circle[1] > best_score + 0.02:
            best, best_score = circle
        if best_score > 0.98:
            break
    if best is None:
        raise NotAFundusError("no circular edge between a bright disc and a dark surround")
    _check_disc(small, best, low + 0.06 * (high - low))
    ratio = (width / size[0], height / size[1])
    return FieldOfView((best.x + 0.5) * ratio[0] - 0.5, (best.y + 0.5) * ratio[1] - 0.5, best.radius * ratio[0])


def _fit_circle(mask: np.ndarray) -> tuple[FieldOfView, float] | None:
    """The circle that the outline of the largest bright region lies on, and its support in [0, 1]; None if none.

    The region's bounding box counts as the frame: what lies on it may be where the disc is cut off, by the sensor or,
    in an image that was padded to a square, within it.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if count < 2:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    if stats[largest, cv2.CC_STAT_AREA] < 0.1 * mask.size:
        return None
    left, top, width, height = stats[largest, : cv2.CC_STAT_AREA].tolist()
    region = (labels[top : top + height, left : left + width] == largest).astype(np.uint8)
    outlines, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = max(outlines, key=len)[:, 0].astype(np.float64)
    inside = ((points > 2) & (points < np.array([width - 3, height - 3]))).all(axis=1)
    points = points[inside]
    if len(points) < 24:
        return None
    circle = _ransac(points[:: max(1, len(points) // 200)], region.shape)
    if circle is None:
        return None
    for _ in range(3):
        circle = _least_squares(points[_distance(points, circle) < _tolerance(circle.radius)])
        if circle is None:
            return None
    support, arc = _support(points, circle, region.shape)
    if support < MIN_SUPPORT or arc < MIN_ARC:
        return None
    return FieldOfView(circle.x + left, circle.y + top, circle.radius), support


def _tolerance(radius: float) -> float:
    return max(TOLERANCE * radius, LEAST_TOLERANCE)


def _distance(points: np.ndarray, circle: FieldOfView) -> np.ndarray:
    return np.abs(np.hypot(points[:, 0] - circle.x, points[:, 1] - circle.y) - circle.radius)


def _ransac(points: np.ndarray, shape: tuple[int, int], num_trials: int = 150) -> FieldOfView | None:
    """The circle through three of the points that most points lie on; the same points always give the same circle."""
    a, b, c = points[np.random.default_rng(0).integers(len(points), size=(3, num_trials))]
    d = 2 * ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])
    with np.errstate(divide="ignore", invalid="ignore"):
        bb, cc = ((b - a) ** 2).sum(1), ((c - a) ** 2).sum(1)
        x = a[:, 0] + ((c - a)[:, 1] * bb - (b - a)[:, 1] * cc) / d
        y = a[:, 1] + ((b - a)[:, 0] * cc - (c - a)[:, 0] * bb) / d
        radius = np.hypot(x - a[:, 0], y - a[:, 1])
        good = (radius > MIN_RADIUS * min(shape)) & (radius < MAX_RADIUS * max(shape))
    if not good.any():
        return None
    x, y, radius = x[good], y[good], radius[good]
    gap = np.abs(np.hypot(points[:, :1] - x, points[:, 1:] - y) - radius)
    best = int(np.argmax((gap < np.maximum(TOLERANCE * radius, LEAST_TOLERANCE)).sum(axis=0)))
    return FieldOfView(float(x[best]), float(y[best]), float(radius[best]))


def _least_squares(points: np.ndarray) -> FieldOfView | None:
    """Algebraic circle fit (Kasa 1976): x² + y² = 2 a x + 2 b y + c."""
    if len(points) < 12:
        return None
    matrix = np.column_stack([2 * points, np.ones(len(points))])
    (x, y, c), *_ = np.linalg.lstsq(matrix, (points**2).sum(axis=1), rcond=None)
    square = c + x * x + y * y
    return FieldOfView(float(x), float(y), float(np.sqrt(square))) if square > 0 else None


def _support(points: np.ndarray, circle: FieldOfView, shape: tuple[int, int]) -> tuple[float, float]:
    """How much of the circle is an edge: as a fraction of its part inside the frame, and of the whole circle."""
    near = points[_distance(points, circle) < _tolerance(circle.radius)]
    angle = np.arctan2(near[:, 1] - circle.y, near[:, 0] - circle.x)
    hit = np.zeros(NUM_BINS, dtype=bool)
    hit[np.floor((angle / (2 * np.pi) % 1.0) * NUM_BINS).astype(int) % NUM_BINS] = True
    middle = (np.arange(NUM_BINS) + 0.5) * 2 * np.pi / NUM_BINS
    x, y = circle.x + circle.radius * np.cos(middle), circle.y + circle.radius * np.sin(middle)
    visible = (x > 2.5) & (x < shape[1] - 3.5) & (y > 2.5) & (y < shape[0] - 3.5)
    return float((hit & visible).sum() / max(1, visible.sum())), float(hit.mean())


def _check_disc(small: np.ndarray, circle: FieldOfView, threshold: float) -> None:
    """Raise NotAFundusError unless the surround is dark and the inside looks like a retina."""
    ys, xs = np.ogrid[: small.shape[0], : small.shape[1]]
    square = ((xs - circle.x) ** 2 + (ys - circle.y) ** 2) / circle.radius**2
    inside, outside = small[square < 0.9**2].astype(np.float32), small[square > 1.04**2]
    if len(outside) < 0.005 * square.size:
        raise NotAFundusError("no dark surround")
    stray = float((outside.max(axis=1) > threshold + 10).mean())
    if stray > 0.1:
        raise NotAFundusError(f"{stray:.0%} of the surround of the disc is not dark")
    if inside.mean(axis=1).std() < 2:
        raise NotAFundusError("the inside of the disc is uniform")
    bluer = float((inside[:, 2] > inside[:, 0] + 20).mean())
    if bluer > 0.25:
        raise NotAFundusError(f"{bluer:.0%} of the disc is bluer than it is red")


def square_crop(rgb: np.ndarray, fov: FieldOfView, size: int) -> np.ndarray:
    """Crop uint8 [H, W, 3] to the square around the disc and resample to uint8 [size, size, 3] by area.

    What lies outside the disc, or was cut off by the sensor, is black.
    """
    _check_rgb(rgb)
    square = resize(_square(rgb, fov, size), size)
    square[_outside(size)] = 0
    return square


def crop_levels(levels: np.ndarray, fov: FieldOfView, size: int, outside: int = 0) -> np.ndarray:
    """Crop a mask uint8 [H, W] as `square_crop` crops its image, to uint8 [size, size].

    A pixel has the level that covers most of it, the lower one where two cover the same. What lies outside the disc, or
    was cut off by the sensor, has the level `outside`.
    """
    square = resize_levels(_square(levels, fov, size, outside), size)
    square[_outside(size)] = outside
    return square


def _square(pixels: np.ndarray, fov: FieldOfView, size: int, outside: int = 0) -> np.ndarray:
    """The square around the disc, [2 r, 2 r, …], `outside` where it leaves the frame."""
    if size < 1 or fov.radius < 1:
        raise UserError(f"size is {size} and fov.radius {fov.radius}: both must be at least 1 pixel.")
    side = max(1, round(2 * fov.radius))
    left, top = round(fov.x + 0.5 - side / 2), round(fov.y + 0.5 - side / 2)
    square = np.full((side, side, *pixels.shape[2:]), outside, dtype=np.uint8)
    x0, x1 = max(0, left), min(pixels.shape[1], left + side)
    y0, y1 = max(0, top), min(pixels.shape[0], top + side)
    if x0 < x1 and y0 < y1:
        square[y0 - top : y1 - top, x0 - left : x1 - left] = pixels[y0:y1, x0:x1]
    return square


def _outside(size: int) -> np.ndarray:
    """Which pixels of a square lie outside its disc, bool [size, size]."""
    offset = np.arange(size) + 0.5 - size / 2
    return np.hypot(offset[:, None], offset[None, :]) > size / 2


def whole_frame(rgb: np.ndarray, size: int) -> np.ndarray:
    """Pad uint8 [H, W, 3] to a square with black and resample it to [size, size, 3]: no field of view is sought."""
    _check_rgb(rgb)
    return resize(_padded(rgb), size)


def whole_levels(levels: np.ndarray, size: int) -> np.ndarray:
    """Pad and resample a mask uint8 [H, W] as `whole_frame` does its image."""
    return resize_levels(_padded(levels), size)


def _padded(pixels: np.ndarray) -> np.ndarray:
    side = max(pixels.shape[:2])
    top, left = (side - pixels.shape[0]) // 2, (side - pixels.shape[1]) // 2
    square = np.zeros((side, side, *pixels.shape[2:]), dtype=np.uint8)
    square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return square


def resize(square: np.ndarray, size: int) -> np.ndarray:
    """Resample uint8 [S, S, 3] to [size, size, 3]: by area when it shrinks, by cubic interpolation when it grows."""
    if square.shape[0] == size:
        return square
    method = cv2.INTER_AREA if square.shape[0] > size else cv2.INTER_CUBIC
    return cv2.resize(square, (size, size), interpolation=method)


def resize_levels(square: np.ndarray, size: int) -> np.ndarray:
    """Resample a mask uint8 [S, S] to [size, size]: each pixel has the level that covers most of it."""
    if square.shape[0] == size:
        return square
    levels = np.unique(square)
    shares = np.stack([resize((square == level).astype(np.float32), size) for level in levels])
    return levels[shares.argmax(axis=0)]


def _check_rgb(rgb: np.ndarray) -> None:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise UserError(f"rgb is {rgb.dtype} {list(rgb.shape)}, and must be uint8 [H, W, 3].")
