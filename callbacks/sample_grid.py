"""A grid of samples: a row a condition, a column a seed, so that what a condition changes is seen down each column."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.due import is_due
from callbacks.image_sheet import compose, publish
from callbacks.isolation import demand, isolated, to_uint8
from datamodules.errors import UserError, nearest


class Generator(Protocol):
    """What the trained module must be able to do."""

    def sample(
        self, condition: Any, seeds: Sequence[int], num_steps: int | None = None, guidance: float | None = None
    ) -> Tensor:
        """A condition, such as labels int64 [B, F], and a seed an image -> images float32 [B, 3, H, W] in [0, 1]."""


# Of the levels of a mask: background black, the first level white, others in colours that are told apart.
LEVEL_COLOURS = np.array(
    [[0, 0, 0], [255, 255, 255], [230, 75, 53], [77, 187, 213], [0, 160, 135], [243, 155, 127], [132, 145, 180]],
    dtype=np.uint8,
)


class SampleGrid(Callback):
    """Write `<output_dir>/samples/epoch_0007.png` and show it as `samples/grid`, after validation.

    A module that has `sample_pairs`, and makes masks, has the mask of each image shown at its right.

    All ranks sample everything (a sharded module needs them all, and the grid is small); rank 0 writes.

    Args:
        conditions: caption -> finding -> level, a row each, top to bottom.
        findings: names of the label columns, in their order.
        output_dir: folder of the run.
        num_columns: images a row; column c has seed `seed + c` in every row.
        seed: seed of the first column.
        num_steps: sampling steps, None = the module's own.
        guidance: guidance weight, None = the module's own.
        every_n_epochs: epochs between grids; the last epoch of max_epochs has one in any case.
        defaults: levels of the findings that a condition does not name; otherwise unknown (-1).
        batch_size: images at a time.

    Raises:
        ValueError: no condition, a finding that is not among findings, a level below -1, or a count below 1.
    """

    def __init__(
        self,
        conditions: Mapping[str, Mapping[str, int]],
        findings: Sequence[str],
        output_dir: str,
        num_columns: int = 6,
        seed: int = 0,
        num_steps: int | None = None,
        guidance: float | None = None,
        every_n_epochs: int = 1,
        defaults: Mapping[str, int] | None = None,
        batch_size: int = 16,
    ) -> None:
        counts = {"num_columns": num_columns, "every_n_epochs": every_n_epochs, "batch_size": batch_size}
        for name, value in counts.items():
            if value < 1:
                raise UserError(f"{name} is {value}: SampleGrid needs at least 1")
        if not conditions:
            raise UserError("conditions is empty: SampleGrid needs a row at least, for example {any: {}}")
        self.captions = list(conditions)
        self.labels = torch.tensor(
            [_levels(caption, {**(defaults or {}), **levels}, findings) for caption, levels in conditions.items()]
        )
        self.output_dir = output_dir
        self.num_columns = num_columns
        self.seed = seed
        self.num_steps = num_steps
        self.guidance = guidance
        self.every_n_epochs = every_n_epochs
        self.batch_size = batch_size

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the module can sample."""
        demand("SampleGrid", "pl_module", pl_module, "sample")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sample on every rank, write on rank 0."""
        if trainer.sanity_checking or not is_due(trainer, self.every_n_epochs):
            return
        images = self.images(pl_module)
        if trainer.is_global_zero:
            path = Path(self.output_dir) / "samples" / f"epoch_{trainer.current_epoch:04d}.png"
            publish(trainer, compose(images, self.captions), path, "samples/grid")

    def images(self, pl_module: Generator) -> np.ndarray:
        """Return the images uint8 [rows, columns, S, S, 3]; with masks there are twice as many columns."""
        labels = self.labels.repeat_interleave(self.num_columns, dim=0).to(pl_module.device)
        seeds = [self.seed + column for _ in self.captions for column in range(self.num_columns)]
        with isolated(pl_module):
            batches = [
                self._batch(pl_module, labels[chunk], seeds[chunk])
                for start in range(0, len(seeds), self.batch_size)
                for chunk in [slice(start, start + self.batch_size)]
            ]
        images = np.concatenate(batches)  # [rows * columns, 1 or 2, S, S, 3]
        return images.reshape(len(self.captions), -1, *images.shape[2:])

    def _batch(self, pl_module: Generator, labels: Tensor, seeds: Sequence[int]) -> np.ndarray:
        """Images, and masks where there are any, uint8 [B, 1 or 2, S, S, 3]."""
        how, masks = (labels, seeds, self.num_steps, self.guidance), None
        if hasattr(pl_module, "sample_pairs"):
            images, masks = pl_module.sample_pairs(*how)
        else:
            images = pl_module.sample(*how)
        shown = [to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()]
        if masks is not None:
            shown.append(LEVEL_COLOURS[masks.cpu().numpy() % len(LEVEL_COLOURS)])
        return np.stack(shown, axis=1)


def _levels(caption: str, levels: Mapping[str, int], findings: Sequence[str]) -> list[int]:
    for name, level in levels.items():
        if name not in findings:
            near = nearest(name, findings)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise UserError(f"condition {caption!r} names finding {name!r}{hint} Known: {', '.join(findings)}")
        if not isinstance(level, int) or level < -1:
            raise UserError(f"condition {caption!r} sets {name} to {level!r}: give a level from 0, or -1 for unknown")
    return [levels.get(name, -1) for name in findings]
