"""A grid of image-mask pairs during training: what was asked for, what was painted, whether the two lie together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.due import is_due
from callbacks.image_sheet import LEAST_SIZE, compose, publish
from callbacks.isolation import demand, isolated, to_uint8
from callbacks.mask_outlines import coloured, enlarged, outlined
from datamodules.errors import UserError


class Pairs(NamedTuple):
    """Images float32 [B, 3, H, W] in [0, 1], masks int64 [B, H, W] or None."""

    images: Tensor
    masks: Tensor | None


class PairGenerator(Protocol):
    """What the trained module must be able to do."""

    def sample_pairs(
        self, condition: Any, seeds: Sequence[int], num_steps: int | None = None, guidance: float | None = None
    ) -> Pairs:
        """A condition and a seed an image -> images and masks."""


class PairGrid(Callback):
    """Write `<output_dir>/samples/pairs_epoch_0007.png` and show it as `samples/pairs`, after validation.

    A column is a validation image that has a mask. From top to bottom: the photograph with its mask, then twice the
    image that the generator makes for the same condition, with the mask that belongs to it (the one that was asked
    for, or the one that was made with it), the second time without. A module without masks has no such grid.

    All ranks sample everything; rank 0 writes.

    Args:
        output_dir: folder of the run.
        num_columns: validation images.
        seed: seed of the first column; column c has `seed + c`.
        num_steps, guidance: of sampling, None = the module's own.
        every_n_epochs: epochs between grids; the last epoch of max_epochs has one in any case.

    Raises:
        UserError: a count below 1.
    """

    def __init__(
        self,
        output_dir: str,
        num_columns: int = 6,
        seed: int = 0,
        num_steps: int | None = None,
        guidance: float | None = None,
        every_n_epochs: int = 1,
    ) -> None:
        for name, value in {"num_columns": num_columns, "every_n_epochs": every_n_epochs}.items():
            if value < 1:
                raise UserError(f"{name} is {value}: PairGrid needs at least 1")
        self.output_dir, self.num_columns, self.seed = output_dir, num_columns, seed
        self.num_steps, self.guidance, self.every_n_epochs = num_steps, guidance, every_n_epochs

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that everything needed is there."""
        demand("PairGrid", "pl_module", pl_module, "sample_pairs")
        demand("PairGrid", "trainer.datamodule", trainer.datamodule, "images", "conditions")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sample on every rank, write on rank 0."""
        if trainer.sanity_checking or not is_due(trainer, self.every_n_epochs):
            return
        sheet = self.sheet(trainer.datamodule, pl_module)
        if trainer.is_global_zero and sheet is not None:
            path = Path(self.output_dir) / "samples" / f"pairs_epoch_{trainer.current_epoch:04d}.png"
            publish(trainer, sheet, path, "samples/pairs")

    def sheet(self, data: Any, pl_module: PairGenerator) -> np.ndarray | None:
        """The grid uint8 [height, width, 3]; None where the data or the module have no masks."""
        conditions, photographs = data.conditions("val"), data.images("val")
        if isinstance(conditions, Tensor):
            return None
        rows = self._rows(conditions)
        condition = {name: value.to(pl_module.device) for name, value in conditions[rows].items()}
        with isolated(pl_module):
            pairs = pl_module.sample_pairs(
                condition, [self.seed + place for place in range(len(rows))], self.num_steps, self.guidance
            )
        if pairs.masks is None:
            return None
        real, given = photographs[rows], condition["mask"].cpu().numpy()
        made, masks = to_uint8(pairs.images).cpu().permute(0, 2, 3, 1).numpy(), pairs.masks.cpu().numpy()
        factor, num_levels = -(-LEAST_SIZE // real.shape[1]), 1 + max(int(given.max()), int(masks.max()))

        def with_masks(images: np.ndarray, theirs: np.ndarray) -> list[np.ndarray]:
            large = (
                (enlarged(image, factor), enlarged(mask, factor)) for image, mask in zip(images, theirs, strict=True)
            )
            return [outlined(image, mask, num_levels) for image, mask in large]

        cells = {
            "photograph and its mask": with_masks(real, given),
            "mask of the generated": [enlarged(coloured(mask), factor) for mask in masks],
            "generated, with its mask": with_masks(made, masks),
            "generated": [enlarged(image, factor) for image in made],
        }
        return compose(np.stack([np.stack(row) for row in cells.values()]), list(cells))

    def _rows(self, conditions: Any) -> np.ndarray:
        """The first validation images whose mask shows something, as many as there are columns."""
        chosen: list[int] = []
        for row in range(len(conditions)):
            if len(chosen) < self.num_columns and bool((conditions[torch.tensor([row])]["mask"] > 0).any()):
                chosen.append(row)
        if not chosen:
            raise UserError("no validation image has a mask that shows anything but background: PairGrid needs one")
        return np.array(chosen)
