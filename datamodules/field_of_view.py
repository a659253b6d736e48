"""The field of view of a fundus photograph: finding the disc that the camera sees.

A fundus camera shows the retina in a disc on a dark ground; sensors often cut the disc at the top and the bottom. The
disc's edge is found on a reduced copy by fitting a circle (RANSAC, then least squares), and its support along the
visible part of the circle is what tells a fundus photograph from another picture.

Letters: H, W height and width in pixels; (x, y) the disc's centre, radius its radius, all in pixels of the array at
hand.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from datamodules.errors import UserError

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


def detect_field_of_view(rgb: np.ndarray) -> FieldOfView:
    """Find the disc of a fundus photograph, uint8 [H, W, 3], wherever the sensor cuts it.

    Raises NotAFundusError with the reason: uniform, no dark surround, no circular edge, colours of another subject.
    """
    check_rgb(rgb)
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


def check_rgb(rgb: np.ndarray) -> None:
    """Raise ValueError for anything but uint8 [H, W, 3]."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise UserError(f"rgb is {rgb.dtype} {list(rgb.shape)}, and must be uint8 [H, W, 3].")
