"""SegmentationEvaluation: how like found masks are to drawn ones, epoch by epoch, and at the end with intervals."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.files import write_atomically, write_text
from callbacks.gathered import of_all_processes
from callbacks.image_sheet import publish
from callbacks.isolation import demand, to_uint8
from callbacks.mask_outlines import mask_sheet
from callbacks.metrics.estimate import Estimate, to_json
from callbacks.metrics.evaluation import MACRO
from callbacks.metrics.segmentation import (
    BETTER,
    THRESHOLDS,
    MaskShape,
    best_threshold,
    compare_masks,
    dice_by_threshold,
    iou_of,
)
from callbacks.metrics.segmentation_evaluation import evaluate_masks

SHAPES = ("area", "perimeter", "num_components", "row", "column")


class FindsMasks(Protocol):
    """What the trained module must have, besides steps that return `probabilities`, `mask` and `id`."""

    threshold: Tensor

    def levels(self, probabilities: Tensor) -> Tensor:
        """Levels int64 [B, H, W] of probabilities [B, K, H, W], by the threshold."""


class SegmentationEvaluation(Callback):
    """Logs `val/dice` and `val/iou`, means over levels and images, `val/dice_<level>` and `val/threshold`.

    After each validation of the training it sets the module's `threshold` to the one at which the mean Dice of the
    validation images is greatest, and logs the figures at it: the checkpoint of the epoch has it. The first images are
    written to `samples/masks_0007.png` with both outlines. All processes measure the same gathered figures.

    After `examine` the threshold stays as it is, and every image is measured by all metrics of
    metrics/segmentation.py; `write` leaves `evaluation.json`, with intervals by a bootstrap over patients, and
    `masks.parquet`, a row for each image and level.

    Args:
        output_dir: of the run.
        levels: names of the levels, background first.
        thin: names of levels that are thin, and measured by clDice too.
        num_replicates: of the bootstrap at the end; 0 gives no intervals.
        num_shown: images of the sheet.
    """

    def __init__(
        self,
        output_dir: str,
        levels: Sequence[str],
        thin: Sequence[str] = (),
        num_replicates: int = 1000,
        seed: int = 0,
        num_shown: int = 6,
    ) -> None:
        self.output_dir, self.levels, self.thin = Path(output_dir), tuple(levels), frozenset(thin)
        self.num_replicates, self.seed, self.num_shown = num_replicates, seed, num_shown
        self.patients: dict[str, str] | None = None
        self.rows: dict[str, list[dict[str, Any]]] = {}  # by split: of each image and level
        self.evaluations: dict[str, dict[str, dict[str, Estimate]]] = {}
        self._found: dict[str, Any] = {}  # of this process: by image its Dice [T, L], or its rows
        self._shown: list[tuple[np.ndarray, np.ndarray, Tensor, str]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that everything needed is there."""
        demand("SegmentationEvaluation", "pl_module", pl_module, "threshold", "levels")

    def examine(self, patients: Mapping[str, str]) -> None:
        """From now on measure all, with intervals; `patients` tells whose image each id is."""
        self.patients = dict(patients)

    # -- gathering

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self._found, self._shown = {}, []

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: FindsMasks, outputs: Any, batch: Any, batch_idx: int, *rest: Any
    ) -> None:
        """Measure the images of a batch; keep the first to be shown."""
        probabilities, masks = outputs["probabilities"], outputs["mask"]
        if self.patients is None:
            self._found |= zip(outputs["id"], dice_by_threshold(probabilities, masks), strict=True)
            room = max(0, self.num_shown - len(self._shown)) if trainer.is_global_zero else 0
            for place in range(min(room, len(masks))):
                image = to_uint8(batch["image"][place : place + 1])[0].permute(1, 2, 0).cpu().numpy()
                self._shown.append((image, masks[place].cpu().numpy(), probabilities[place], outputs["id"][place]))
            return
        found, drawn = pl_module.levels(probabilities).cpu().numpy(), masks.cpu().numpy()
        self._found |= {
            name: self._measured(*pair) for name, *pair in zip(outputs["id"], found, drawn, strict=True)
        }  # fmt: skip

    on_test_batch_end = on_validation_batch_end

    def _measured(self, found: np.ndarray, drawn: np.ndarray) -> list[dict[str, Any]]:
        """Of one image, by level: the metrics, and the shapes of both masks; nothing of an image without a mask."""
        known, rows = drawn >= 0, []
        for number, level in enumerate(self.levels[1:], start=1):
            row: dict[str, Any] = {"level": level}
            pair = {"found": (found == number) & known, "drawn": drawn == number}
            if known.any():
                row |= compare_masks(pair["found"], pair["drawn"], level in self.thin)
                for name, mask in pair.items():
                    shape = MaskShape.of(mask)
                    centroids = shape.centroids.T.tolist()
                    values = (shape.area, shape.perimeter, shape.num_components, *centroids)
                    row |= {f"{name}_{key}": value for key, value in zip(SHAPES, values, strict=True)}
            rows.append(row)
        return rows

    # -- measuring

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the threshold and log the figures of the validation split."""
        if not trainer.sanity_checking:
            self._conclude(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the figures of the test split."""
        self._conclude(trainer, pl_module, "test")

    def _conclude(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        found = {name: value for part in of_all_processes(self._found) for name, value in part.items()}
        found = dict(sorted(found.items()))
        if self.patients is not None:
            self._evaluate(split, found)
            figures = _figures(self.evaluations[split], split)
        else:
            dice = np.stack(list(found.values()))
            place = best_threshold(dice)
            pl_module.threshold.fill_(THRESHOLDS[place])
            figures = self._figures_at(dice[:, place], split) | {f"{split}/threshold": THRESHOLDS[place]}
            self._show(trainer, pl_module, {name: value[place] for name, value in found.items()})
        for name, value in figures.items():
            pl_module.log(name, value, prog_bar=name == f"{split}/dice", sync_dist=False, batch_size=len(found))

    def _figures_at(self, dice: np.ndarray, split: str) -> dict[str, float]:
        """Log keys and values of the Dice of images and levels, [N, L]; NaN where no image has a mask."""
        counted = dice[~np.isnan(dice).any(axis=1)]
        means = counted.mean(axis=0) if len(counted) else np.full(dice.shape[1], math.nan)
        iou = iou_of(counted).mean() if len(counted) else math.nan
        figures = {f"{split}/dice": float(means.mean()), f"{split}/iou": float(iou)}
        named = zip(self.levels[1:], means.tolist(), strict=True) if len(self.levels) > 2 else ()
        return figures | {f"{split}/dice_{_key(level)}": value for level, value in named}

    def _show(self, trainer: Trainer, pl_module: FindsMasks, dice: Mapping[str, np.ndarray]) -> None:
        if not self._shown:
            return
        images, drawn, probabilities, names = zip(*self._shown, strict=True)
        found = [pl_module.levels(one[None])[0].cpu().numpy() for one in probabilities]
        captions = [f"{name} Dice {dice[name].mean():.2f}" for name in names]
        sheet = mask_sheet(np.stack(images), np.stack(drawn), np.stack(found), len(self.levels), captions)
        path = self.output_dir / "samples" / f"masks_{trainer.current_epoch:04d}.png"
        publish(trainer, sheet, path, "samples/masks")

    def _evaluate(self, split: str, found: Mapping[str, list[dict[str, Any]]]) -> None:
        names = list(found)
        figures, is_drawn = {}, {}
        for place, level in enumerate(self.levels[1:]):
            rows = [found[name][place] for name in names]
            metrics = [key for key in BETTER if key != "cldice" or level in self.thin]
            figures[level] = {key: np.array([row.get(key, math.nan) for row in rows]) for key in metrics}
            is_drawn[level] = np.array([row.get("drawn_area", 0) > 0 for row in rows])
        patients = [self.patients[name] for name in names]
        self.evaluations[split] = evaluate_masks(figures, is_drawn, patients, self.num_replicates, self.seed)
        self.rows[split] = [
            {"id": name, "patient": self.patients[name], "split": split, **row} for name in names for row in found[name]
        ]

    # -- leaving

    def figures(self) -> dict[str, float]:
        """What was found with the examined weights, by log key."""
        return {k: v for split, found in self.evaluations.items() for k, v in _figures(found, split).items()}

    def dice(self, split: str) -> dict[str, float]:
        """Mean Dice over the levels, by image, of those that have a mask."""
        values: dict[str, list[float]] = {}
        for row in self.rows[split]:
            values.setdefault(row["id"], []).append(row.get("dice", math.nan))
        return {name: mean for name, dice in values.items() if not math.isnan(mean := float(np.mean(dice)))}

    def write(self) -> None:
        """Write `evaluation.json` and `masks.parquet`; one process alone is to call this."""
        shapes = [f"{name}_{key}" for name in ("found", "drawn") for key in SHAPES]
        names = ["id", "patient", "split", "level", *BETTER, *shapes]
        rows = [row for found in self.rows.values() for row in found]
        table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
        write_atomically(self.output_dir / "masks.parquet", lambda path: pq.write_table(table, path))
        text = json.dumps({split: to_json(found) for split, found in self.evaluations.items()}, indent=2)
        write_text(self.output_dir / "evaluation.json", text + "\n")

    def table(self) -> str:
        """The figures for people: a line a level, with its intervals."""
        lines = []
        for split, evaluation in self.evaluations.items():
            titles = f"{'images':>8}{'Dice':>22}{'IoU':>22}{'HD95, pixels':>26}"
            lines.append(f"  {split + ' (95 % interval over patients)':<36}{titles}")
            for level, found in evaluation.items():
                dice, iou, distance = (found[key] for key in ("dice", "iou", "hd95"))
                lines.append(f"  {level:<36}{dice.num_images:>8}{dice!s:>22}{iou!s:>22}{distance!s:>26}")
                if "cldice" in found:
                    lines.append(f"  {'':<36}{'clDice':>8}{found['cldice']!s:>22}")
        return "\n".join(lines)


def _key(level: str) -> str:
    return level.replace(" ", "_")


def _figures(evaluation: Mapping[str, Mapping[str, Estimate]], split: str) -> dict[str, float]:
    """Log keys and values of what is defined: of the mean over levels, and of each where there are several."""
    found = {}
    for level, metrics in evaluation.items():
        if level == MACRO or len(evaluation) > 2:
            ending = "" if level == MACRO else f"_{_key(level)}"
            found |= {f"{split}/{name}{ending}": one.value for name, one in metrics.items()}
    return {name: value for name, value in found.items() if not math.isnan(value)}
