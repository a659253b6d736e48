"""Fundus cameras: shape of the field, colour rendering, illumination and the sensor."""

import dataclasses

import cv2
import numpy as np

from datamodules.phantom.anatomy import Eye
from datamodules.phantom.canvas import View
from datamodules.phantom.labels import FACTORS, draw_factors
from datamodules.phantom.streams import stream
from datamodules.phantom.textures import sample_texture


@dataclasses.dataclass(frozen=True)
class CameraType:
    """One make of camera: mean colour of the fundus in 8-bit RGB, field and mask."""

    share: float
    rgb: tuple[float, float, float]
    field_deg: tuple[float, float]
    cut: float
    notch: bool
    vignette: tuple[float, float]
    disc_centred: float


# Mean colours lie where those of public sets taken with such cameras do.
CAMERAS = {
    "wide_cut": CameraType(0.52, (143, 66, 15.5), (44, 46), 0.862, False, (0.25, 1.15), 0.25),
    "wide_full": CameraType(0.16, (150, 73, 22), (44, 50), 1.0, False, (0.2, 1.0), 0.3),
    "notched": CameraType(0.18, (172, 86, 34), (44, 46), 1.0, True, (0.0, 0.5), 0.3),
    "narrow": CameraType(0.06, (172, 66, 14), (35, 40), 1.0, False, (0.4, 1.0), 0.8),
    "hand_held": CameraType(0.08, (146, 70, 22), (40, 45), 0.92, True, (0.2, 0.9), 0.4),
}


_NOISE_SCALE = 4.0
"""Sensor noise is as fine as the picture's pixels: texture degrees in which a pixel measures a quarter."""


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera set up before one eye."""

    kind: str
    log_rgb: np.ndarray
    half_field: float
    fill: float
    cut: float
    notch_angle: float | None
    vignette: float
    focus: float
    haze: float


def make_camera(seed: int, index: int) -> Camera:
    """The camera of phantom ``index``: one make, exposure and colour balance for both eyes of a patient, nearly."""
    shared = stream(seed, index // 2, "patient camera")
    rng = stream(seed, index, "eye camera")
    traits = dict(zip(FACTORS, draw_factors(stream(seed, index // 2, "patient labels"))[0].tolist(), strict=True))
    kinds = list(CAMERAS)
    kind = kinds[int(np.searchsorted(np.cumsum([CAMERAS[k].share for k in kinds])[:-1], shared.random()))]
    make = CAMERAS[kind]
    exposure = shared.normal(-0.02, 0.14) + rng.normal(0, 0.06)
    green = shared.normal(-0.03, 0.16) + rng.normal(0, 0.03)
    blue = shared.normal(0, 0.38) + 1.2 * green + rng.normal(0, 0.08)
    balance = np.array([exposure, 1.3 * exposure + green, 1.2 * exposure + blue])
    low, high = make.vignette
    return Camera(
        kind=kind,
        log_rgb=np.log(np.array(make.rgb)) + balance,
        half_field=shared.uniform(*make.field_deg) / 2,
        fill=shared.uniform(0.985, 1.0),
        cut=make.cut + shared.uniform(-0.012, 0.012) if make.cut < 1 else 1.0,
        notch_angle=np.deg2rad(shared.choice([-42.0, 42.0]) + shared.normal(0, 3)) if make.notch else None,
        vignette=shared.uniform(low, high),
        focus=float(abs(rng.normal(0, 0.06)) + (0.12 * rng.random() if rng.random() < 0.25 else 0.0)),
        haze=float(np.clip(0.08 + 0.07 * traits["age"] + 0.07 * traits["media"] + rng.normal(0, 0.05), 0.0, 0.30)),
    )


def make_view(eye: Eye, camera: Camera, size: int, seed: int, index: int) -> View:
    """Where the camera looks: between macula and disc, on the disc, or on the macula, both always inside the field."""
    rng = stream(seed, index, "gaze")
    half = camera.half_field
    on_disc = stream(seed, index // 2, "patient gaze").random() < CAMERAS[camera.kind].disc_centred
    share = rng.normal(0.78, 0.12) if on_disc else rng.normal(0.26, 0.14)
    low = (eye.disc[0] + 1.05 * eye.disc_radius - 0.97 * half) / eye.disc[0]
    high = (0.86 * half - 2.5) / eye.disc[0]
    share = float(np.clip(share, min(low, 0.5), max(high, 0.5)))
    centre = (share * eye.disc[0], share * eye.disc[1] + rng.normal(0, 0.9))
    return View(size, centre, half, camera.fill)


def field_mask(view: View, camera: Camera) -> np.ndarray:
    """The lit field as coverage, uint8 [size, size], 255 inside."""
    layer = view.blank()
    middle = view.size / 2 - 0.5
    radius = camera.fill * view.size / 2
    point = (int(round(middle * 16)),) * 2
    cv2.circle(layer, point, int((radius - 0.5) * 16), 255, -1, cv2.LINE_AA, 4)
    if camera.cut < 1.0:
        edge = int(round(middle - camera.cut * radius))
        layer[:edge], layer[view.size - edge :] = 0, 0
    if camera.notch_angle is not None:
        spot = middle + radius * 1.005 * np.array([np.cos(camera.notch_angle), np.sin(camera.notch_angle)])
        cv2.circle(layer, np.rint(spot * 16).astype(int).tolist(), int(radius * 0.05 * 16), 255, -1, cv2.LINE_AA, 4)
    return layer


def shine(planes: list[np.ndarray], view: View, camera: Camera, seed: int, index: int) -> None:
    """Vignetting, off-centre lighting and lens blur of log planes, in place; in picture coordinates, not the eye's."""
    rng = stream(seed, index, "illumination")
    size = view.size
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    dx, dy = rng.normal(0, 0.22, 2).astype(np.float32)
    dist2 = (axis[:, None] - dy) ** 2 + (axis[None] - dx) ** 2
    bowl = dist2 * dist2
    tilt = rng.normal(0, 0.17, 2).astype(np.float32)
    light = np.float32(-0.25 * camera.vignette) * bowl + np.float32(-0.23 * camera.vignette) * dist2
    light += tilt[0] * axis[None] + tilt[1] * axis[:, None] + np.float32(0.17 * camera.vignette)
    for plane, gain in zip(planes, (0.85, 1.0, 1.05), strict=True):
        cv2.scaleAdd(light, gain, plane, plane)


def expose(planes: list[np.ndarray], view: View, camera: Camera, seed: int, index: int) -> np.ndarray:
    """Log planes to linear 0-255 float32 [size, size, 3], with focus blur, haze, edge glare and the central reflex."""
    rng = stream(seed, index, "lens")
    size = view.size
    sigma = camera.focus * view.px_per_deg
    lit = [np.exp(plane) for plane in planes]
    if sigma > 0.3:
        lit = [cv2.GaussianBlur(plane, (0, 0), sigma) for plane in lit]
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    veil = np.zeros((size, size), np.float32)
    if rng.random() < 0.55:
        angle = rng.uniform(0, 2 * np.pi)
        dx, dy = rng.uniform(0.02, 0.22) * np.cos(angle), rng.uniform(0.02, 0.22) * np.sin(angle)
        edge = np.sqrt((axis[None] - np.float32(dx)) ** 2 + (axis[:, None] - np.float32(dy)) ** 2)
        glare = np.exp((edge - np.float32(1.0)) * np.float32(1 / rng.uniform(0.04, 0.10)))
        veil += np.minimum(glare, np.float32(3.0)) * np.float32(rng.uniform(0.03, 0.16))
    if rng.random() < 0.30:
        _central_reflex(veil, axis, rng)
    colour = np.array([108.0, 110.0, 80.0]) * rng.uniform([0.85, 0.9, 0.6], [1.1, 1.1, 1.3])
    mean = [float(plane[size // 4 : -size // 4 : 4, size // 4 : -size // 4 : 4].mean()) for plane in lit]
    for plane, white, level in zip(lit, colour, mean, strict=True):
        plane *= np.float32(1 - camera.haze)
        plane += np.float32(camera.haze * (0.75 * level + 0.25 * white * 0.8))
        plane += veil * np.float32(white)
    return cv2.merge(lit)


def _central_reflex(veil: np.ndarray, axis: np.ndarray, rng: np.random.Generator) -> None:
    """The greyish patches that the objective lens reflects near the middle of the picture."""
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.normal(0, 0.13, 2)
        long, short, angle = rng.uniform(0.05, 0.13), rng.uniform(0.025, 0.05), rng.uniform(0, np.pi)
        cos, sin = np.cos(angle), np.sin(angle)
        dx, dy = axis[None] - np.float32(x), axis[:, None] - np.float32(y)
        u, v = (cos * dx + sin * dy) / np.float32(long), (cos * dy - sin * dx) / np.float32(short)
        veil += np.exp(-0.5 * (u * u + v * v).astype(np.float32)) * np.float32(rng.uniform(0.1, 0.5))


def develop(lit: np.ndarray, field: np.ndarray, view: View, out_size: int, seed: int, index: int) -> np.ndarray:
    """Exposed picture to uint8 [out_size, out_size, 3]: shoulder of the tone curve, black surround, sensor noise."""
    rng = stream(seed, index, "sensor")
    picture = cv2.resize(lit, (out_size, out_size), interpolation=cv2.INTER_AREA)
    inside = cv2.resize(field, (out_size, out_size), interpolation=cv2.INTER_AREA) * np.float32(1 / 255)
    knee = np.float32(205.0)
    over = np.maximum(picture - knee, np.float32(0))
    picture = np.minimum(picture, knee) + np.float32(50.0) * (1 - np.exp(over * np.float32(-1 / 50)))
    noise = [sample_texture("grain", out_size, _NOISE_SCALE, rng) for _ in range(3)]
    picture += cv2.merge(noise) * np.float32(rng.uniform(0.8, 1.8))
    black = np.float32(rng.uniform(0, 4) if rng.random() < 0.3 else 0.0)
    picture = black + (picture - black) * inside[..., None]
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
