"""Macular degeneration, scars of choroid and pigment epithelium, pathologic myopia, epiretinal membrane."""

import numpy as np

from datamodules.phantom import marks
from datamodules.phantom.anatomy import Eye
from datamodules.phantom.canvas import Painting, blobs
from datamodules.phantom.textures import sample_texture


def paint_macular_degeneration(painting: Painting, eye: Eye, rng: np.random.Generator) -> None:
    """Soft drusen always; geographic atrophy in three of ten, blood under the retina in a quarter."""
    view = painting.view
    count = int(rng.integers(35, 90))
    places = rng.normal(0, 2.9, (count, 2)) + rng.normal(0, 0.4, 2)
    places = places[np.hypot(*(places - eye.disc).T) > 1.3 * eye.disc_radius]
    layer = view.blank()
    for outline in blobs(rng, places, rng.lognormal(np.log(0.30), 0.4, len(places)).clip(0.14, 0.75), 0.2, 10):
        view.fill(layer, outline)
    painting.spread(layer, (0.13, 0.36, 0.40), 0.12)
    painting.mark("drusen", layer)
    kind = rng.random()
    if kind < 0.30:
        _paint_atrophy(painting, "geographic_atrophy", rng.normal(0, 0.7, (1, 2)), rng.uniform(2.0, 3.8, 1), rng)
    elif kind < 0.55:
        _paint_subretinal_blood(painting, rng)


def _paint_atrophy(
    painting: Painting, name: str, centres: np.ndarray, radii: np.ndarray, rng: np.random.Generator
) -> None:
    """Sharp-edged patches where the choroid's large vessels and the sclera show."""
    view = painting.view
    layer = view.blank()
    for outline in blobs(rng, centres, radii, 0.22, 36):
        view.fill(layer, outline)
    painting.cover(layer, (0.36, 0.62, 1.05), 0.72, 0.14)
    choroid = sample_texture("choroid", view.size, view.px_per_deg, rng, zoom=0.6, stretch=1.5)
    alpha = layer.astype(np.float32) * np.float32(1 / 255)
    painting.add(choroid * alpha, (-0.02, -0.10, -0.12))
    painting.mark(name, layer)


def _paint_subretinal_blood(painting: Painting, rng: np.random.Generator) -> None:
    view = painting.view
    centre = rng.normal(0, 1.0, (1, 2))
    pale = view.blank()
    view.fill(pale, blobs(rng, centre + rng.normal(0, 0.8, (1, 2)), rng.uniform(2.0, 3.0, 1), 0.2, 30)[0])
    painting.cover(pale, (0.08, 0.32, 0.30), 0.7, 0.3)
    layer = view.blank()
    view.fill(layer, blobs(rng, centre, rng.uniform(1.6, 3.2, 1), 0.35, 36)[0])
    painting.spread(layer, (-0.34, -0.75, -0.5), 0.35)
    painting.mark("subretinal_haemorrhage", layer)


def paint_scars(painting: Painting, eye: Eye, rng: np.random.Generator) -> None:
    """Chorioretinal scars: atrophic, rimmed and dotted with pigment; or a flat dark naevus."""
    view = painting.view
    places = marks.scatter(rng, painting, eye, int(rng.integers(1, 5)), 5.0, 16.0, 0.72)
    layer, ring, pigment = view.blank(), view.blank(), view.blank()
    naevus = rng.random() < 0.25
    radii = rng.lognormal(np.log(1.3), 0.4, len(places)).clip(0.7, 2.8) * (1.3 if naevus else 1.0)
    for outline, place in zip(blobs(rng, places, radii, 0.25, 30), places, strict=True):
        view.fill(layer, outline)
        view.fill(ring, place + (outline - place) * 1.18)
    for place, radius in zip(places, radii.tolist(), strict=True):
        turn = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.9, 7)
        clumps = place + radius * rng.uniform(0.55, 1.05, (7, 1)) * np.stack([np.cos(turn), np.sin(turn)], 1)
        for outline in blobs(rng, clumps, rng.uniform(0.10, 0.30, 7) * radius, 0.45, 12):
            view.fill(pigment, outline)
    if naevus:
        painting.spread(layer, (-0.38, -0.40, -0.15), 0.3)
    else:
        painting.spread(ring, (-0.20, -0.30, -0.20), 0.20)
        painting.cover(layer, (0.36, 0.68, 1.15), 0.75, 0.14)
        painting.spread(pigment, (-0.75, -0.90, -0.60), 0.10)
    painting.mark("chorioretinal_lesion", layer)


def paint_pathologic_myopia(painting: Painting, eye: Eye, rng: np.random.Generator) -> None:
    """Pallor of a posterior staphyloma, and patches of atrophy in it."""
    view = painting.view
    pallor = view.glow((eye.disc[0] * 0.55, 0.0), 10.0, 0.85)
    painting.add(pallor, np.array([0.10, 0.24, 0.28]) * rng.uniform(0.8, 1.3))
    count = int(rng.integers(1, 5))
    places = marks.scatter(rng, painting, eye, count, 2.0, 10.0)
    _paint_atrophy(painting, "patchy_atrophy", places, rng.uniform(0.9, 2.8, len(places)), rng)


def paint_membrane(painting: Painting, eye: Eye, rng: np.random.Generator) -> None:
    """A glistening film over the macula with folds that radiate from where it contracts."""
    view = painting.view
    centre = rng.normal(0, 1.2, 2)
    radius = rng.uniform(4.0, 6.0)
    layer = view.blank()
    view.fill(layer, blobs(rng, centre[None], np.array([radius]), 0.2, 36)[0])
    sheen = sample_texture("mottle", view.size, view.px_per_deg, rng, stretch=3.0, zoom=0.8)
    film = view.glow(centre, radius * 0.6)
    painting.add(film * np.maximum(0.6 + 0.6 * sheen, 0), (0.13, 0.32, 0.58))
    folds = view.blank()
    count = int(rng.integers(14, 24))
    angle = rng.uniform(0, 2 * np.pi, count)
    along = np.linspace(0.15, 1.0, 8)
    bend = rng.normal(0, 0.25, count)
    turn = angle[:, None] + bend[:, None] * along
    length = radius * rng.uniform(0.6, 1.25, count)[:, None] * along
    paths = centre + np.stack([length * np.cos(turn), length * np.sin(turn)], -1)
    view.lines(folds, list(paths), 0.12)
    painting.spread(folds, (0.14, 0.40, 0.60), 0.06)
    shadow = np.roll(folds, max(1, int(0.18 * view.px_per_deg)), 0)
    painting.spread(shadow, (-0.09, -0.22, -0.20), 0.06)
    painting.mark("epiretinal_membrane", layer)
