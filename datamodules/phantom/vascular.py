"""Vein occlusion, hypertension, and the haemorrhage and fibre loss of optic nerve disease."""

import numpy as np

from datamodules.phantom import marks
from datamodules.phantom.anatomy import Eye
from datamodules.phantom.canvas import Painting
from datamodules.phantom.vessels import NUM_TRUNKS, Branches, Disease

_ARCADE_VEINS = (1, 3, 5, 7)


def occluded_trunks(quadrant: int, central: bool) -> tuple[int, ...]:
    """Numbers of the blocked veins: all four in a central occlusion, else the upper or lower temporal one."""
    return _ARCADE_VEINS if central else (_ARCADE_VEINS[quadrant],)


def paint_occlusion(painting: Painting, eye: Eye, trunks: Branches, disease: Disease, rng: np.random.Generator) -> None:
    """Flame haemorrhages and cotton wool in the territory of each blocked vein; a swollen, bleeding disc if all are."""
    central = len(disease.occluded) == NUM_TRUNKS // 4
    for row in disease.occluded:
        course = trunks.points[row]
        count = int(rng.integers(16, 26) if central else rng.integers(42, 70))
        base = course[rng.integers(10, 62, count)]
        breadth = 0.8 + 0.22 * np.hypot(*(base - eye.disc).T)
        places = base + rng.normal(0, 1, (count, 2)) * np.minimum(breadth, 3.6)[:, None]
        if not central:
            places = np.where(
                np.sign(places[:, 1:] - eye.disc[1]) == np.sign(course[40, 1] - eye.disc[1]), places, base
            )
        places = places[np.hypot(*places.T) > 1.2]
        half = len(places) * 3 // 4
        marks.bleed_flames(painting, rng, eye, places[:half], rng.uniform(0.7, 2.3, half))
        marks.bleed_blots(
            painting, rng, places[half:], rng.lognormal(np.log(0.34), 0.4, len(places) - half).clip(0.18, 0.8)
        )
        count = int(rng.integers(1, 4))
        spots = course[rng.integers(12, 45, count)] + rng.normal(0, 1.5, (count, 2))
        marks.wool(painting, rng, spots, rng.uniform(0.5, 0.9, count))
    if central:
        paint_disc_haemorrhage(painting, eye, 1.0, rng)


def paint_hypertension(painting: Painting, eye: Eye, rng: np.random.Generator) -> None:
    """Flame haemorrhages and cotton wool round the disc, besides the narrowed, nicking, copper-coloured arteries."""
    count = int(rng.integers(4, 11))
    angle = rng.uniform(0, 2 * np.pi, count)
    places = eye.disc + rng.uniform(4.2, 9.5, count)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    marks.bleed_flames(painting, rng, eye, places, rng.uniform(1.0, 2.0, count))
    spots = marks.scatter(rng, painting, eye, int(rng.integers(1, 5)), 5.0, 17.0)
    if len(spots):
        marks.wool(painting, rng, spots, rng.uniform(0.5, 0.9, len(spots)))


def paint_disc_haemorrhage(painting: Painting, eye: Eye, chance: float, rng: np.random.Generator) -> None:
    """A splinter haemorrhage across the margin of the disc."""
    if rng.random() > chance:
        return
    count = 1 if chance < 0.5 else 5
    angle = rng.uniform(0, 2 * np.pi, count)
    places = eye.disc + eye.disc_radius * 1.05 * np.stack([np.cos(angle), np.sin(angle)], 1)
    marks.bleed_flames(painting, rng, eye, places, rng.uniform(0.8, 1.3, count), "disc_haemorrhage")


def paint_fibre_defect(painting: Painting, eye: Eye, rng: np.random.Generator) -> None:
    """A dark wedge along the nerve fibres that widens away from the disc, above or below the fovea."""
    sign = rng.choice([-1, 1])
    along = np.linspace(0, 1, 24)
    x = eye.disc[0] - 1.5 - along * rng.uniform(14, 20)
    y = eye.disc[1] + sign * (2.4 + 6.0 * np.sin(np.minimum(along * 1.5, 1.25)))
    half = 0.25 + along * rng.uniform(1.0, 1.6)
    outline = np.concatenate([np.stack([x, y - half], 1), np.stack([x, y + half], 1)[::-1]])
    layer = painting.view.blank()
    painting.view.fill(layer, outline)
    painting.spread(layer, (-0.07, -0.16, -0.18), 0.25)
    painting.mark("nerve_fibre_defect", layer)
