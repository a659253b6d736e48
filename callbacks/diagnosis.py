"""Diagnosis: how well a classifier tells findings, epoch by epoch, and at the end with intervals and predictions."""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.diagnosis_figures import figures_of
from callbacks.files import write_atomically, write_text
from callbacks.gathered import Gathered, Predictions
from callbacks.image_sheet import publish
from callbacks.metrics.estimate import Estimate, to_json
from callbacks.metrics.evaluation import MACRO, MACRO_METRICS, evaluate

log = logging.getLogger(__name__)

Evaluation = dict[str, dict[str, Estimate]]  # finding -> metric -> figure
OF_FINDING = ("auroc", "qwk")  # logged for each finding


class Diagnosis(Callback):
    """Logs `val/auroc`, `val/aupr`, `val/f1`, `val/accuracy`, `val/ece` (means over findings) and, of each finding,
    `val/auroc_<finding>` and `val/qwk_<finding>`, after every validation; the same under `test/`.

    The module's validation and test steps return {"probabilities": {finding: [B, K]}, "labels": [B, all findings],
    "id": list[str]}. What is undefined, since a split lacks a class, is not logged; an undefined macro AUROC is logged
    as NaN, so that it is seen. All processes measure the same gathered predictions.

    After `examine`, predictions are kept, and measured with intervals by a bootstrap over patients; `write` leaves
    `predictions.parquet`, `evaluation.json` and the figures of each split.

    Args:
        output_dir: of the run.
        columns: the findings that are learnt, and the column of each in the label matrix.
        num_replicates: of the bootstrap at the end; 0 gives no intervals.
    """

    def __init__(self, output_dir: str, columns: Mapping[str, int], num_replicates: int = 1000, seed: int = 0) -> None:
        self.output_dir = Path(output_dir)
        self.columns = dict(columns)
        self.num_replicates, self.seed = num_replicates, seed
        self.patients: dict[str, str] | None = None
        self.evaluations: dict[str, Evaluation] = {}
        self.predictions: dict[str, Gathered] = {}
        self._running = Predictions()

    def examine(self, patients: Mapping[str, str]) -> None:
        """From now on keep predictions, and measure with intervals; `patients` tells whose image each id is."""
        self.patients = dict(patients)

    # -- gathering

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self._running = Predictions()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self._running = Predictions()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *rest: Any
    ) -> None:
        """Keep what the module says of a batch."""
        self._running.add(outputs["probabilities"], outputs["labels"], outputs["id"])

    on_test_batch_end = on_validation_batch_end

    # -- measuring

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the figures of the validation split."""
        if not trainer.sanity_checking:
            self._measure(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the figures of the test split."""
        self._measure(trainer, pl_module, "test")

    def _measure(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        found = self._running.gathered()
        evaluation = self._evaluated(found)
        figures = _figures(evaluation, split)
        figures.setdefault(f"{split}/auroc", math.nan)
        for name, value in figures.items():
            pl_module.log(name, value, prog_bar=name == f"{split}/auroc", sync_dist=False, batch_size=len(found))
        if self.patients is not None:
            self.predictions[split], self.evaluations[split] = found, evaluation

    def _evaluated(self, found: Gathered) -> Evaluation:
        patients = [self.patients[name] for name in found.ids] if self.patients else list(found.ids)
        labels = found.labels[:, list(self.columns.values())]
        levels = {name: values.shape[1] for name, values in found.probabilities.items()}
        replicates = self.num_replicates if self.patients is not None else 0
        return evaluate(labels, found.probabilities, levels, patients, num_replicates=replicates, seed=self.seed)

    def figures(self) -> dict[str, float]:
        """What was found with the examined weights, by log key."""
        found: dict[str, float] = {}
        for split, evaluation in self.evaluations.items():
            found |= _figures(evaluation, split)
        return found

    # -- leaving

    def write(self, trainer: Trainer) -> None:
        """Write `predictions.parquet`, `evaluation.json`, and the figures into the folder and TensorBoard."""
        tables = [self._table(split, found) for split, found in self.predictions.items()]
        table = pa.concat_tables(tables)
        write_atomically(self.output_dir / "predictions.parquet", lambda path: pq.write_table(table, path))
        text = json.dumps({split: to_json(found) for split, found in self.evaluations.items()}, indent=2)
        write_text(self.output_dir / "evaluation.json", text + "\n")
        for split, found in self.predictions.items():
            labels = found.labels[:, list(self.columns.values())]
            for name, image in figures_of(labels, found.probabilities).items():
                path = self.output_dir / "samples" / f"{split}_{name}.png"
                publish(trainer, image, path, f"{split}/{name}")

    def _table(self, split: str, found: Gathered) -> pa.Table:
        """A row an image: id, patient, split, and of each finding its label and the probability of each level."""
        columns: dict[str, Any] = {
            "id": pa.array(found.ids.tolist(), pa.string()),
            "patient": pa.array([self.patients[name] for name in found.ids], pa.string()),
            "split": pa.array([split] * len(found), pa.string()),
        }
        for name, values in found.probabilities.items():
            columns[f"label_{name}"] = pa.array(found.labels[:, self.columns[name]].astype(np.int8))
            for level in range(values.shape[1]):
                columns[f"p_{name}_{level}"] = pa.array(values[:, level])
        return pa.table(columns)

    def table(self) -> str:
        """The figures for people: a line a finding, with its intervals."""
        lines = []
        for split, evaluation in self.evaluations.items():
            lines.append(
                f"  {split + ' (95 % interval over patients)':<36}{'images':>8}{'AUROC':>22}{'kappa (grades: QWK)':>22}"
            )
            for name, metrics in evaluation.items():
                auroc, kappa = metrics["auroc"], metrics.get("qwk") or metrics.get("kappa", "")
                lines.append(f"  {name:<36}{auroc.num_images:>8}{auroc!s:>22}{kappa!s:>22}")
        return "\n".join(lines)


def _figures(evaluation: Evaluation, split: str) -> dict[str, float]:
    """Log keys and values of what is defined."""
    found = {}
    for name, metrics in evaluation.items():
        ending = "" if name == MACRO else f"_{name}"
        wanted = MACRO_METRICS if name == MACRO else OF_FINDING
        found |= {f"{split}/{key}{ending}": metrics[key].value for key in wanted if key in metrics}
    return {name: value for name, value in found.items() if not math.isnan(value)}
