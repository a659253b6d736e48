"""Masks to paint images for: those of real training images, moved, turned, scaled and bent, so that none is as it was.

Letters: N images of the split, S side in pixels.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from torch import Tensor

from datamodules.augment import mirror_labels
from datamodules.errors import UserError
from datamodules.masks import NO_MASK, encode_mask
from datamodules.plan.laws import LabelRows, number
from datamodules.synthetic.plan import CHUNK, Chunk, PlanError

MOST_TRIES = 20  # to warp a mask so that enough of it stays in the picture
LEAST_AREA = 0.25  # of what a mask covers that has to stay
BEND_CELLS = 4  # points along a side between which the bending is interpolated


@dataclass(frozen=True)
class Warp:
    """How far masks are changed. Each number is the most: what is done is drawn evenly between none and it.

    Args:
        rotation: degrees, either way.
        scale: factor s; sizes change by a factor of 1/s to s, evenly in its logarithm.
        shift: share of the side, along each axis.
        bend: share of the side that points are moved by, smoothly.
        mirror: whether half of the masks are mirrored, left to right; `eye_side` changes with them.
        second: chance that another image's mask is added where there is background.

    Raises:
        UserError: a number that means nothing.
    """

    rotation: float = 15.0
    scale: float = 1.2
    shift: float = 0.1
    bend: float = 0.03
    mirror: bool = True
    second: float = 0.0

    def __post_init__(self) -> None:
        limits = {"rotation": (0, 180), "scale": (1, 4), "shift": (0, 1), "bend": (0, 0.5), "second": (0, 1)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise UserError(f"plan.warp.{name}={value} must be a number from {low} to {high}.")

    def __call__(self, mask: np.ndarray, stream: np.random.Generator) -> tuple[np.ndarray, bool]:
        """A mask uint8 [S, S] changed, and whether it was mirrored; what comes from outside the frame is background.

        Levels are those of the nearest pixel. It is drawn again where less than LEAST_AREA of the foreground stayed.

        Raises:
            PlanError: none of MOST_TRIES kept enough of it.
        """
        covered = _foreground(mask).sum()
        mirrored = bool(self.mirror and stream.random() < 0.5)
        start = mask[:, ::-1] if mirrored else mask
        for _ in range(MOST_TRIES):
            x, y = self._places(len(mask), stream)
            warped = cv2.remap(np.ascontiguousarray(start), x, y, cv2.INTER_NEAREST, borderValue=0)
            if _foreground(warped).sum() >= max(LEAST_AREA * covered, min(covered, 1)):
                return warped, mirrored
        raise PlanError(
            f"plan.warp {asdict(self)}: after {MOST_TRIES} tries less than {LEAST_AREA:.0%} of a mask was still in the "
            "picture. Remedy: a smaller plan.warp.shift or plan.warp.scale."
        )

    def _places(self, size: int, stream: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Where each pixel's level is taken from, float32 [S, S] each: x and y."""
        angle = np.deg2rad(stream.uniform(-self.rotation, self.rotation))
        factor = np.exp(stream.uniform(-1, 1) * np.log(self.scale))
        shift = stream.uniform(-self.shift, self.shift, 2) * size
        bend = stream.uniform(-self.bend, self.bend, (2, BEND_CELLS, BEND_CELLS)).astype(np.float32) * size
        bend = [cv2.resize(axis, (size, size), interpolation=cv2.INTER_CUBIC) for axis in bend]
        y, x = np.mgrid[:size, :size].astype(np.float32) - (size - 1) / 2
        x, y = x - shift[0], y - shift[1]
        cosine, sine = np.cos(angle) / factor, np.sin(angle) / factor
        middle = (size - 1) / 2
        found = (cosine * x + sine * y + middle + bend[0], cosine * y - sine * x + middle + bend[1])
        return found[0].astype(np.float32), found[1].astype(np.float32)


class MaskedData(Protocol):
    """What the law needs of a data module."""

    fingerprint: str
    image_size: int

    def prepare_data(self) -> None:
        """Read every image once."""

    def setup(self, stage: str | None = None) -> None:
        """Open what was read."""

    def dataset(self, split: str) -> Any:
        """Images of a split, with `masks` uint8 [N, S, S, 1] and `labels` int64 [N, F]."""


class MasksLaw:
    """Masks of real images, each as often as the next, changed by `warp`; with the labels of the image they are of.

    Args:
        data: with masks: a dataset, phantoms with `masks`, or a set of generated pairs.
        split: whose masks: those that the generator was trained on, unless it is to be tried on others.
        warp: None takes masks as they are.
    """

    def __init__(self, data: MaskedData, split: str = "train", warp: Warp | None = None) -> None:
        self.data, self.split, self.warp = data, split, warp

    def chunks(self, num_images: int | None, seed: int, seen: LabelRows | None) -> Iterator[Chunk]:
        """As a Law."""
        num_images = number(num_images)
        masks, labels = self._masks()
        for count, start in enumerate(range(0, num_images, CHUNK)):
            size = min(CHUNK, num_images - start)
            stream = np.random.default_rng(np.random.SeedSequence((seed, 0x3A5C, count)))
            rows = _in_turn(len(masks), start, size, seed)
            files, their_labels = [], labels[rows].clone()
            for place, row in enumerate(rows.tolist()):
                mask, mirrored = self._drawn(masks, row, stream)
                files.append(encode_mask(mask))
                if mirrored:
                    their_labels[place] = mirror_labels(their_labels[place])
            yield Chunk(their_labels.numpy().astype(np.int8), None, files)

    def _ready(self) -> MaskedData:
        """The data, read: only then they have a fingerprint."""
        if not self.data.fingerprint:
            self.data.prepare_data()
            self.data.setup("fit")
        return self.data

    def _masks(self) -> tuple[np.ndarray, Tensor]:
        """Masks uint8 [N, S, S] that show something, and the labels of their images."""
        dataset = self._ready().dataset(self.split)
        if dataset.masks is None:
            raise PlanError("plan=masks takes masks of the data, and these have none. Remedy: data=<one with masks>.")
        masks = np.asarray(dataset.masks)[..., 0]
        shown = _foreground(masks).reshape(len(masks), -1).any(axis=1)
        if not shown.any():
            raise PlanError(f"plan=masks: no mask of the split {self.split!r} shows anything but background.")
        return masks[shown], dataset.labels[np.flatnonzero(shown)]

    def _drawn(self, masks: np.ndarray, row: int, stream: np.random.Generator) -> tuple[np.ndarray, bool]:
        """A mask of the plan, and whether it was mirrored."""
        if self.warp is None:
            return masks[row], False
        mask, mirrored = self.warp(masks[row], stream)
        if self.warp.second and stream.random() < self.warp.second:
            other, _ = self.warp(masks[stream.integers(len(masks))], stream)
            mask = np.where((mask == 0) & _foreground(other), other, mask)
        return mask, mirrored

    def describe(self) -> dict[str, Any]:
        """As a Law."""
        warp = None if self.warp is None else asdict(self.warp)
        return {"law": "masks", "data": self._ready().fingerprint, "split": self.split, "warp": warp}


def _foreground(mask: np.ndarray) -> np.ndarray:
    """Which pixels are neither background nor unknown."""
    return (mask != 0) & (mask != NO_MASK)


def _in_turn(num: int, start: int, size: int, seed: int) -> np.ndarray:
    """Rows of `num` for the images `start` to `start + size`: each once in every pass, each pass in another order."""
    passes = range(start // num, (start + size - 1) // num + 1)
    orders = [np.random.default_rng(np.random.SeedSequence((seed, 0x7B21, each))).permutation(num) for each in passes]
    return np.concatenate(orders)[start - passes[0] * num :][:size]
