"""Whether generated images show what their labels ask for, by a linear probe on features; and real images beside it.

The probe is fitted to real training images. It is blunt: what counts is how near the generated images come to real
validation images, its ceiling, and how the curve of a run goes. For a figure to publish, annotate a set.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.csv_table import CsvTable
from callbacks.due import is_due
from callbacks.feature_sets import collect, progress, random_order, real_features
from callbacks.features import FeatureExtractor
from callbacks.isolation import demand, isolated, to_uint8
from callbacks.metrics.estimate import Estimate
from callbacks.metrics.probe import BETTER, LinearProbe, agreement, balanced_rows, mean_of
from callbacks.ranks import Ranks
from datamodules.errors import UserError

TAG = "val/agreement"
COLUMNS = {"epoch": int, "global_step": int, "finding": str, "asked": float, "low": float, "high": float,
           "real": float, "real_low": float, "real_high": float, "num_images": int}  # fmt: skip


class LabelAgreement(Callback):
    """Log `val/agreement_<finding>` and their mean `val/agreement` after validation, and the same of real images.

    Images have labels of training images, chosen so that each level of each finding comes as often; image i has seed
    `seed + i`. The value is `metrics.probe.agreement` of the labels asked for and the probe's scores: 0.5 for chance, 1
    for the best. `val/agreement_real…` are those of real validation images. All, with intervals over images, are in
    `<output_dir>/agreement.csv`, a row a finding and epoch, with the `seconds` that measuring took and the `unix_time`
    of its end.

    Args:
        extractor: whose features are probed.
        findings: names of the label columns, in their order.
        num_images: generated images, over all ranks.
        batch_size: images at a time on each rank.
        output_dir: folder of the run.
        cache_dir: features of real images are kept in `<cache_dir>/features`; None keeps nothing.
        num_steps: sampling steps, None = the module's own.
        guidance: guidance weight, None = the module's own.
        every_n_epochs: epochs between measurements; the last epoch of max_epochs is measured in any case.
        num_real: real images at most that the probe is fitted to, and that it is measured on.
        num_replicates: of the bootstrap.
        seed: seed of image 0, of the labels and of the bootstrap.

    Attributes:
        ceiling: the agreement of each finding on real validation images, once something has been measured.

    Raises:
        ValueError: a count below 1; a module or datamodule that lacks what is needed.
    """

    tag, mode = TAG, BETTER["agreement"]

    def __init__(
        self,
        extractor: FeatureExtractor,
        findings: Sequence[str],
        num_images: int,
        batch_size: int,
        output_dir: str,
        cache_dir: str | None = None,
        num_steps: int | None = None,
        guidance: float | None = None,
        every_n_epochs: int = 1,
        num_real: int = 1000,
        num_replicates: int = 200,
        seed: int = 0,
    ) -> None:
        counts = {"num_images": num_images, "batch_size": batch_size, "every_n_epochs": every_n_epochs}
        for name, value in (counts | {"num_real": num_real}).items():
            if value < 1:
                raise UserError(f"{name} is {value}: LabelAgreement needs at least 1")
        self.extractor, self.findings = extractor, list(findings)
        self.num_images, self.batch_size, self.every_n_epochs = num_images, batch_size, every_n_epochs
        self.output_dir, self.cache_dir = output_dir, cache_dir
        self.num_steps, self.guidance = num_steps, guidance
        self.num_real, self.num_replicates, self.seed = num_real, num_replicates, seed
        self._table = CsvTable(Path(output_dir) / "agreement.csv", COLUMNS)
        self._probe: LinearProbe | None = None
        self.ceiling: list[Estimate] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that everything needed is there before hours of training."""
        demand("LabelAgreement", "pl_module", pl_module, "sample")
        demand("LabelAgreement", "trainer.datamodule", trainer.datamodule, "images", "labels", "conditions",
               "fingerprint", "split_fingerprint")  # fmt: skip

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop rows beyond the point of resumption."""
        step = trainer.global_step
        if trainer.is_global_zero:
            self._table.keep((lambda row: int(row["global_step"] or step + 1) <= step) if step else None)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log, in the epochs that are due."""
        due = trainer.state.fn != "fit" or is_due(trainer, self.every_n_epochs)
        if trainer.sanity_checking or not due:
            return
        start = time.monotonic()
        figures = self.measure(trainer, pl_module)
        if trainer.is_global_zero:
            self._write(trainer, figures, time.monotonic() - start)
        logged = _logged(self.findings, figures, TAG) | _logged(self.findings, self.ceiling, f"{TAG}_real")
        # Every rank holds the same figures; their maximum is exact, where a mean would round.
        pl_module.log_dict(logged, on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max")

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> list[Estimate]:
        """The agreement of each finding, the same on every rank; NaN for one that the probe could not learn."""
        ranks, quiet = Ranks.of(trainer), not trainer.is_global_zero or trainer.progress_bar_callback is None
        self.extractor.to(pl_module.device)
        with isolated(pl_module):
            if self._probe is None:
                self._fit(trainer, quiet)
            labels = trainer.datamodule.labels("train")
            rows = balanced_rows(labels.numpy(), self.num_images, self.seed)
            labels, conditions = labels[rows], trainer.datamodule.conditions("train")

            def make_images(indices: Sequence[int]) -> Tensor:
                seeds, asked = [self.seed + i for i in indices], rows[list(indices)]
                return to_uint8(pl_module.sample(conditions[asked], seeds, self.num_steps, self.guidance))

            with progress(None if quiet else f"{TAG}: sampling", self.num_images) as bar:
                found = collect(make_images, self.num_images, self.extractor, ranks, self.batch_size, self.num_images,
                                bar.update)  # fmt: skip
        figures = agreement(labels.numpy(), self._probe.scores(found.rows.numpy()), self.num_replicates, self.seed)
        return trainer.strategy.broadcast(figures)

    def _fit(self, trainer: Trainer, quiet: bool) -> None:
        """Fit the probe to real training images, and measure it on real validation images."""
        features, labels = self._real(trainer, "train", quiet)
        self._probe = LinearProbe(features, labels)
        features, labels = self._real(trainer, "val", quiet)
        self.ceiling = agreement(labels, self._probe.scores(features), self.num_replicates, self.seed)

    def _real(self, trainer: Trainer, split: str, quiet: bool) -> tuple[np.ndarray, np.ndarray]:
        num_images, labels = len(trainer.datamodule.images(split)), trainer.datamodule.labels(split).numpy()
        number = min(self.num_real, num_images)
        title = None if quiet else f"{TAG}: features of real images"
        found = real_features(trainer, self.extractor, split, number, number, self.batch_size, self.cache_dir, title)
        return found.rows.numpy(), labels[random_order(num_images)[:number]]

    def _write(self, trainer: Trainer, figures: Sequence[Estimate], seconds: float) -> None:
        how = {"num_images": self.num_images, "seconds": round(seconds, 3), "unix_time": round(time.time(), 3)}
        place = {"epoch": trainer.current_epoch, "global_step": trainer.global_step}
        key = tuple(str(value) for value in place.values())
        self._table.keep(lambda row: (row["epoch"], row["global_step"]) != key)
        for name, asked, real in zip(self.findings, figures, self.ceiling, strict=True):
            row: dict[str, Any] = {
                **place,
                "finding": name,
                **_cells(asked, "asked", ""),
                **_cells(real, "real", "real_"),
            }
            self._table.append(row | how)


def _cells(figure: Estimate, name: str, before: str) -> dict[str, float]:
    return {name: figure.value, f"{before}low": figure.low, f"{before}high": figure.high}


def _logged(findings: Sequence[str], figures: Sequence[Estimate], tag: str) -> Mapping[str, float]:
    """The defined figures under their keys, and their mean."""
    named = {f"{tag}_{name}": figure.value for name, figure in zip(findings, figures, strict=True)}
    return {tag: mean_of(figures)} | {name: value for name, value in named.items() if np.isfinite(value)}
