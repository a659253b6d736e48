"""Distances of generated to real images, and how many of these they cover, measured without changing the training."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from callbacks.csv_table import CsvTable, Row
from callbacks.due import BestCheckpoint, is_due
from callbacks.feature_sets import FeatureSet, collect, progress, real_features
from callbacks.features import FeatureExtractor
from callbacks.isolation import demand, isolated, to_uint8
from callbacks.metrics import coverage, frechet, kernel
from callbacks.metrics.estimate import Estimate
from callbacks.ranks import Ranks
from datamodules.errors import UserError


class Generator(Protocol):
    """What the trained module must be able to do; an attribute `sampling` (dict) may hold its default settings."""

    def sample(
        self, condition: Any, seeds: Sequence[int], num_steps: int | None = None, guidance: float | None = None
    ) -> Tensor:
        """Rows of the datamodule's conditions, a seed an image -> images float32 [B, 3, H, W] in [0, 1].

        They are made by the averaged weights.
        """


FINGERPRINTS = ("fingerprint", "split_fingerprint")  # of the datamodule: which images, and on which side they are


class Reals(Protocol):
    """What the datamodule must offer."""

    fingerprint: str
    split_fingerprint: str

    def images(self, split: str) -> Sequence[np.ndarray]:
        """Images uint8 [N, H, W, 3] of a split."""

    def conditions(self, split: str) -> Any:
        """What the images of a split show, of which rows are what `sample` takes; labels int64 [N, F] for one."""


class FrechetDistance(Callback):
    """Log `val/fd_<extractor>` (`val/fid` for the network that defines it) and `val/kd_<extractor>` after validation.

    `val/coverage_<extractor>` beside them is `metrics.coverage.coverage`, the share of real images that have a
    generated one near; it needs more than five real images.

    Image i has seed `seed + i` and the condition of a real image, taken from the split in a random order fixed by
    `seed`, each as often as the next; it is made on rank i % R and rounded to 8 bits as a saved file is. The figure,
    with every setting that it depends on, goes to the loggers, to `<output_dir>/frechet.csv` and to the attribute
    `record`; with the `seconds` that measuring took and the `unix_time` of its end.

    Args:
        extractor: what the distance is measured with.
        num_images: generated images, over all ranks; fewer than the extractor's dim biases the Fréchet distance upward.
        batch_size: images at a time on each rank.
        output_dir: folder of the run.
        cache_dir: features of the real images are kept in `<cache_dir>/features`; None keeps nothing.
        num_steps: sampling steps, None = the module's own.
        guidance: guidance weight, None = the module's own.
        every_n_epochs: epochs between measurements; the last epoch of max_epochs is measured in any case.
        reference_split: the split that gives the real images and the labels.
        num_real: real images, None = all of the split.
        seed: seed of image 0 and of the order of labels.
        evaluate_at_start: measure the untrained module too, as epoch -1.
        num_kernel_images: images of each side that the kernel distance and the coverage look at where there are too
            many for all.

    Raises:
        ValueError: a count below its least value; a module or datamodule that lacks what is needed; a ModelCheckpoint
            that would compare figures of epochs in which none is measured.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        num_images: int,
        batch_size: int,
        output_dir: str,
        cache_dir: str | None = None,
        num_steps: int | None = None,
        guidance: float | None = None,
        every_n_epochs: int = 1,
        reference_split: str = "train",
        num_real: int | None = None,
        seed: int = 0,
        evaluate_at_start: bool = False,
        num_kernel_images: int = 2000,
    ) -> None:
        counts = {"num_images": (num_images, 2), "batch_size": (batch_size, 1), "every_n_epochs": (every_n_epochs, 1)}
        counts |= {"num_real": (num_real, 2), "num_kernel_images": (num_kernel_images, 2), "num_steps": (num_steps, 1)}
        for name, (value, least) in counts.items():
            if value is not None and value < least:
                raise UserError(f"{name} is {value}: FrechetDistance needs at least {least}")
        self.extractor = extractor
        self.num_images = num_images
        self.batch_size = batch_size
        self.output_dir = output_dir
        self.cache_dir = cache_dir
        self.num_steps = num_steps
        self.guidance = guidance
        self.every_n_epochs = every_n_epochs
        self.reference_split = reference_split
        self.num_real = num_real
        self.seed = seed
        self.evaluate_at_start = evaluate_at_start
        self.num_kernel_images = num_kernel_images
        self.tag = "val/fid" if extractor.is_fid else f"val/fd_{extractor.name}"
        self.kernel_tag = "val/kid" if extractor.is_fid else f"val/kd_{extractor.name}"
        self.coverage_tag = f"val/coverage_{extractor.name}"
        self.mode = frechet.BETTER["fid" if extractor.is_fid else "fd"]
        self.record: dict[str, Any] = {}
        self._table = CsvTable(Path(output_dir) / "frechet.csv", {"figure": str, "epoch": int, "global_step": int})
        self._real: FeatureSet | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that everything needed is there before hours of training."""
        demand("FrechetDistance", "pl_module", pl_module, "sample")
        demand("FrechetDistance", "trainer.datamodule", trainer.datamodule, "images", "conditions", *FINGERPRINTS)
        if stage == "fit":
            self._check_schedule(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop rows beyond the point of resumption, and measure the start if asked."""
        step = trainer.global_step
        resumed = step > 0 or trainer.ckpt_path is not None
        if trainer.is_global_zero:
            self._table.keep(lambda row: row.get("figure") != self.tag or (resumed and _is_up_to(step, row)))
        if self.evaluate_at_start and not resumed:
            figures = self._measure(trainer, pl_module, epoch=-1)
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=0)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log, in the epochs that are due."""
        due = trainer.state.fn != "fit" or is_due(trainer, self.every_n_epochs)
        if trainer.sanity_checking or not due:
            return
        figures = self._measure(trainer, pl_module, epoch=trainer.current_epoch)
        # Every rank holds the same figures; their maximum is exact, where a mean would round.
        pl_module.log_dict(figures, on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max")

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Estimate]:
        """Return the figures under their log keys, the same on every rank; sampling takes nearly all the time."""
        ranks = Ranks.of(trainer)
        quiet = not trainer.is_global_zero or trainer.progress_bar_callback is None
        self.extractor.to(pl_module.device)
        with isolated(pl_module):
            self._real = self._real or self._real_features(trainer, quiet)
            generated = self._generated_features(trainer, pl_module, ranks, quiet)
        figures = None
        if trainer.is_global_zero:
            rows, real = generated.rows[: self.num_kernel_images], self._real.rows[: self.num_kernel_images]
            distance = generated.gaussian.distance(self._real.gaussian)
            measured = {
                self.tag: (distance, self.mode, self.num_images),
                self.kernel_tag: (kernel.kernel_distance(rows, real), kernel.BETTER["kd"], len(rows)),
            }
            if len(real) > coverage.NEAREST:
                measured[self.coverage_tag] = (coverage.coverage(real, rows), coverage.BETTER["coverage"], len(rows))
            facts = {"extractor": self.extractor.name, "seed": self.seed}
            figures = {
                tag: Estimate(value, name=tag.partition("/")[2], better=better, num_images=num_images, **facts)
                for tag, (value, better, num_images) in measured.items()
            }
        return trainer.strategy.broadcast(figures)

    def _measure(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> dict[str, float]:
        start = time.monotonic()
        figures = {tag: figure.value for tag, figure in self.measure(trainer, pl_module).items()}
        defaults = getattr(pl_module, "sampling", {})
        self.record = {
            "epoch": epoch,
            "global_step": trainer.global_step,
            "figure": self.tag,
            "fd": figures[self.tag],
            "kd": figures[self.kernel_tag],
            "coverage": figures.get(self.coverage_tag),
            "num_images": self.num_images,
            "num_real": self._real.num_images,
            "num_steps": defaults.get("num_steps") if self.num_steps is None else self.num_steps,
            "guidance": defaults.get("guidance") if self.guidance is None else self.guidance,
            "scheduler": defaults.get("scheduler"),
            "spacing": defaults.get("spacing"),
            "classifier_scale": defaults.get("classifier_scale", 0.0) if self.guidance is None else 0.0,
            "weights": "ema",
            "seed": self.seed,
            "labels": f"of {self.reference_split}, in random order",
            "rounding": "8 bit",
            "reference_split": self.reference_split,
            "extractor": self.extractor.name,
            "extractor_image_size": self.extractor.image_size,
            "extractor_fingerprint": self.extractor.fingerprint,
            "data_fingerprint": trainer.datamodule.fingerprint,
            "seconds": round(time.monotonic() - start, 3),
            "unix_time": round(time.time(), 3),
        }
        if trainer.is_global_zero:
            key = (self.tag, str(epoch), str(trainer.global_step))
            self._table.keep(lambda row: (row.get("figure"), row["epoch"], row["global_step"]) != key)
            self._table.append(self.record)
            self._write_settings(trainer)
        return figures

    def _write_settings(self, trainer: Trainer) -> None:
        lines = "\n".join(f"| {name} | {value} |" for name, value in self.record.items())
        for logger in trainer.loggers:
            add_text = getattr(getattr(logger, "experiment", None), "add_text", None)
            if add_text is not None:
                add_text(f"{self.tag}/settings", f"| setting | value |\n|---|---|\n{lines}", trainer.global_step)

    def _real_features(self, trainer: Trainer, quiet: bool) -> FeatureSet:
        images = trainer.datamodule.images(self.reference_split)
        num_real = len(images) if self.num_real is None else min(self.num_real, len(images))
        if num_real < 2:
            raise UserError(f"split {self.reference_split!r} has {num_real} images: a distance needs at least 2")
        title = None if quiet else f"{self.tag}: features of real images"
        return real_features(trainer, self.extractor, self.reference_split, num_real, self.num_kernel_images,
                             self.batch_size, self.cache_dir, title)  # fmt: skip

    def _generated_features(
        self, trainer: Trainer, pl_module: LightningModule, ranks: Ranks, quiet: bool
    ) -> FeatureSet:
        conditions = trainer.datamodule.conditions(self.reference_split)
        rows = self._rows(len(conditions))

        def make_images(indices: Sequence[int]) -> Tensor:
            seeds = [self.seed + i for i in indices]
            return to_uint8(pl_module.sample(conditions[rows[list(indices)]], seeds, self.num_steps, self.guidance))

        with progress(None if quiet else f"{self.tag}: sampling", self.num_images) as bar:
            return collect(make_images, self.num_images, self.extractor, ranks, self.batch_size,
                           self.num_kernel_images, bar.update)  # fmt: skip

    def _rows(self, num_rows: int) -> Tensor:
        """Whose conditions the generated images have, [num_images]: the split's rows in random order, over and over."""
        generator = torch.Generator().manual_seed(self.seed)
        rounds = [torch.randperm(num_rows, generator=generator) for _ in range(-(-self.num_images // num_rows))]
        return torch.cat(rounds)[: self.num_images]

    def _check_schedule(self, trainer: Trainer) -> None:
        every_validation = trainer.check_val_every_n_epoch or 1
        every = math.lcm(self.every_n_epochs, every_validation)
        if every not in (self.every_n_epochs, every_validation):
            raise UserError(
                f"every_n_epochs is {self.every_n_epochs} and check_val_every_n_epoch {every_validation}: the distance "
                f"would be measured every {every} epochs only; let one be a multiple of the other"
            )
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.monitor in (self.tag, self.kernel_tag):
                saved = math.lcm(_saves_every(callback) or every, every_validation)
                if saved % every:
                    raise UserError(
                        f"ModelCheckpoint monitors {callback.monitor} every {saved} epochs, but it is measured every "
                        f"{every}: set its every_n_epochs to {every}, or it keeps weights for an old figure"
                    )


def _is_up_to(step: int, row: Row) -> bool:
    return row["global_step"] != "" and int(row["global_step"]) <= step


def _saves_every(callback: ModelCheckpoint) -> int | None:
    return callback.measured_every_n_epochs if isinstance(callback, BestCheckpoint) else callback.every_n_epochs
