"""What makes macula, disc or the rest of the retina unreadable, painted where the labels say and nowhere else."""

import cv2
import numpy as np

from datamodules.phantom.anatomy import Eye
from datamodules.phantom.canvas import View
from datamodules.phantom.labels import READABLE
from datamodules.phantom.textures import sample_texture

CAUSES = ("blur", "haze", "dark", "bright", "artefact")
_CAUSE_SHARE = (0.30, 0.28, 0.20, 0.10, 0.12)
_COARSE = 64


def degrade(
    lit: np.ndarray, view: View, eye: Eye, labels: dict[str, int], mirrored: bool, rng: np.random.Generator
) -> np.ndarray:
    """Spoil the unreadable regions of an exposed picture, float32 0-255 [size, size, 3]; readable ones are kept."""
    causes = dict(zip(READABLE, rng.choice(len(CAUSES), len(READABLE), p=_CAUSE_SHARE).tolist(), strict=True))
    if rng.random() < 0.85:
        causes = dict.fromkeys(READABLE, causes[READABLE[0]])
    unreadable = [name for name in READABLE if not labels[name]]
    if not unreadable:
        return lit
    spoiled = _spoiled(view, eye, unreadable, rng)
    for cause in sorted({causes[name] for name in unreadable}):
        window = np.max([spoiled[name] for name in unreadable if causes[name] == cause], axis=0)
        window = cv2.resize(window, (view.size, view.size), interpolation=cv2.INTER_CUBIC)
        window = np.clip(cv2.flip(window, 1) if mirrored else window, 0, 1)
        lit = _PAINT[CAUSES[cause]](lit, window, rng)
    return lit


def _spoiled(view: View, eye: Eye, unreadable: list[str], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """For each unreadable region how much it is spoiled, 0 to 1 on a coarse grid, with edges as uneven as clouds."""
    coarse = View(_COARSE, tuple(view.centre), view.half_field, view.px_per_deg * 2 * view.half_field / view.size)
    uneven = sample_texture("cloud", _COARSE, coarse.px_per_deg, rng, zoom=0.6) * np.float32(0.10)
    to_fovea = cv2.sqrt(coarse.distance2((0.0, 0.0)))
    to_disc = cv2.sqrt(coarse.distance2(eye.disc))
    macula = _inside(to_fovea / np.float32(4.8) + uneven, 1.6)
    disc = _inside(to_disc / np.float32(1.15 * eye.disc_radius) + uneven, 1.6)
    keep_macula = _inside(to_fovea / np.float32(4.8))
    keep_disc = _inside(to_disc / np.float32(1.15 * eye.disc_radius))
    beyond = np.maximum(np.maximum(-coarse.x, coarse.x - np.float32(eye.disc[0])), 0)
    bridge = _inside(np.sqrt(coarse.y**2 + beyond**2) / np.float32(5.2) + uneven, 1.4)
    kept = np.zeros((_COARSE, _COARSE), np.float32)
    if "is_macular_readable" not in unreadable:
        kept = np.maximum(kept, keep_macula)
    if "is_optic_disc_readable" not in unreadable:
        kept = np.maximum(kept, keep_disc)
    both = not {"is_macular_readable", "is_optic_disc_readable"} & set(unreadable)
    rest = 1 - (np.maximum(kept, bridge) if both else kept)
    return {
        "is_macular_readable": macula * (1 - kept),
        "is_optic_disc_readable": disc * (1 - kept),
        "is_retinal_region_readable": rest,
    }


def _inside(distance: np.ndarray, margin: float = 1.0) -> np.ndarray:
    """1 up to distance 1, falling smoothly to 0 at 1 + ``margin``."""
    edge = np.clip((np.float32(1 + margin) - distance) * np.float32(1 / margin), 0, 1)
    return edge * edge * (3 - 2 * edge)


def _mix(lit: np.ndarray, other: np.ndarray, window: np.ndarray) -> np.ndarray:
    return lit + window[..., None] * (other - lit)


def _smear(lit: np.ndarray, fraction: float) -> np.ndarray:
    """Blur by ``fraction`` of the picture's size, on a reduced copy."""
    small = cv2.resize(lit, (_COARSE, _COARSE), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), _COARSE * fraction)
    return cv2.resize(small, (lit.shape[1], lit.shape[0]), interpolation=cv2.INTER_LINEAR)


def _veil(lit: np.ndarray, whiteness: float) -> np.ndarray:
    """The picture's mean colour drawn towards a pale grey."""
    middle = lit[lit.shape[0] // 4 : -lit.shape[0] // 4 : 4, lit.shape[1] // 4 : -lit.shape[1] // 4 : 4].mean((0, 1))
    return ((1 - whiteness) * middle + whiteness * np.array([185, 165, 120])).astype(np.float32)


def _blur(lit: np.ndarray, window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Out of focus, and paler for it: what spreads light takes contrast as well."""
    smeared = _smear(lit, rng.uniform(0.055, 0.08))
    return _mix(lit, np.float32(0.6) * smeared + np.float32(0.4) * _veil(lit, 0.08), window)


def _haze(lit: np.ndarray, window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cataract or vitreous clouding: little contrast, light scattered over everything."""
    veil = _veil(lit, rng.uniform(0.15, 0.5))
    cloud = sample_texture("cloud", _COARSE, _COARSE / 45, rng)[..., None] * np.float32(0.06) + 1
    cloud = cv2.resize(cloud, (lit.shape[1], lit.shape[0]))[..., None]
    return _mix(lit, np.float32(0.15) * _smear(lit, 0.03) + np.float32(0.85) * veil * cloud, window)


def _dark(lit: np.ndarray, window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A shadow: small pupil, opacity or a lid in the light's way."""
    return lit * np.exp(window * window * np.float32(-rng.uniform(2.0, 2.8)))[..., None]


def _bright(lit: np.ndarray, window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Over-exposure: tones pushed up into white."""
    glare = np.array([240, 215, 165], np.float32) * np.float32(rng.uniform(1.0, 1.2))
    return lit * (1 - np.float32(0.85) * window)[..., None] + window[..., None] * glare


def _artefact(lit: np.ndarray, window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A smeared pale reflection with lashes and dust, out of focus."""
    size = lit.shape[0]
    lashes = np.zeros((size, size), np.uint8)
    t = np.linspace(0, 1, 12)
    lean, edge = rng.normal(0, 0.25), rng.choice([-0.05, 1.05])
    for _ in range(int(rng.integers(12, 22))):
        x, bend, reach = rng.uniform(-0.1, 1.1), rng.normal(0, 0.15), rng.uniform(0.4, 1.05)
        y = edge + np.sign(0.5 - edge) * reach * t
        path = np.stack([x + lean * t + bend * t**2, y], 1) * size
        cv2.polylines(lashes, [np.rint(path * 16).astype(np.int32)], False, 200, max(1, size // 80), cv2.LINE_AA, 4)
    for _ in range(int(rng.integers(6, 14))):
        spot = np.rint(rng.uniform(0.1, 0.9, 2) * size * 16).astype(int).tolist()
        cv2.circle(lashes, spot, int(size * 16 * rng.uniform(0.005, 0.015)), 150, -1, cv2.LINE_AA, 4)
    shade = cv2.GaussianBlur(lashes, (0, 0), size * 0.008).astype(np.float32) * np.float32(1 / 255)
    streaks = sample_texture("mottle", size, size / 45, rng, stretch=4.0) * np.float32(0.08) + 1
    veil = _veil(lit, rng.uniform(0.6, 1.0)) * np.float32(rng.uniform(0.9, 1.15))
    smeared = np.float32(0.25) * _smear(lit, 0.04) + np.float32(0.75) * veil * streaks[..., None]
    return _mix(lit, smeared * (1 - np.float32(0.75) * shade)[..., None], window)


_PAINT = {"blur": _blur, "haze": _haze, "dark": _dark, "bright": _bright, "artefact": _artefact}
