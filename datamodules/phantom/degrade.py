"""What makes macula, disc or the rest of the retina unreadable, painted where the labels say and nowhere else."""

import cv2
import numpy as np

from datamodules.phantom.anatomy import Eye
from datamodules.phantom.canvas import View

CAUSES = ("blur", "haze", "dark", "bright", "artefact")


def degrade(
    lit: np.ndarray, view: View, eye: Eye, labels: dict[str, int], mirrored: bool, rng: np.random.Generator
) -> np.ndarray:
    """Spoil the unreadable regions of an exposed picture, float32 0-255 [size, size, 3]; readable ones are kept."""
    regions = _regions(view, eye)
    if mirrored:
        regions = {name: cv2.flip(window, 1) for name, window in regions.items()}
    first = CAUSES[int(rng.choice(5, p=[0.28, 0.27, 0.20, 0.10, 0.15]))]
    spoiled: dict[str, np.ndarray] = {}
    for name, window in regions.items():
        other = CAUSES[int(rng.integers(5))]
        cause = first if rng.random() < 0.75 else other
        if not labels[name]:
            known = spoiled.get(cause)
            spoiled[cause] = window if known is None else np.maximum(known, window)
    for cause, window in spoiled.items():
        lit = _PAINT[cause](lit, window, rng)
    return lit


def _regions(view: View, eye: Eye) -> dict[str, np.ndarray]:
    """Soft windows that together cover the picture: macula, disc, and all else."""
    macula = _window(view, np.zeros(2), 6.0)
    disc = _window(view, eye.disc, 1.75 * eye.disc_radius)
    macula = macula * (1 - disc)
    rest = 1 - np.maximum(macula, disc)
    return {"is_macular_readable": macula, "is_optic_disc_readable": disc, "is_retinal_region_readable": rest}


def _window(view: View, centre: np.ndarray, radius: float) -> np.ndarray:
    """1 within ``radius`` degrees, falling to 0 over the next third of it."""
    distance = cv2.sqrt(view.distance2(centre))
    edge = (np.float32(1.33 * radius) - distance) * np.float32(1 / (0.33 * radius))
    edge = np.clip(edge, 0, 1)
    return edge * edge * (3 - 2 * edge)


def _mix(lit: np.ndarray, other: np.ndarray, window: np.ndarray) -> np.ndarray:
    alpha = window[..., None]
    return lit + alpha * (other - lit)


def _smear(lit: np.ndarray, fraction: float) -> np.ndarray:
    """Blur by ``fraction`` of the picture's size, on a reduced copy."""
    size = lit.shape[0]
    small = cv2.resize(lit, (64, 64), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), max(64 * fraction, 0.3))
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)


def _blur(lit: np.ndarray, window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _mix(lit, _smear(lit, rng.uniform(0.035, 0.07)), window)


def _haze(lit: np.ndarray, window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cataract or vitreous clouding: little contrast, greyish light scattered over everything."""
    veil = np.array([150, 118, 72], np.float32) * np.float32(rng.uniform(0.75, 1.1))
    clouded = 0.22 * _smear(lit, 0.03) + 0.78 * veil
    return _mix(lit, clouded.astype(np.float32), window)


def _dark(lit: np.ndarray, window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return lit * (1 - np.float32(rng.uniform(0.90, 0.97)) * window)[..., None]


def _bright(lit: np.ndarray, window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    glare = np.array([285, 262, 205], np.float32) * np.float32(rng.uniform(0.95, 1.2))
    return _mix(lit, 0.10 * lit + glare, window)


def _artefact(lit: np.ndarray, window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lashes and lid out of focus over a pale reflection, with dust."""
    size = lit.shape[0]
    lashes = np.zeros((size, size), np.uint8)
    for _ in range(int(rng.integers(10, 18))):
        x, bend = rng.uniform(0, size), rng.normal(0, 0.25)
        t = np.linspace(0, 1, 12)
        path = np.stack([x + bend * size * t**2, t * size], 1)
        cv2.polylines(lashes, [np.rint(path * 16).astype(np.int32)], False, 255, max(1, size // 40), cv2.LINE_AA, 4)
    for _ in range(int(rng.integers(6, 14))):
        spot = rng.uniform(0.1, 0.9, 2) * size
        cv2.circle(lashes, spot.astype(int).tolist(), max(1, int(size * rng.uniform(0.008, 0.03))), 190, -1, cv2.LINE_AA)
    lashes = cv2.GaussianBlur(lashes, (0, 0), size * 0.006).astype(np.float32) * np.float32(0.85 / 255)
    glow = np.array([205, 188, 150], np.float32) * np.float32(rng.uniform(0.8, 1.15))
    veil = 0.25 * _smear(lit, 0.03) + 0.75 * glow
    return _mix(lit, veil * (1 - lashes)[..., None], window).astype(np.float32)


_PAINT = {"blur": _blur, "haze": _haze, "dark": _dark, "bright": _bright, "artefact": _artefact}
