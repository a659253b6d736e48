"""Whether a generated image obeys its mask: what a segmenter of real photographs finds in it, and in real images too.

The segmenter errs on real images too. Its Dice there is the ceiling, and what counts is how near the generated images
come to it.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks.csv_table import CsvTable
from callbacks.due import is_due
from callbacks.feature_sets import progress, random_order
from callbacks.isolation import demand, isolated, to_uint8
from callbacks.metrics.estimate import Estimate
from callbacks.metrics.evaluation import MACRO
from callbacks.metrics.segmentation import BETTER, compare_masks
from callbacks.metrics.segmentation_evaluation import evaluate_masks
from callbacks.ranks import Ranks
from datamodules.errors import UserError

TAG = "val/mask_dice"
COLUMNS = {"epoch": int, "global_step": int, "level": str, "dice": float, "low": float, "high": float,
           "real": float, "real_low": float, "real_high": float, "num_images": int}  # fmt: skip


class Segmenter(Protocol):
    """What is asked."""

    def segment(self, images: Tensor) -> Tensor:
        """Levels int64 [B, H, W] of images float32 [B, 3, H, W] in [0, 1]."""


def dice_of_found(segmenter: Segmenter, images: Tensor, masks: Tensor, num_levels: int) -> Tensor:
    """Dice of what is found in images and their masks, and whether the mask shows the level: float32 [B, L, 2].

    NaN where no pixel of the mask is known. L are the levels but the background.

    Args:
        images: float32 [B, 3, H, W] in [0, 1].
        masks: int64 [B, H, W], -1 for unknown.
    """
    found, asked = segmenter.segment(images).cpu().numpy(), masks.cpu().numpy()
    cells = np.full((len(asked), num_levels - 1, 2), np.nan, dtype=np.float32)
    for image, (theirs, ours) in enumerate(zip(found, asked, strict=True)):
        known = ours >= 0
        for level in range(1, num_levels) if known.any() else ():
            shown = ours == level
            dice = compare_masks((theirs == level) & known, shown)["dice"]
            cells[image, level - 1] = dice, shown.any()
    return torch.from_numpy(cells)


def mask_dice(
    cells: np.ndarray, levels: Sequence[str], patients: Sequence[str], num_replicates: int, seed: int
) -> dict[str, Estimate]:
    """Mean Dice by level, and `macro` over the levels, of the `dice_of_found` [N, L, 2] of images of these patients."""
    named = dict(enumerate(levels[1:]))
    figures = {level: {"dice": cells[:, place, 0]} for place, level in named.items()}
    shown = {level: cells[:, place, 1] > 0 for place, level in named.items()}
    found = evaluate_masks(figures, shown, patients, num_replicates, seed)
    return {level: metrics["dice"] for level, metrics in found.items()}


class MaskAgreement(Callback):
    """Log `val/mask_dice` after validation, and `val/mask_dice_real` of real validation images: the ceiling.

    Images are generated for the conditions of validation images, each as often as the next; image i has seed `seed + i`
    and is rounded to 8 bits. Compared are the mask that it belongs to (the one that was asked for, or the one that was
    made with it) and the one that the segmenter finds: Dice of each image and level, then the mean. With several levels
    `val/mask_dice_<level>` are logged too. All, with intervals over images, are in `<output_dir>/mask_dice.csv`.

    Args:
        segmenter: trained on real pairs of training patients; None measures nothing.
        levels: names of the levels, background first.
        num_images: generated images, over all ranks.
        batch_size: images at a time on each rank.
        output_dir: folder of the run.
        num_steps, guidance: of sampling, None = the module's own.
        every_n_epochs: epochs between measurements; the last epoch of max_epochs is measured in any case.
        num_replicates: of the bootstrap.
        seed: seed of image 0, of the order of the conditions and of the bootstrap.

    Attributes:
        tag, mode: of the figure that may choose the best checkpoint; there where there is a segmenter.
        ceiling: Dice by level and `macro` on real images, once something has been measured.

    Raises:
        UserError: a count below 1; a module or datamodule that lacks what is needed.
    """

    def __init__(
        self,
        segmenter: Segmenter | None,
        levels: Sequence[str],
        num_images: int,
        batch_size: int,
        output_dir: str,
        num_steps: int | None = None,
        guidance: float | None = None,
        every_n_epochs: int = 1,
        num_replicates: int = 200,
        seed: int = 0,
    ) -> None:
        for name, value in {
            "num_images": num_images,
            "batch_size": batch_size,
            "every_n_epochs": every_n_epochs,
        }.items():
            if value < 1:
                raise UserError(f"{name} is {value}: MaskAgreement needs at least 1")
        self.segmenter, self.levels = segmenter, tuple(levels)
        self.num_images, self.batch_size, self.every_n_epochs = num_images, batch_size, every_n_epochs
        self.num_steps, self.guidance = num_steps, guidance
        self.num_replicates, self.seed = num_replicates, seed
        self.ceiling: dict[str, Estimate] = {}
        self._table = CsvTable(Path(output_dir) / "mask_dice.csv", COLUMNS)
        if segmenter is not None:
            self.tag, self.mode = TAG, BETTER["dice"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that everything needed is there before hours of training."""
        if self.segmenter is not None:
            demand("MaskAgreement", "pl_module", pl_module, "sample_pairs")
            demand("MaskAgreement", "trainer.datamodule", trainer.datamodule, "images", "conditions")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop rows beyond the point of resumption."""
        step = trainer.global_step
        if trainer.is_global_zero and self.segmenter is not None:
            self._table.keep((lambda row: int(row["global_step"] or step + 1) <= step) if step else None)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log, in the epochs that are due."""
        due = trainer.state.fn != "fit" or is_due(trainer, self.every_n_epochs)
        if self.segmenter is None or trainer.sanity_checking or not due:
            return
        start = time.monotonic()
        figures = self.measure(trainer, pl_module)
        if trainer.is_global_zero:
            self._write(trainer, figures, time.monotonic() - start)
        logged = self._logged(figures, TAG) | self._logged(self.ceiling, f"{TAG}_real")
        # Every rank holds the same figures; their maximum is exact, where a mean would round.
        pl_module.log_dict(logged, on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max")

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Estimate]:
        """Dice by level, and `macro`, of generated images; the same on every rank.

        Raises:
            UserError: data, or a generator, without masks.
        """
        conditions, data = trainer.datamodule.conditions("val"), trainer.datamodule
        if isinstance(conditions, Tensor):
            raise UserError("MaskAgreement needs data with masks: the validation images have none")
        ranks, quiet = Ranks.of(trainer), not trainer.is_global_zero or trainer.progress_bar_callback is None
        rows = np.resize(random_order(len(conditions)), self.num_images)
        if isinstance(self.segmenter, nn.Module):
            self.segmenter.to(pl_module.device)
        with isolated(pl_module):
            if not self.ceiling:
                number = min(self.num_images, len(conditions))
                self.ceiling = self._evaluated(self._collected(
                    lambda items: self._real(data, conditions, rows[items], pl_module.device), number, ranks, None
                ))  # fmt: skip
            dice = self._collected(
                lambda items: self._generated(conditions, rows, items, pl_module), self.num_images, ranks,
                None if quiet else f"{TAG}: sampling",
            )  # fmt: skip
        return self._evaluated(dice)

    def _collected(self, make: Any, number: int, ranks: Ranks, title: str | None) -> np.ndarray:
        """Dice [number, levels, 2] of images that `make(items)` compares; NaN where nothing is known."""
        mine, found = ranks.share(number), []
        with progress(title, number) as bar:
            for start in range(0, len(mine), self.batch_size):
                items = mine[start : start + self.batch_size]
                found.append(dice_of_found(self.segmenter, *make(items), len(self.levels)))
                bar.update(len(items) * ranks.num_ranks)
        return ranks.gather(torch.cat(found), number).numpy()

    def _real(self, data: Any, conditions: Any, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        images = torch.from_numpy(np.asarray(data.images("val")[rows])).permute(0, 3, 1, 2)
        return images.to(device).float() / 255, conditions[rows]["mask"]

    def _generated(
        self, conditions: Any, rows: np.ndarray, items: Sequence[int], pl_module: Any
    ) -> tuple[Tensor, Tensor]:
        asked = {name: value.to(pl_module.device) for name, value in conditions[rows[items]].items()}
        seeds = [self.seed + item for item in items]
        images, masks = pl_module.sample_pairs(asked, seeds, self.num_steps, self.guidance)
        if masks is None:
            raise UserError("MaskAgreement needs a generator with masks, and this one was built with model/masks=none")
        return to_uint8(images).float() / 255, masks

    def _evaluated(self, cells: np.ndarray) -> dict[str, Estimate]:
        """Dice by level and `macro`; every image is a patient of its own."""
        patients = [f"{number:09d}" for number in range(len(cells))]
        return mask_dice(cells, self.levels, patients, self.num_replicates, self.seed)

    def _logged(self, figures: dict[str, Estimate], tag: str) -> dict[str, float]:
        """The defined figures under their keys: of the mean, and of each level where there are several."""
        named = {tag: figures[MACRO].value}
        if len(self.levels) > 2:
            named |= {f"{tag}_{level.replace(' ', '_')}": figures[level].value for level in self.levels[1:]}
        return {name: value for name, value in named.items() if np.isfinite(value)}

    def _write(self, trainer: Trainer, figures: dict[str, Estimate], seconds: float) -> None:
        how = {"num_images": self.num_images, "seconds": round(seconds, 3), "unix_time": round(time.time(), 3)}
        place = {"epoch": trainer.current_epoch, "global_step": trainer.global_step}
        key = tuple(str(value) for value in place.values())
        self._table.keep(lambda row: (row["epoch"], row["global_step"]) != key)
        for level, dice in figures.items():
            real = self.ceiling[level]
            cells = {"dice": dice.value, "low": dice.low, "high": dice.high,
                     "real": real.value, "real_low": real.low, "real_high": real.high}  # fmt: skip
            self._table.append({**place, "level": level, **cells, **how})
