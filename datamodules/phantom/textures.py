"""Fixed banks of tileable noise, made once a process, that give fundus tissue its texture at any image size."""

import functools

import cv2
import numpy as np

from datamodules.phantom.streams import stream

TILE_DEG = 60.0
"""Side of a tile in degrees of visual angle."""
_TILE = 1024


def _band_noise(name: str, coarse_deg: float, fine_deg: float, slope: float) -> np.ndarray:
    """Tileable Gaussian noise, unit variance: wavelengths ``fine_deg`` to ``coarse_deg``, amplitude f^-slope."""
    freq = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None]) * _TILE / TILE_DEG
    freq[0, 0] = 1e-6
    gain = freq**-slope * np.exp(-((freq * fine_deg) ** 2)) * (1.0 - np.exp(-((freq * coarse_deg) ** 2)))
    white = stream(0, "texture", name).standard_normal((_TILE, _TILE))
    noise = np.fft.irfft2(np.fft.rfft2(white) * gain, (_TILE, _TILE))
    return (noise / noise.std()).astype(np.float32)


def _ridges(name: str, wavelength_deg: float) -> np.ndarray:
    """A net of bright, winding bands: where band-limited noise crosses zero."""
    noise = _band_noise(name, wavelength_deg * 1.8, wavelength_deg * 0.45, 0.9)
    net = np.zeros_like(noise)
    for shift, share in ((0, 0.5), (311, 0.35), (622, 0.25)):
        net += share * np.exp(-((np.roll(noise, (shift, shift // 2), (0, 1)) / 0.55) ** 2))
    net += 0.12 * _band_noise(name + " shade", 2 * wavelength_deg, 0.4, 1.2)
    net -= net.mean()
    return (net / net.std()).astype(np.float32)


_RECIPES = {
    "cloud": lambda: _band_noise("cloud", 60.0, 7.0, 1.6),
    "mottle": lambda: _band_noise("mottle", 9.0, 0.5, 1.1),
    "grain": lambda: _band_noise("grain", 1.6, 0.10, 0.6),
    "choroid": lambda: _ridges("choroid", 5.0),
    "fibres": lambda: _band_noise("fibres", 3.0, 0.25, 0.4),
}


@functools.cache
def _level(name: str, halvings: int) -> np.ndarray:
    if halvings == 0:
        return _RECIPES[name]()
    finer = _level(name, halvings - 1)
    return cv2.resize(finer, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def sample_texture(
    name: str,
    size: int,
    px_per_deg: float,
    rng: np.random.Generator,
    stretch: float = 1.0,
    angle: float | None = None,
    zoom: float = 1.0,
) -> np.ndarray:
    """A random window of a texture, float32 [size, size], about zero mean and unit variance.

    The window depends on degrees, not on pixels, so a scene looks the same at any size. ``stretch`` lengthens the
    structures along ``angle`` (radians); ``zoom`` enlarges them. The centre of the window is the fixed point.
    """
    turn = rng.uniform(0, 2 * np.pi) if angle is None else angle
    offset = rng.uniform(0, _TILE, 2)
    bank_per_px = _TILE / TILE_DEG / px_per_deg / zoom
    halvings = int(np.clip(np.floor(np.log2(max(bank_per_px, 1.0)) + 0.35), 0, 4))
    tile = _level(name, halvings)
    scale = bank_per_px / 2**halvings
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = np.array([[cos / stretch, sin / stretch], [-sin, cos]]) * scale
    shift = offset / 2**halvings - matrix @ np.full(2, (size - 1) / 2)
    affine = np.column_stack([matrix, shift])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(tile, affine, (size, size), flags=flags, borderMode=cv2.BORDER_WRAP)
