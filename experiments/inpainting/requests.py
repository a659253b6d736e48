"""What is to be painted: which image, which region of it, and what the mask is to be there."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.augment import to_unit_range
from datamodules.dataset import RowsOf
from datamodules.errors import UserError
from datamodules.findings import NAMES, encode
from datamodules.manifest import Manifest
from datamodules.masks import NO_MASK, to_levels
from lightning_modules.condition import Condition
from lightning_modules.names import check_name
from lightning_modules.randomness import SEED_LIMIT, stable_seed
from lightning_modules.regions import dilated

MASKS = ("same", "other", "background")


class Request(NamedTuple):
    """One image that is painted in."""

    row: int  # of the image
    donor: int  # of the image whose mask says where; the same one but for masks of others
    seed: int


class Batch(NamedTuple):
    """Requests as tensors: images float32 [B, 3, S, S], regions bool [B, S, S] before and after they are dilated."""

    images: Tensor
    target: Tensor
    where: Tensor
    condition: Condition


class Regions:
    """The images of a split with their masks, and the regions that are painted.

    Args:
        seen, images, masks: rows, images uint8 [N, S, S, 3] and masks uint8 [N, S, S, 1], as of `decoded_rows`.
        levels: numbers of the masks' levels that are painted.
        mask: one of MASKS. "same": the region of an image's own mask, and the same mask in it. "other": the region of
            another patient's mask, with that mask. "background": the region of its own mask, and nothing in it.
        radius: pixels by which regions are dilated.
        labels: levels of findings that are asked for instead of the image's own.
    """

    def __init__(
        self,
        seen: Manifest,
        images: RowsOf,
        masks: RowsOf,
        levels: Sequence[int],
        mask: str,
        radius: int,
        labels: Mapping[str, int],
    ) -> None:
        self.seen, self.images, self.masks = seen, images, masks
        self.levels, self.mask, self.radius = list(levels), check_name("job.mask", mask, MASKS), radius
        encode(labels)
        self.labels = {NAMES.index(name): level for name, level in labels.items()}
        self.shows = np.array([self._target(masks[row]).any() for row in range(len(masks))])

    def _target(self, masks: np.ndarray) -> np.ndarray:
        """Where masks uint8 [..., S, S, 1] have a level that is painted, bool [..., S, S]."""
        return np.isin(masks[..., 0], self.levels)

    def _where(self, target: np.ndarray) -> Tensor:
        """The region of a target bool [B, S, S]."""
        return dilated(torch.from_numpy(target), self.radius)

    def requests(self, num_per_image: int, max_images: int | None, seed: int) -> tuple[list[Request], int]:
        """Requests of at most so many images, drawn at random, and how many images have no region that can be painted.

        Raises:
            UserError: there is none at all.
        """
        rng, shown = np.random.default_rng(seed), np.flatnonzero(self.shows)
        candidates = np.arange(len(self.shows)) if self.mask == "other" else shown
        rows = np.sort(rng.permutation(candidates)[:max_images])
        patients = np.array(self.seen.patients, dtype=object)
        pairs = []
        for row in rows:
            donors = shown[patients[shown] != patients[row]] if self.mask == "other" else np.array([row])
            pairs += [(int(row), int(donor)) for donor in (rng.choice(donors, num_per_image) if len(donors) else ())]
        pairs = [pair for pair in pairs if not self._where(self._target(self.masks[[pair[1]]])).all()]
        if not pairs:
            raise UserError(
                f"of {len(self.shows)} images {len(shown)} have a mask that shows what is to be painted, and no region "
                f"can be painted (job.mask={self.mask}, dilated by {self.radius} pixels). Remedy: another split or "
                "job.levels; a smaller job.dilation; data with masks."
            )
        first = stable_seed("inpaint", seed)
        found = [Request(*pair, (first + number) % SEED_LIMIT) for number, pair in enumerate(pairs)]
        num_painted = len({request.row for request in found})
        return found, len(self.shows) - len(candidates) + len(rows) - num_painted

    def asked(self, requests: Sequence[Request]) -> Tensor:
        """Labels that are asked for, int64 [B, F]."""
        labels = torch.from_numpy(self.seen.labels[[request.row for request in requests]]).clone()
        for column, level in self.labels.items():
            labels[:, column] = level
        return labels

    def batch(self, requests: Sequence[Request]) -> Batch:
        """Images, regions and conditions of some requests."""
        rows, donors = (np.array([getattr(request, name) for request in requests]) for name in ("row", "donor"))
        own, given = self.masks[rows], self.masks[donors]
        target = self._target(given)
        drawn = np.zeros_like(given[..., 0]) if self.mask == "background" else given[..., 0]
        mask = torch.from_numpy(np.where(target, drawn, own[..., 0]))
        condition = Condition(self.asked(requests), to_levels(mask))
        images = to_unit_range(torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2))
        return Batch(images, torch.from_numpy(target), self._where(target), condition)


def pixels_of(size: float, image_size: int, key: str) -> int:
    """Pixels of a length that is a share of the image's side where it is below 1, else a number of pixels.

    Raises:
        UserError: it is negative, or a number above 1 that is not whole.
    """
    if size < 0 or (size >= 1 and size != int(size)):
        raise UserError(f"{key}={size} must be a whole number of pixels, or a share of the image's side below 1.")
    return round(size * image_size) if size < 1 else int(size)


def stored(mask: Tensor) -> Tensor:
    """Levels int64 -> uint8, 255 for unknown."""
    return torch.where(mask < 0, NO_MASK, mask).to(torch.uint8)
