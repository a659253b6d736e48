"""Single signs as brush strokes: haemorrhages, exudates, cotton wool, and where they may lie."""

import numpy as np

from datamodules.phantom.anatomy import Eye
from datamodules.phantom.canvas import Painting, blobs

BLOOD = (-0.26, -0.60, -0.36)
WAX = (0.42, 0.85, 1.15)
WOOL = (0.34, 0.66, 1.25)


def scatter(
    rng: np.random.Generator,
    painting: Painting,
    eye: Eye,
    count: int,
    from_fovea: float = 1.2,
    to_fovea: float = 99.0,
    reach: float = 0.80,
) -> np.ndarray:
    """Up to ``count`` places [N, 2] inside the field, off the disc, between two distances (degrees) of the fovea."""
    view = painting.view
    tries = 6 * count + 40
    radius = reach * view.half_field * np.sqrt(rng.random(tries))
    angle = rng.uniform(0, 2 * np.pi, tries)
    points = view.centre + np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    far = np.hypot(points[:, 0], points[:, 1])
    off_disc = np.hypot(*(points - eye.disc).T) > 1.6 * eye.disc_radius
    inside = np.abs(points[:, 1] - view.centre[1]) < 0.76 * view.half_field
    return points[off_disc & inside & (far > from_fovea) & (far < to_fovea)][:count]


def bleed_dots(painting: Painting, centres: np.ndarray, radii: np.ndarray, name: str, depth: float = 1.0) -> None:
    """Round red dots: microaneurysms and dot haemorrhages."""
    layer = painting.view.blank()
    painting.view.dots(layer, centres, radii)
    painting.spread(layer, np.array(BLOOD) * depth, 0.03)
    painting.mark(name, layer)


def bleed_blots(painting: Painting, rng: np.random.Generator, centres: np.ndarray, radii: np.ndarray) -> None:
    """Dark patches with an uneven edge: haemorrhages in the deep retina."""
    layer = painting.view.blank()
    for outline in blobs(rng, centres, radii, 0.25):
        painting.view.fill(layer, outline)
    painting.spread(layer, np.array(BLOOD) * 1.1, 0.12)
    painting.mark("haemorrhage", layer)


def bleed_flames(
    painting: Painting,
    rng: np.random.Generator,
    eye: Eye,
    centres: np.ndarray,
    lengths: np.ndarray,
    name: str = "haemorrhage",
) -> None:
    """Striate haemorrhages along the nerve fibres, which run away from the disc."""
    layer = painting.view.blank()
    strokes = 9
    for centre, length in zip(centres, lengths.tolist(), strict=True):
        away = centre - eye.disc
        along = away / (np.hypot(*away) + 1e-6)
        across = np.array([-along[1], along[0]])
        offset = rng.normal(0, 0.13 * length, strokes)
        start = rng.normal(-0.4 * length, 0.22 * length, strokes)
        end = start + rng.uniform(0.3, 1.0, strokes) * length
        paths = centre + offset[:, None, None] * across + np.stack([start, end], 1)[..., None] * along
        painting.view.lines(layer, list(paths), 0.085 * length)
    painting.spread(layer, np.array(BLOOD) * 0.95, 0.09)
    painting.mark(name, layer)


def wool(painting: Painting, rng: np.random.Generator, centres: np.ndarray, radii: np.ndarray) -> None:
    """Cotton wool spots: white, fluffy, hiding the vessels."""
    layer = painting.view.blank()
    for outline in blobs(rng, centres, radii, 0.35):
        painting.view.fill(layer, outline)
    painting.cover(layer, WOOL, 0.62, 0.28)
    painting.mark("cotton_wool", layer)


def exudates(painting: Painting, centres: np.ndarray, radii: np.ndarray) -> None:
    """Hard exudates: waxy yellow, sharp."""
    layer = painting.view.blank()
    painting.view.dots(layer, centres, radii)
    painting.cover(layer, WAX, 0.85, 0.05)
    painting.mark("hard_exudate", layer)


def exudate_cluster(
    rng: np.random.Generator, centre: np.ndarray, spread_deg: float, circinate: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Places [N, 2] and radii [N] of the exudates of one leak: a heap, or a broken ring round it."""
    count = int(rng.integers(14, 34))
    if circinate:
        angle = rng.uniform(0, 2 * np.pi) + rng.uniform(0, rng.uniform(3.5, 6.3), count)
        radius = spread_deg * rng.normal(1.0, 0.12, count)
    else:
        angle = rng.uniform(0, 2 * np.pi, count)
        radius = spread_deg * 0.75 * np.abs(rng.normal(0, 0.7, count))
    points = centre + np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return points, rng.lognormal(np.log(0.12), 0.45, count).clip(0.06, 0.34)
