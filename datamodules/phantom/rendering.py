"""Renders a phantom: labels, eye, camera, paint, optics."""

import dataclasses
from collections.abc import Mapping

import cv2
import numpy as np

from datamodules.errors import UserError
from datamodules.phantom import camera as cameras
from datamodules.phantom import degrade, lesions, nonfundus
from datamodules.phantom.anatomy import make_eye, paint_disc, paint_fundus
from datamodules.phantom.canvas import Painting
from datamodules.phantom.labels import patient_of, resolve
from datamodules.phantom.streams import stream
from datamodules.phantom.vessels import grow, paint_vessels

VERSION = "1"
"""Changes whenever the pixels or labels of a given (seed, index) may change."""

MASK_NAMES = ("field", "vessel", "artery", "vein", "disc", "cup", "fovea", *lesions.SIGNS)
"""Names of the masks of every phantom."""
_MASK_THRESHOLD = {"artery": 40, "vein": 40, "microaneurysm": 40, "hard_exudate": 70, "drusen": 70}


@dataclasses.dataclass(frozen=True)
class Phantom:
    """``image`` uint8 [S, S, 3], ``labels`` of all 16 findings, ``masks`` uint8 [S, S] of 0 and 1, ``patient``."""

    image: np.ndarray
    labels: dict[str, int]
    masks: dict[str, np.ndarray]
    patient: str


def render(seed: int, index: int, image_size: int, labels: Mapping[str, int] | None = None) -> Phantom:
    """The phantom of ``(seed, index)``: a pure function, the same in every process, the same scene at every size.

    ``labels`` replaces some or all of the drawn labels; see ``labels.resolve`` for what follows from them. Masks show
    what was painted, also where the picture is unreadable; a picture that shows no fundus has empty masks.

    Raises:
        ValueError: negative ``seed`` or ``index``, ``image_size`` outside 16 to 2048, or impossible ``labels``.
    """
    for name, value in (("seed", seed), ("index", index)):
        if value < 0:
            raise UserError(f"{name}={value} is negative: give 0 or more")
    if not 16 <= image_size <= 2048:
        raise UserError(f"image_size={image_size} is out of range: give 16 to 2048 pixels")
    seed, index, image_size = int(seed), int(index), int(image_size)
    resolved = resolve(seed, index, labels)
    threads = cv2.getNumThreads()
    if threads > 1:
        cv2.setNumThreads(1)
    try:
        image, masks = _render(seed, index, image_size, resolved)
    finally:
        if threads > 1:
            cv2.setNumThreads(threads)
    return Phantom(image, resolved, masks, patient_of(seed, index))


def _working_size(image_size: int) -> int:
    """Twice the output up to 512 px, never below 192."""
    return max(192, min(2 * image_size, 1024), image_size)


def _render(seed: int, index: int, size: int, labels: dict[str, int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    if not labels["is_fundus"]:
        image = nonfundus.picture(stream(seed, index, "not a fundus"), size)
        return image, {name: np.zeros((size, size), np.uint8) for name in MASK_NAMES}
    eye = make_eye(seed, index, labels)
    camera = cameras.make_camera(seed, index)
    view = cameras.make_view(eye, camera, _working_size(size), seed, index)
    painting = Painting(view, camera.log_rgb)
    disease = lesions.vessel_disease(labels, seed, index)
    vessels = grow(eye, disease, seed, index, view.px_per_deg)
    paint_fundus(painting, eye, stream(seed, index, "fundus"))
    lesions.paint_deep(painting, eye, labels, seed, index)
    paint_disc(painting, eye, labels, stream(seed, index, "disc"))
    paint_vessels(painting, vessels, disease)
    lesions.paint_superficial(painting, eye, labels, vessels[0], disease, seed, index)
    mirrored = labels["eye_side"] == 1
    if mirrored:
        painting.planes = [cv2.flip(plane, 1) for plane in painting.planes]
        painting.coverage = {name: cv2.flip(layer, 1) for name, layer in painting.coverage.items()}
    field = cameras.field_mask(view, camera)
    cameras.shine(painting.planes, view, camera, seed, index)
    lit = cameras.expose(painting.planes, view, camera, seed, index)
    lit = degrade.degrade(lit, view, eye, labels, mirrored, stream(seed, index, "degrade"))
    image = cameras.develop(lit, field, view, size, seed, index)
    return image, _masks(painting.coverage, field, size)


def _masks(coverage: dict[str, np.ndarray], field: np.ndarray, size: int) -> dict[str, np.ndarray]:
    inside = cv2.resize(field, (size, size), interpolation=cv2.INTER_AREA) >= 128
    masks = {"field": inside.astype(np.uint8)}
    for name in MASK_NAMES[1:]:
        layer = coverage.get(name)
        if layer is None:
            masks[name] = np.zeros((size, size), np.uint8)
            continue
        small = cv2.resize(layer, (size, size), interpolation=cv2.INTER_AREA)
        peak = int(small[inside].max(initial=0))
        masks[name] = ((small >= max(min(_MASK_THRESHOLD.get(name, 110), peak), 1)) & inside).astype(np.uint8)
    masks["vessel"] = masks["artery"] | masks["vein"]
    return masks
