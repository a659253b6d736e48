"""Retinal vessels: arterioles and venules that leave the disc, arch round the fovea and branch to capillary scale."""

import dataclasses

import cv2
import numpy as np

from datamodules.phantom.anatomy import Eye
from datamodules.phantom.canvas import Painting
from datamodules.phantom.streams import stream

# Control points of the trunks (degrees from the disc's centre, upper half; y is mirrored for the lower), with the width
# of the vein in degrees (the artery's is two thirds of it) and how much the points may stray.
_ARCADE = np.array(
    [(0.1, 0.1), (-0.4, -1.9), (-2.2, -5.0), (-7.0, -8.6), (-14.5, -10.6), (-24.0, -10.6), (-37.0, -8.0)]
)
_NASAL = np.array([(0.2, 0.1), (0.7, -1.8), (1.8, -4.6), (3.8, -8.6), (7.0, -13.5), (11.5, -19.0), (17.0, -25.0)])
_MACULAR = np.array([(-0.1, 0.1), (-1.2, -0.7), (-3.0, -1.3), (-5.5, -2.1), (-8.0, -2.6), (-10.5, -2.6), (-12.6, -2.2)])
_MEDIAL = np.array([(0.2, 0.0), (1.2, -0.5), (3.0, -1.1), (6.0, -2.2), (10.0, -3.6), (14.0, -5.0), (19.0, -6.5)])
_TEMPLATES = ((_ARCADE, 0.48, 1.0), (_NASAL, 0.36, 1.0), (_MACULAR, 0.15, 0.45), (_MEDIAL, 0.24, 0.8))
_NUM_POINTS = 72
NUM_TRUNKS = 4 * len(_TEMPLATES)


def _catmull_rom(num_controls: int, num_points: int) -> np.ndarray:
    """Weights [num_points, num_controls] of a Catmull-Rom spline through all control points."""
    weights = np.zeros((num_points, num_controls))
    for row, position in enumerate(np.linspace(0, num_controls - 1.001, num_points)):
        start, t = int(position), position % 1.0
        basis = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
        for step, value in enumerate(basis):
            weights[row, np.clip(start + step - 1, 0, num_controls - 1)] += value / 2
    return weights


_SPLINE = _catmull_rom(len(_ARCADE), _NUM_POINTS)


@dataclasses.dataclass(frozen=True)
class Branches:
    """Vessels of one order: ``points`` [B, N, 2] and ``widths`` [B, N] in degrees, ``vein`` [B]."""

    points: np.ndarray
    widths: np.ndarray
    vein: np.ndarray


@dataclasses.dataclass(frozen=True)
class Disease:
    """What disease does to vessels: width factors, tortuosity, and how deeply arteries nick the veins they cross."""

    artery_width: float = 1.0
    vein_width: float = 1.0
    tortuosity: float = 1.0
    nicking: float = 0.15
    copper: float = 0.0
    beading: float = 0.0
    occluded: tuple[int, ...] = ()


def _wiggle(rng: np.random.Generator, points: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Shift polylines sideways by a few sine waves that start at rest; ``amount`` [B] in degrees."""
    count, length = points.shape[:2]
    along = np.linspace(0, 1, length)
    tangent = np.gradient(points, axis=1)
    span = np.sqrt((tangent**2).sum(-1, keepdims=True)) + 1e-9
    normal = np.stack([-tangent[..., 1], tangent[..., 0]], -1) / span
    arc_deg = span[..., 0].sum(1)
    offset = np.zeros((count, length))
    for wavelength, share in ((9.0, 0.6), (4.2, 0.32), (2.1, 0.16)):
        cycles = arc_deg / wavelength * rng.uniform(0.8, 1.25, count)
        offset += share * np.sin(2 * np.pi * (cycles[:, None] * along + rng.random((count, 1))))
    offset *= np.minimum(along * 6, 1.0) * amount[:, None]
    return points + normal * offset[..., None]


def _round_fovea(points: np.ndarray) -> np.ndarray:
    """Push points out of the fovea's avascular zone, which is about four degrees wide here."""
    distance4 = np.maximum((points**2).sum(-1, keepdims=True), 1e-6) ** 2
    return points * (1 + 2.0**4 / distance4) ** 0.25


def grow_trunks(eye: Eye, disease: Disease, seed: int, index: int) -> Branches:
    """The sixteen vessels that cross the disc's margin."""
    rng = stream(seed, index, "trunks")
    shape = stream(seed, index // 2, "patient vessels")
    reach = shape.uniform(0.85, 1.2)
    points, widths = [], []
    along = np.linspace(0, 1, _NUM_POINTS)
    for number, (template, width, stray) in enumerate(_TEMPLATES):
        for sign in (1, -1):
            lean = rng.normal(0, 0.09)
            for vein in (False, True):
                control = template * [1.0, sign * reach * (1 + rng.normal(0, 0.08))]
                far = np.linspace(0, 1, len(control))[:, None]
                control = control + rng.normal(0, 1, control.shape) * far**0.8 * 2.1 * stray
                angle = lean + rng.normal(0, 0.12) * stray + (0.10 if vein else -0.06) * sign * (number < 2)
                cos, sin = np.cos(angle), np.sin(angle)
                control = control @ np.array([[cos, sin], [-sin, cos]])
                control[0] = rng.normal(0, 0.12, 2) + [0.25 * vein, 0.2 * sign]
                points.append(control)
                widths.append(width * (1.0 if vein else 0.68) * rng.uniform(0.82, 1.15))
    vein = np.tile([False, True], NUM_TRUNKS // 2)
    hub = eye.disc + [0.1 + 0.4 * eye.cup_ratio * eye.disc_radius, 0.0]
    curves = hub + np.einsum("nk,bkd->bnd", _SPLINE, np.array(points))
    taper = (1.0 - 0.55 * along**0.8) * (0.60 + 0.40 * np.minimum(along * 10, 1.0))
    width = np.array(widths)[:, None] * taper * np.where(vein, disease.vein_width, disease.artery_width)[:, None]
    sick = np.isin(np.arange(NUM_TRUNKS), disease.occluded)
    width *= np.where(sick, 1.45, 1.0)[:, None]
    swing = 0.24 * disease.tortuosity * rng.uniform(0.5, 1.5, NUM_TRUNKS) + 0.5 * sick
    curves = _round_fovea(_wiggle(rng, curves, swing))
    if disease.beading:
        beads = np.sin(along * rng.uniform(60, 90, (NUM_TRUNKS, 1)) + rng.uniform(0, 6, (NUM_TRUNKS, 1)))
        width *= 1 + disease.beading * beads * vein[:, None]
    return Branches(curves, width, vein)


def sprout(
    rng: np.random.Generator,
    parents: Branches,
    eye: Eye,
    per_parent: int,
    length_deg: tuple[float, float],
    width_ratio: float,
    num_points: int,
    tortuosity: float,
) -> Branches:
    """Side branches of every parent: they leave at 30 to 65 degrees and are drawn to the fovea or to the periphery."""
    many, length = parents.widths.shape
    total = many * per_parent
    parent = np.repeat(np.arange(many), per_parent)
    slot = (np.tile(np.arange(per_parent), many) + rng.random(total)) / per_parent
    at = np.clip(((0.17 + 0.78 * slot) * (length - 2)).astype(int), 1, length - 2)
    here = parents.points[parent, at].copy()
    ahead = parents.points[parent, at + 1] - parents.points[parent, at - 1]
    heading = np.arctan2(ahead[:, 1], ahead[:, 0])
    side = np.where((np.tile(np.arange(per_parent), many) + parent) % 2 == 0, 1.0, -1.0)
    side = np.where(rng.random(total) < 0.2, -side, side)
    heading = heading + side * rng.uniform(0.5, 1.15, total)
    start_width = np.minimum(parents.widths[parent, at] * width_ratio * rng.uniform(0.6, 1.2, total), 0.4)
    step = rng.uniform(*length_deg, total) / num_points
    points = np.empty((total, num_points, 2))
    alive = np.ones((total, num_points))
    inner = (np.abs(here[:, 1]) < 11) & (here[:, 0] < eye.disc[0] - 1.5)
    noise = rng.normal(0, 0.065 * tortuosity, (num_points, total))
    swing, nearest, growing = np.zeros(total), np.full(total, np.inf), np.ones(total, bool)
    for k in range(num_points):
        points[:, k] = here
        away = here - eye.disc
        to_fovea = -here
        gap = np.sqrt((here**2).sum(1))
        goal_x = np.where(inner, to_fovea[:, 0] / (gap + 1), away[:, 0] / 20)
        goal_y = np.where(inner, to_fovea[:, 1] / (gap + 1), away[:, 1] / 12)
        turn = np.cos(heading) * goal_y - np.sin(heading) * goal_x
        swing = 0.6 * swing + noise[k]
        heading = heading + 2.6 / num_points * turn + swing
        growing &= (gap > 2.0) & ~(inner & (gap < 7) & (gap > nearest + 0.15))
        nearest = np.minimum(nearest, gap)
        here = here + (step * growing)[:, None] * np.stack([np.cos(heading), np.sin(heading)], 1)
        alive[:, k] = growing
    taper = 1.0 - 0.6 * np.linspace(0, 1, num_points)
    widths = start_width[:, None] * taper * alive
    return Branches(points, widths, parents.vein[parent])


def grow(eye: Eye, disease: Disease, seed: int, index: int, px_per_deg: float) -> list[Branches]:
    """All vessels, trunks first; orders too fine for the canvas are left out (each order has a stream of its own)."""
    trunks = grow_trunks(eye, disease, seed, index)
    big = dataclasses.replace(trunks, **{f.name: getattr(trunks, f.name)[:8] for f in dataclasses.fields(Branches)})
    wild = disease.tortuosity
    first = sprout(stream(seed, index, "first"), big, eye, 8, (8.0, 22.0), 0.72, 28, wild)
    twigs = sprout(stream(seed, index, "twigs"), trunks, eye, 8, (2.0, 7.0), 0.32, 12, wild)
    second = sprout(stream(seed, index, "second"), first, eye, 4, (3.0, 9.0), 0.62, 14, wild)
    orders = [trunks, first, second, twigs]
    if px_per_deg > 7:
        orders.append(sprout(stream(seed, index, "third"), second, eye, 3, (1.2, 4.0), 0.6, 10, wild))
    return orders


def _ribbon(points: np.ndarray, half: np.ndarray) -> np.ndarray:
    tangent = np.gradient(points, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
    normal /= np.sqrt((normal**2).sum(1, keepdims=True)) + 1e-9
    return np.concatenate([points + normal * half[:, None], (points - normal * half[:, None])[::-1]])


def _depth(width_deg: np.ndarray) -> np.ndarray:
    """Optical depth of a vessel relative to a trunk: blood absorbs by Beer-Lambert along its thickness."""
    return np.clip((width_deg / 0.38) ** 0.55, 0.08, 1.0)


def _draw(painting: Painting, orders: list[Branches], vein: bool) -> np.ndarray:
    """Optical depth (255 = a trunk's) of all arteries or all veins, the finest drawn first."""
    view, px = painting.view, painting.view.px_per_deg
    layer = view.blank()
    thin: dict[int, list[np.ndarray]] = {}
    thick: list[tuple[np.ndarray, np.ndarray]] = []
    for branches in orders:
        chosen = np.flatnonzero(branches.vein == vein)
        fixed = view.fixed(branches.points)
        num_chunks = max(1, branches.widths.shape[1] // 9)
        edges = np.linspace(0, branches.widths.shape[1] - 1, num_chunks + 1).astype(int)
        for a, b in zip(edges[:-1], edges[1:], strict=True):
            middle = branches.widths[chosen, (a + b) // 2]
            shade = 255 * _depth(middle) * np.minimum(1.0, middle * px / 1.15)
            for row, width, value in zip(chosen.tolist(), middle.tolist(), shade.tolist(), strict=True):
                if width * px > 1.7:
                    thick.append((branches.points[row, a : b + 2], branches.widths[row, a : b + 2]))
                elif value > 4:
                    thin.setdefault(int(value / 12), []).append(fixed[row, a : b + 1])
    for level in sorted(thin):
        cv2.polylines(layer, thin[level], False, level * 12 + 6, 1, cv2.LINE_AA, 4)
    for points, widths in reversed(thick):
        shade = int(255 * _depth(widths[:1])[0])
        view.fill(layer, _ribbon(points, np.maximum(widths / 2 - 0.35 / px, 0.3 / px)), shade)
    return layer


def paint_vessels(painting: Painting, orders: list[Branches], disease: Disease) -> None:
    """Paint veins, then the arteries that cross over them; marks ``artery``, ``vein`` and ``vessel``."""
    px = painting.view.px_per_deg
    arteries, veins = _draw(painting, orders, False), _draw(painting, orders, True)
    painting.mark("artery", arteries)
    painting.mark("vein", veins)
    wall = cv2.GaussianBlur(arteries, (0, 0), max(0.35 * px, 0.5))
    veins = cv2.subtract(veins, cv2.multiply(wall, veins, scale=disease.nicking * 2.2 / 255))
    soft = max(0.06 * px, 0.3)
    blood_a = cv2.GaussianBlur(arteries, (0, 0), soft).astype(np.float32) * np.float32(1 / 255)
    blood_v = cv2.GaussianBlur(veins, (0, 0), soft).astype(np.float32) * np.float32(1 / 255)
    painting.add(blood_v, (-0.24, -0.66, -0.38))
    painting.add(blood_a, (-0.05 + 0.10 * disease.copper, -0.48 + 0.16 * disease.copper, -0.30))
    disc = painting.coverage["disc"].astype(np.float32) * np.float32(1 / 255)
    painting.add(np.maximum(blood_a, blood_v) * disc, (-0.06, -0.15, -0.60))
    _paint_reflex(painting, orders[0], 0.55 + 0.45 * disease.copper)


def _paint_reflex(painting: Painting, trunks: Branches, strength: float) -> None:
    """The bright stripe along the middle of the large arteries (and, weaker, of the veins)."""
    view = painting.view
    layer = view.blank()
    for row in range(8):
        share = strength * (0.35 if trunks.vein[row] else 1.0)
        for a in range(4, 60, 14):
            width = trunks.widths[row, a] * 0.3
            view.lines(layer, [trunks.points[row, a : a + 15]], width, int(255 * min(share, 1.0)))
    painting.spread(layer, (0.18, 0.40, 0.36), 0.04)
