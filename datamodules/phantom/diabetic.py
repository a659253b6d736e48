"""Diabetic retinopathy by ICDR grade (Wilkinson et al. 2003) and diabetic macular oedema."""

import numpy as np

from datamodules.phantom import marks
from datamodules.phantom.anatomy import Eye
from datamodules.phantom.canvas import Painting, blobs
from datamodules.phantom.streams import stream


def paint_retinopathy(painting: Painting, eye: Eye, grade: int, seed: int, index: int) -> None:
    """Grade 1: microaneurysms alone; 2: more; 3: the 4-2-1 rule's haemorrhages and IRMA; 4: what grade 2 has."""
    _paint_aneurysms(painting, eye, grade, stream(seed, index, "microaneurysms"))
    if grade >= 2:
        _paint_haemorrhages(painting, eye, grade, stream(seed, index, "haemorrhages"))
        _paint_exudates(painting, eye, grade, stream(seed, index, "exudates"))
        rng = stream(seed, index, "cotton wool")
        low, high = {2: (0, 3), 3: (3, 8), 4: (1, 5)}[grade]
        places = marks.scatter(rng, painting, eye, int(rng.integers(low, high)), 4.0, 15.0)
        if len(places):
            marks.wool(painting, rng, places, rng.uniform(0.5, 1.0, len(places)))
    if grade == 3:
        _paint_irma(painting, eye, stream(seed, index, "irma"))


def _paint_aneurysms(painting: Painting, eye: Eye, grade: int, rng: np.random.Generator) -> None:
    low, high = {1: (4, 12), 2: (12, 28), 3: (25, 50), 4: (15, 40)}[grade]
    places = marks.scatter(rng, painting, eye, int(rng.integers(low, high)), 0.9, 14.0)
    marks.bleed_dots(painting, places, rng.uniform(0.11, 0.20, len(places)), "microaneurysm", 0.9)


def _paint_haemorrhages(painting: Painting, eye: Eye, grade: int, rng: np.random.Generator) -> None:
    low, high = {2: (5, 12), 3: (26, 42), 4: (8, 22)}[grade]
    blots = marks.scatter(rng, painting, eye, int(rng.integers(low, high)), 1.8)
    marks.bleed_blots(painting, rng, blots, rng.lognormal(np.log(0.29), 0.45, len(blots)).clip(0.14, 0.9))
    low, high = {2: (0, 5), 3: (8, 16), 4: (3, 10)}[grade]
    flames = marks.scatter(rng, painting, eye, int(rng.integers(low, high)), 4.0, 20.0)
    if len(flames):
        marks.bleed_flames(painting, rng, eye, flames, rng.uniform(0.9, 2.2, len(flames)))


def _paint_exudates(painting: Painting, eye: Eye, grade: int, rng: np.random.Generator) -> None:
    """Leaks away from the fovea; those within a disc's diameter of it are macular oedema."""
    leaks = marks.scatter(rng, painting, eye, int(rng.integers(*{2: (1, 4), 3: (1, 5), 4: (0, 4)}[grade])), 8.5, 16.0)
    for leak in leaks:
        spread = rng.uniform(0.7, 2.0)
        places, radii = marks.exudate_cluster(rng, leak, spread, rng.random() < 0.4)
        keep = np.hypot(*places.T) > 6.0
        marks.exudates(painting, places[keep], radii[keep])


def _paint_irma(painting: Painting, eye: Eye, rng: np.random.Generator) -> None:
    layer = painting.view.blank()
    for centre in marks.scatter(rng, painting, eye, int(rng.integers(3, 7)), 6.0, 18.0):
        for _ in range(3):
            heading = np.cumsum(rng.normal(0, 0.75, 14)) + rng.uniform(0, 2 * np.pi)
            path = centre + np.cumsum(0.22 * np.stack([np.cos(heading), np.sin(heading)], 1), 0)
            painting.view.lines(layer, [path], 0.11)
    painting.spread(layer, (-0.10, -0.42, -0.28), 0.03)
    painting.mark("irma", layer)


def paint_macular_oedema(painting: Painting, rng: np.random.Generator) -> None:
    """Exudates within a disc's diameter of the fovea, round a pale, thickened retina."""
    centre = rng.normal(0, 0.8, 2)
    painting.add(painting.view.glow(centre, 2.4), (0.05, 0.10, 0.08))
    for number in range(int(rng.integers(2, 5))):
        angle = rng.uniform(0, 2 * np.pi)
        leak = rng.uniform(1.4, 3.8) * np.array([np.cos(angle), np.sin(angle)])
        spread = rng.uniform(0.7, 1.6)
        places, radii = marks.exudate_cluster(rng, leak, spread, rng.random() < 0.35 and number == 0)
        places = places * np.minimum(1.0, 5.2 / (np.hypot(*places.T) + 1e-6))[:, None]
        keep = np.hypot(*places.T) > 0.5
        marks.exudates(painting, places[keep], radii[keep] * 1.1)


def paint_laser(painting: Painting, eye: Eye, rng: np.random.Generator) -> None:
    """Panretinal photocoagulation: pale, pigmented burns outside the arcades."""
    places = marks.scatter(rng, painting, eye, 170, 9.5, reach=0.97)
    places = places[np.hypot(*(places - eye.disc).T) > 6.0]
    radii = rng.uniform(0.28, 0.58, len(places))
    layer, pigment = painting.view.blank(), painting.view.blank()
    painting.view.dots(layer, places, radii)
    dark = rng.random(len(places)) < 0.5
    painting.view.dots(pigment, places[dark] + rng.normal(0, 0.1, (dark.sum(), 2)), radii[dark] * 0.5)
    painting.spread(layer, (0.13, 0.36, 0.42), 0.14)
    painting.spread(pigment, (-0.35, -0.5, -0.3), 0.10)
    painting.mark("laser_scar", layer)


def paint_proliferation(painting: Painting, eye: Eye, bleeds: bool, rng: np.random.Generator) -> None:
    """New vessels on the disc or elsewhere, and blood before the retina where one ``bleeds``."""
    on_disc = rng.random() < 0.55
    fronds = [eye.disc + rng.normal(0, 0.6, 2)] if on_disc else []
    elsewhere = int(rng.integers(0, 3)) + (not on_disc)
    fronds += list(marks.scatter(rng, painting, eye, elsewhere, 7.5, 16.0, 0.7))
    layer = painting.view.blank()
    for number, centre in enumerate(fronds):
        _draw_frond(painting, layer, centre, rng, 1.0 if on_disc and number == 0 else 0.8)
    painting.spread(layer, (-0.22, -0.62, -0.40), 0.03)
    painting.mark("new_vessel", layer)
    if bleeds:
        _paint_preretinal(painting, eye, rng)


def _draw_frond(
    painting: Painting, layer: np.ndarray, centre: np.ndarray, rng: np.random.Generator, size: float
) -> None:
    """A tangle of fine loops that fans out from one place."""
    count, length = 30, 16
    heading = np.cumsum(rng.normal(0, 0.5, (count, length)), 1) + rng.uniform(0, 2 * np.pi, (count, 1))
    step = 0.26 * size * rng.uniform(0.5, 1.2, (count, 1))
    path = np.stack([np.cumsum(step * np.cos(heading), 1), np.cumsum(step * np.sin(heading), 1)], -1)
    painting.view.lines(layer, list(centre + path), 0.12)


def _paint_preretinal(painting: Painting, eye: Eye, rng: np.random.Generator) -> None:
    """Blood that settles before the retina with a level upper edge (boat shape)."""
    places = marks.scatter(rng, painting, eye, 1, 6.0, 15.0, 0.62)
    if not len(places):
        return
    radius = rng.uniform(2.0, 4.0)
    outline = blobs(rng, places, np.array([radius]), 0.12, 40)[0]
    outline[:, 0] = places[0, 0] + (outline[:, 0] - places[0, 0]) * 1.35
    outline[:, 1] = np.maximum(outline[:, 1], places[0, 1] - 0.25 * radius)
    layer = painting.view.blank()
    painting.view.fill(layer, outline)
    painting.cover(layer, (-0.38, -1.15, -0.9), 0.88, 0.14)
    painting.mark("preretinal_haemorrhage", layer)
