"""Where a phantom is painted: degrees to pixels, and layers that absorb or reflect light in log space."""

from collections.abc import Sequence

import cv2
import numpy as np

_SHIFT = 4
_ONE = 1 << _SHIFT


class View:
    """The part of the retina that the camera sees.

    Retinal coordinates are degrees of visual angle of a right eye: origin at the fovea, x towards the nose (the disc),
    y downwards. ``centre`` is what lies in the middle of the picture, ``half_field`` the field's radius in degrees,
    ``fill`` the radius of the field as a fraction of half the picture.
    """

    def __init__(self, size: int, centre: tuple[float, float], half_field: float, fill: float) -> None:
        self.size = size
        self.centre = np.asarray(centre)
        self.half_field = half_field
        self.px_per_deg = fill * size / 2 / half_field
        axis = ((np.arange(size) + 0.5 - size / 2) / self.px_per_deg).astype(np.float32)
        self.x = (axis + np.float32(centre[0]))[None, :]
        self.y = (axis + np.float32(centre[1]))[:, None]

    def to_px(self, points: np.ndarray) -> np.ndarray:
        """Degrees [..., 2] to pixel coordinates, pixel centres at whole numbers."""
        return (points - self.centre) * self.px_per_deg + (self.size / 2 - 0.5)

    def fixed(self, points: np.ndarray) -> np.ndarray:
        """Degrees [..., 2] to OpenCV fixed-point pixels."""
        return np.clip(np.rint(self.to_px(points) * _ONE), -(2**20), 2**20).astype(np.int32)

    def distance2(self, point: Sequence[float], aspect: float = 1.0) -> np.ndarray:
        """Squared distance in degrees from ``point``, y divided by ``aspect``; float32 [size, size]."""
        dx = self.x - np.float32(point[0])
        dy = (self.y - np.float32(point[1])) / np.float32(aspect)
        return dx * dx + dy * dy

    def glow(self, point: Sequence[float], sigma_deg: float, aspect: float = 1.0) -> np.ndarray:
        """A Gaussian spot of height 1, float32 [size, size]."""
        row = np.exp(-0.5 * ((self.x - np.float32(point[0])) / sigma_deg) ** 2)
        column = np.exp(-0.5 * ((self.y - np.float32(point[1])) / (sigma_deg * aspect)) ** 2)
        return column * row

    def blank(self) -> np.ndarray:
        """An empty uint8 coverage layer [size, size]."""
        return np.zeros((self.size, self.size), np.uint8)

    def fill(self, layer: np.ndarray, outline: np.ndarray, value: int = 255) -> None:
        """Fill a polygon [N, 2] (degrees) with soft edges."""
        cv2.fillPoly(layer, [self.fixed(outline)], value, cv2.LINE_AA, _SHIFT)

    def dots(self, layer: np.ndarray, centres: np.ndarray, radii: np.ndarray, value: int = 255) -> None:
        """Round spots [N, 2] of ``radii`` [N] degrees; those below a pixel fade instead of vanishing."""
        points = self.fixed(centres)
        radii_px = radii * self.px_per_deg
        for point, radius in zip(points, radii_px.tolist(), strict=True):
            shade = value if radius > 0.8 else int(value * max(radius / 0.8, 0.15) ** 2)
            reach = int((max(radius, 0.6) - 0.3) * _ONE)
            cv2.circle(layer, point.tolist(), reach, shade, -1, cv2.LINE_AA, _SHIFT)

    def lines(self, layer: np.ndarray, paths: list[np.ndarray], width_deg: float, value: int = 255) -> None:
        """Polylines, each [N, 2] degrees; thinner than a pixel they fade."""
        width = width_deg * self.px_per_deg
        shade = int(value * min(1.0, width / 1.2))
        fixed = [self.fixed(path) for path in paths]
        cv2.polylines(layer, fixed, False, max(shade, 1), max(1, int(round(width))), cv2.LINE_AA, _SHIFT)


def blobs(
    rng: np.random.Generator, centres: np.ndarray, radii: np.ndarray, rough: float, points: int = 18
) -> np.ndarray:
    """Outlines [N, points, 2] of irregular round patches; ``rough`` 0 gives circles."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    count = len(centres)
    wave = np.ones((count, points))
    for harmonic in (2, 3, 5):
        phase = rng.uniform(0, 2 * np.pi, (count, 1))
        wave += rough * rng.uniform(0.3, 1.0, (count, 1)) / harmonic**0.7 * np.cos(harmonic * angle + phase)
    wave = np.maximum(wave, 0.25) * radii[:, None]
    return centres[:, None] + np.stack([wave * np.cos(angle), wave * np.sin(angle)], -1)


# Pale tissue keeps its colour better than the fundus does when camera and pigment change: log colours of the mean
# fundus, and how much of an eye's departure from it pale tissue shares (regression over three public sets).
_MEAN_FUNDUS = np.log([143.0, 66.0, 15.5])
_PALE_SHARE = np.array([0.30, 0.45, 0.55])


class Painting:
    """A retina being painted: log reflectance of three colour planes, and the coverage of every structure by name."""

    def __init__(self, view: View, log_base: np.ndarray) -> None:
        self.view = view
        self.log_base = log_base
        self.log_pale = _MEAN_FUNDUS + _PALE_SHARE * (log_base - _MEAN_FUNDUS)
        self.planes = [np.full((view.size, view.size), float(v), np.float32) for v in log_base]
        self.coverage: dict[str, np.ndarray] = {}

    def add(self, layer: np.ndarray, gains: Sequence[float]) -> None:
        """Add ``gains`` (log units of R, G, B) times a float32 layer."""
        for plane, gain in zip(self.planes, gains, strict=True):
            if gain:
                cv2.scaleAdd(layer, float(gain), plane, plane)

    def spread(self, layer: np.ndarray, gains: Sequence[float], soften_deg: float = 0.0) -> None:
        """Add ``gains`` where a uint8 coverage layer lies, its edges softened; only its bounding box is touched."""
        box, alpha = self._soft(layer, soften_deg)
        if box is not None:
            for plane, gain in zip(self.planes, gains, strict=True):
                plane[box] += alpha * np.float32(gain)

    def cover(self, layer: np.ndarray, gains: Sequence[float], opacity: float = 1.0, soften_deg: float = 0.0) -> None:
        """Paint over with the base colour changed by ``gains``: what lies below shows only through ``opacity`` < 1."""
        box, alpha = self._soft(layer, soften_deg)
        if box is not None:
            alpha *= np.float32(opacity)
            ground = self.log_pale if gains[1] > 0 else self.log_base
            for plane, gain, base in zip(self.planes, gains, ground, strict=True):
                plane[box] += alpha * (np.float32(base + gain) - plane[box])

    def mark(self, name: str, layer: np.ndarray) -> None:
        """Record a coverage layer under a mask's name (union with what is there)."""
        known = self.coverage.get(name)
        self.coverage[name] = layer.copy() if known is None else cv2.max(known, layer)

    def _soft(self, layer: np.ndarray, soften_deg: float) -> tuple[tuple[slice, slice] | None, np.ndarray]:
        x, y, width, height = cv2.boundingRect(layer)
        if width == 0:
            return None, layer
        sigma = soften_deg * self.view.px_per_deg
        pad = int(3 * sigma) + 1 if sigma > 0.2 else 0
        box = (slice(max(y - pad, 0), y + height + pad), slice(max(x - pad, 0), x + width + pad))
        alpha = layer[box].astype(np.float32)
        alpha *= np.float32(1 / 255)
        if pad:
            alpha = cv2.GaussianBlur(alpha, (0, 0), sigma)
        return box, alpha
