"""The two datasets that `evaluate` compares, at hand: images, masks, patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.feature_sets import progress
from callbacks.features import FeatureExtractor
from callbacks.mask_agreement import Segmenter, dice_of_found
from callbacks.metrics.mask_shapes import properties_of
from datamodules.dataset import RowsOf
from datamodules.errors import UserError
from datamodules.fundus import FundusDataModule
from datamodules.manifest import SPLITS
from datamodules.masks import to_levels
from experiments.decoded import decoded_rows, read_all
from experiments.report import data_text, heading, say
from lightning_modules.names import check_name


@dataclass(frozen=True)
class Side:
    """A dataset that is compared.

    Attributes:
        images: uint8 [N, S, S, 3], at hand.
        patients: of each image.
        fingerprint: of the data.
        levels: names of the levels of its masks, background first; empty without masks.
        masks: uint8 [N, S, S, 1]; None without masks.
    """

    name: str
    images: RowsOf
    patients: Sequence[str]
    fingerprint: str
    levels: tuple[str, ...] = ()
    masks: RowsOf | None = None

    def __str__(self) -> str:
        """Name, numbers and fingerprint."""
        num_patients = len(set(self.patients))
        return f"{self.name}: {len(self.images):,} images of {num_patients:,} patients, data {self.fingerprint[:12]}"

    def image(self, rows: slice, device: torch.device) -> Tensor:
        """Images float32 [B, 3, S, S] in [0, 1]."""
        return torch.from_numpy(self.images[rows]).to(device).permute(0, 3, 1, 2).float() / 255

    def mask(self, rows: slice) -> Tensor:
        """Levels int64 [B, S, S], -1 for unknown."""
        return to_levels(torch.from_numpy(self.masks[rows][..., 0]))


def at_hand(datamodule: FundusDataModule, output_dir: Path, splits: Sequence[str], most: int, seed: int) -> Side:
    """The images of these splits of a dataset, at most so many, drawn at random.

    What is rejected is listed in `output_dir`.

    Raises:
        ValueError: all of these splits are empty; fewer than two images wanted.
    """
    if most < 2:
        raise UserError(f"job.max_images={most} must be at least 2.")
    source = datamodule.source
    say(heading(f"data: {source.name}"))
    say(data_text(datamodule.preview()))
    read_all(datamodule, output_dir)
    seen, images, masks = decoded_rows(datamodule, splits)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(seen))[:most])
    patients = seen.patients
    return Side(
        source.name,
        RowsOf(images.array, images.rows[chosen]),
        [patients[row] for row in chosen],
        datamodule.fingerprint,
        () if masks is None else tuple(source.mask_levels),
        None if masks is None else RowsOf(masks.array, masks.rows[chosen]),
    )


def splits_of(job: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The splits that `job.split` or `job.other_split` names: one, or all.

    Raises:
        ValueError: a name that is none.
    """
    return SPLITS if job[key] is None else (check_name(f"job.{key}", job[key], SPLITS),)


def features_of(side: Side, extractor: FeatureExtractor, batch_size: int) -> Tensor:
    """Features float32 [N, D], on the CPU."""
    device, found = next(extractor.buffers()).device, []
    with progress(f"features of {side.name}", len(side.images)) as bar:
        for start in range(0, len(side.images), batch_size):
            batch = side.image(slice(start, start + batch_size), device)
            found.append(extractor(batch).cpu())
            bar.update(len(batch))
    return torch.cat(found)


def shapes_of(side: Side) -> np.ndarray:
    """Properties of the masks, float64 [N, L P], as `mask_shapes` has them."""
    found = []
    with progress(f"masks of {side.name}", len(side.images)) as bar:
        for row in range(len(side.images)):
            found.append(properties_of(side.mask(slice(row, row + 1))[0].numpy(), len(side.levels)))
            bar.update(1)
    return np.stack(found)


def dice_of(side: Side, segmenter: Segmenter, batch_size: int, device: torch.device) -> np.ndarray:
    """Of each image and level the Dice of what a segmenter finds and of the mask, as `dice_of_found` has it."""
    found = []
    with progress(f"segmenter on {side.name}", len(side.images)) as bar:
        for start in range(0, len(side.images), batch_size):
            rows = slice(start, start + batch_size)
            masks = side.mask(rows)
            found.append(dice_of_found(segmenter, side.image(rows, device), masks, len(side.levels)))
            bar.update(len(masks))
    return torch.cat(found).numpy()
