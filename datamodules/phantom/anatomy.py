"""The eye behind a phantom: a patient's traits, an eye's geometry, and the paint of fundus, macula and disc."""

import dataclasses

import cv2
import numpy as np

from datamodules.phantom.canvas import Painting, blobs
from datamodules.phantom.labels import FACTORS, draw_factors
from datamodules.phantom.streams import stream
from datamodules.phantom.textures import sample_texture


@dataclasses.dataclass(frozen=True)
class Eye:
    """Geometry (degrees, right-eye frame with the fovea at the origin) and tissue of one eye."""

    age: float
    pigment: float
    tessellation: float
    disc: np.ndarray
    disc_radius: float
    disc_aspect: float
    disc_tilt: float
    cup_ratio: float
    cup_centre: np.ndarray
    crescent: float
    sheen: float
    macula: float
    foveal_reflex: float
    pallor: float
    swelling: float


def make_eye(seed: int, index: int, labels: dict[str, int]) -> Eye:
    """The eye of phantom ``index``; fellow eyes share the patient's traits, ``labels`` shape disc, cup and pigment."""
    factors, _ = draw_factors(stream(seed, index // 2, "patient labels"))
    traits = dict(zip(FACTORS, factors.tolist(), strict=True))
    patient = stream(seed, index // 2, "patient anatomy")
    rng = stream(seed, index, "eye anatomy")
    age = float(np.clip(56 + 13 * traits["age"], 18, 92))
    myopia = traits["myopia"]
    pigment = float(patient.normal())
    tessellation = patient.uniform(0.05, 0.6) * np.clip(0.75 + 0.25 * myopia - 0.25 * pigment, 0.15, 1.5)
    radius = float(np.clip(patient.normal(2.95, 0.22) + rng.normal(0, 0.07), 2.4, 3.6))
    aspect = float(np.clip(patient.normal(1.07, 0.04) + rng.normal(0, 0.02), 0.98, 1.2))
    tilt = float(rng.normal(0, 0.15))
    ratio = np.clip(patient.normal(0.36, 0.10) + rng.normal(0, 0.03), 0.15, 0.53)
    crescent = max(0.0, patient.normal(0.1 + 0.12 * max(myopia, 0), 0.18))
    glaucoma_ratio = rng.uniform(0.72, 0.90)
    pallor, swelling = 0.0, 0.0
    if labels["is_dm"]:
        tessellation, crescent = rng.uniform(1.5, 2.1), rng.uniform(0.35, 0.65)
    if labels["is_pm"]:
        tessellation, crescent = max(tessellation, rng.uniform(1.1, 1.7)), rng.uniform(0.8, 1.3)
        aspect, tilt = rng.uniform(1.22, 1.42), rng.uniform(-0.5, 0.5)
        radius *= 0.95
    if labels["is_gc"]:
        ratio = glaucoma_ratio
    if labels["is_aon"]:
        if rng.random() < 0.55 or labels["is_gc"]:
            pallor = rng.uniform(0.75, 1.0)
        else:
            swelling, ratio = rng.uniform(0.7, 1.0), 0.16
            radius *= 1.15
    disc = np.array([patient.normal(15.4, 0.5), patient.normal(-1.6, 0.5)]) + rng.normal(0, 0.15, 2)
    drift = np.array([rng.normal(0.12, 0.05), rng.normal(0.0, 0.05)]) * (1 - ratio) * radius
    return Eye(
        age=age,
        pigment=pigment,
        tessellation=float(tessellation),
        disc=disc,
        disc_radius=radius,
        disc_aspect=aspect,
        disc_tilt=tilt,
        cup_ratio=float(ratio),
        cup_centre=disc + drift,
        crescent=float(crescent),
        sheen=float(np.clip(1.1 - age / 80, 0, 1) * patient.uniform(0.3, 1.3)),
        macula=float(patient.uniform(0.7, 1.5)),
        foveal_reflex=float(np.clip(1.2 - age / 55, 0, 1) * patient.uniform(0.3, 1.0)),
        pallor=pallor,
        swelling=swelling,
    )


def ellipse(
    centre: np.ndarray, radius: float, aspect: float, tilt: float, wobble: np.ndarray | None = None
) -> np.ndarray:
    """Outline [48, 2] of an upright ellipse of half-height ``radius`` sqrt(aspect), turned by ``tilt`` radians."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    scale = np.ones(48)
    for harmonic, (amount, phase) in enumerate(np.zeros((0, 2)) if wobble is None else wobble, start=2):
        scale += amount * np.cos(harmonic * angle - phase)
    x = radius / np.sqrt(aspect) * np.cos(angle) * scale
    y = radius * np.sqrt(aspect) * np.sin(angle) * scale
    cos, sin = np.cos(tilt), np.sin(tilt)
    return centre + np.stack([x * cos - y * sin, x * sin + y * cos], -1)


def paint_fundus(painting: Painting, eye: Eye, rng: np.random.Generator) -> None:
    """Choroid, pigment and retinal texture, nerve fibre sheen and the macula's darkening."""
    view, px = painting.view, painting.view.px_per_deg
    cloud = sample_texture("cloud", view.size, px, rng)
    painting.add(cloud, (0.055, 0.10, 0.08))
    mottle = sample_texture("mottle", view.size, px, rng)
    amount = rng.uniform(0.5, 1.2)
    painting.add(mottle, (0.010 * amount, 0.020 * amount, 0.03 * amount))
    grain = sample_texture("grain", view.size, px, rng)
    painting.add(grain, (0.016, 0.028, 0.035))
    choroid = sample_texture("choroid", view.size, px, rng, stretch=2.2, angle=rng.uniform(-0.7, 0.7))
    outside = np.minimum(view.distance2((0, 0)) * np.float32(1 / 150), np.float32(1.0))
    choroid *= outside * np.float32(0.85) + np.float32(0.15)
    t = eye.tessellation
    painting.add(choroid, (0.055 * t, 0.068 * t, 0.02 * t))
    _paint_sheen(painting, eye, rng)
    _paint_macula(painting, eye, rng)


def _paint_sheen(painting: Painting, eye: Eye, rng: np.random.Generator) -> None:
    """The nerve fibre layer, thick above and below the disc, reflects bluish white in the young."""
    view = painting.view
    halo = view.glow(eye.disc + [-1.0, 0.0], 5.5, 1.25)
    warm = rng.uniform(0.06, 0.24)
    painting.add(halo, (warm, warm * 1.2, warm))
    if eye.sheen < 0.1:
        return
    streaks = sample_texture("fibres", view.size, view.px_per_deg, rng, stretch=6.0, angle=0.0)
    for sign in (-1, 1):
        arc = view.glow(eye.disc + [-4.5, sign * 5.5], 4.5, 0.8)
        painting.add(arc * (1 + 0.35 * streaks), (0.03 * eye.sheen, 0.15 * eye.sheen, 0.22 * eye.sheen))


def _paint_macula(painting: Painting, eye: Eye, rng: np.random.Generator) -> None:
    view, depth = painting.view, eye.macula
    painting.add(view.glow((0, 0), 4.2), (-0.16 * depth, -0.26 * depth, -0.20 * depth))
    painting.add(view.glow((0, 0), 1.4), (-0.24 * depth, -0.38 * depth, -0.30 * depth))
    if eye.foveal_reflex > 0.05:
        painting.add(view.glow(rng.normal(0, 0.15, 2), 0.28), np.array([0.3, 0.5, 0.6]) * eye.foveal_reflex)
        ring = view.distance2((0, 0))
        np.sqrt(ring, out=ring)
        ring = np.exp(-(((ring - np.float32(2.6)) / np.float32(0.35)) ** 2))
        painting.add(ring, np.array([0.03, 0.10, 0.14]) * eye.foveal_reflex)
    outline = ellipse(np.zeros(2), 2.5, 1.0, 0.0)
    layer = view.blank()
    view.fill(layer, outline)
    painting.mark("fovea", layer)


def paint_disc(painting: Painting, eye: Eye, labels: dict[str, int], rng: np.random.Generator) -> None:
    """Peripapillary crescent, neural rim and cup; marks ``disc``, ``cup`` and ``peripapillary_atrophy``."""
    view = painting.view
    _paint_crescent(painting, eye, labels, rng)
    wobble = np.column_stack([rng.uniform(0, [0.03, 0.02, 0.015]), rng.uniform(0, 2 * np.pi, 3)])
    outline = ellipse(eye.disc, eye.disc_radius, eye.disc_aspect, eye.disc_tilt, wobble)
    layer = view.blank()
    view.fill(layer, outline)
    painting.mark("disc", layer)
    if "peripapillary_atrophy" in painting.coverage:
        around = cv2.subtract(painting.coverage["peripapillary_atrophy"], layer)
        painting.coverage["peripapillary_atrophy"] = around
    soften = 0.16 + 0.9 * eye.swelling
    glow = rng.uniform(0.85, 1.15)
    rim = np.array([0.51, 0.82, 1.26]) * glow * (1 - 0.25 * eye.swelling)
    rim = rim + eye.pallor * np.array([0.12, 0.42, 0.62])
    painting.cover(layer, rim, 0.93, soften)
    if eye.swelling:
        painting.add(view.glow(eye.disc, eye.disc_radius * 1.1), np.array([0.15, 0.32, 0.45]) * eye.swelling)
    else:
        shade = view.blank()
        view.fill(shade, ellipse(eye.disc + [1.1, 0], eye.disc_radius * 0.75, 1.5, eye.disc_tilt))
        painting.spread(shade, np.array([0.02, -0.16, -0.20]) * (1 - eye.pallor), 0.8)
    cup_outline = ellipse(
        eye.cup_centre - [0.1, 0], eye.disc_radius * eye.cup_ratio, _cup_aspect(eye, labels), eye.disc_tilt
    )
    if labels["is_gc"]:
        cup_outline = _notched(cup_outline, eye, rng)
    cup = view.blank()
    view.fill(cup, cup_outline)
    cup = np.minimum(cup, layer)
    painting.mark("cup", cup)
    depth = (0.75 + 0.35 * labels["is_gc"]) * (1 - eye.swelling)
    painting.spread(cup, np.array([0.15, 0.33, 0.80]) * depth, 0.12 + 0.15 * (1 - labels["is_gc"]))


def _cup_aspect(eye: Eye, labels: dict[str, int]) -> float:
    return eye.disc_aspect * (1.06 if labels["is_gc"] else 1.0)


def _notched(outline: np.ndarray, eye: Eye, rng: np.random.Generator) -> np.ndarray:
    """Rim thinned at the upper or lower pole, where glaucoma takes it first."""
    pole = rng.choice([-1, 1])
    offset = outline - eye.cup_centre
    reach = np.exp(-2.5 * (1 - pole * offset[:, 1] / np.abs(offset[:, 1]).max()))
    return outline + reach[:, None] * np.array([-0.03, pole * (0.98 - eye.cup_ratio) * 0.6]) * eye.disc_radius


def _paint_crescent(painting: Painting, eye: Eye, labels: dict[str, int], rng: np.random.Generator) -> None:
    """Bare sclera and thinned pigment at the temporal edge; all round the disc in pathologic myopia."""
    view, width = painting.view, eye.crescent * eye.disc_radius
    if width < 0.12 * eye.disc_radius:
        return
    pathologic = labels["is_pm"]
    shift = np.array([-(0.55 if pathologic else 0.8) * width, 0.15 * width * rng.normal()])
    outer = ellipse(
        eye.disc + shift, eye.disc_radius + width * (0.75 if pathologic else 0.3), eye.disc_aspect, eye.disc_tilt
    )
    outer += rng.normal(0, 0.05 * width, outer.shape)
    layer = view.blank()
    view.fill(layer, outer)
    strong = 1.0 if pathologic or labels["is_dm"] else rng.uniform(0.35, 0.7)
    edge = view.blank()
    view.fill(edge, eye.disc + shift + (outer - eye.disc - shift) * 1.07)
    painting.spread(edge, np.array([-0.20, -0.25, -0.10]) * strong, 0.15)
    painting.cover(layer, np.array([0.38, 0.66, 1.05]) * (1.15 if pathologic else 1.0), 0.85 * strong, 0.18)
    if strong == 1.0:
        painting.mark("peripapillary_atrophy", layer)
        specks = blobs(rng, eye.disc + shift + rng.normal(0, eye.disc_radius, (5, 2)), rng.uniform(0.15, 0.4, 5), 0.4)
        pigment = view.blank()
        for outline in specks:
            view.fill(pigment, outline)
        painting.spread(np.minimum(pigment, layer), (-0.3, -0.4, -0.3), 0.1)
