"""What the cases that take a generator share: it and its data, and what is measured of its images."""

import math
from collections.abc import Mapping
from typing import Any

import lightning as L
from hydra.utils import instantiate

from callbacks.agreement import LabelAgreement
from callbacks.fid import FrechetDistance
from callbacks.metrics.estimate import Estimate
from callbacks.metrics.probe import mean_of
from datamodules.errors import UserError
from datamodules.findings import FINDINGS
from experiments.benchmarks.common import check_one_process
from experiments.loading import load_diffusion
from experiments.session import Run
from experiments.synthesis.recipe import image_size_of
from experiments.training import prepare_data
from lightning_modules.checkpoint import best_of_run
from lightning_modules.latent_diffusion import LatentDiffusion


def generator_of(run: Run) -> LatentDiffusion:
    """The generator of `ckpt`.

    Raises:
        ValueError: none is named, data of another size than it makes, or several devices.
    """
    check_one_process(run)
    cfg = run.cfg
    if not cfg.ckpt:
        raise UserError("ckpt is not given: name the checkpoint of a generator, ckpt=<run>/checkpoints/last.ckpt.")
    generator = load_diffusion(best_of_run(cfg.ckpt))
    if image_size_of(generator) != cfg.data.image_size:
        raise UserError(
            f"data.image_size={cfg.data.image_size}, and ckpt={cfg.ckpt} makes images of {image_size_of(generator)} "
            f"pixels. Remedy: data.image_size={image_size_of(generator)}, and the data that it learnt from."
        )
    return generator


def trainer_with_data(run: Run, generator: LatentDiffusion) -> L.Trainer:
    """A Trainer with the data of the run, on whose device the generator is."""
    trainer = run.trial
    generator.to(trainer.strategy.root_device)
    trainer.datamodule = prepare_data(run)
    trainer.datamodule.setup("fit")
    return trainer


def measures_of(run: Run, trainer: L.Trainer) -> "Measures":
    """What `job` measures of `job.num_images` images of each kind."""
    cfg, job = run.cfg, run.cfg.job
    return Measures(
        trainer, extractor=instantiate(job.extractor), num_images=job.num_images, num_real=job.num_real,
        batch_size=cfg.data.batch_size, output_dir=cfg.output_dir, cache_dir=cfg.cache_dir, seed=cfg.seed,
    )  # fmt: skip


class Measures:
    """Distance, coverage and agreement of a generator's images, however they are sampled.

    The images of the distance and the coverage have labels as they come in training, those of the agreement labels of
    which each level comes as often; as many of each, with the same seeds every time.

    Args:
        trainer: has the data, on whose device the generator is.
        shared: arguments that FrechetDistance and LabelAgreement have in common.
    """

    def __init__(self, trainer: L.Trainer, **shared: Any) -> None:
        self.trainer = trainer
        self.frechet = FrechetDistance(**shared)
        self.agreement = LabelAgreement(findings=[finding.name for finding in FINDINGS], **shared)

    def of(self, generator: LatentDiffusion, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Figures of images sampled by these settings of `sample_by`, under their log keys; undefined ones are null."""
        generator.sample_by(**settings)
        found = self.agreement.measure(self.trainer, generator)
        distances = self.frechet.measure(self.trainer, generator)
        return {
            **{tag: figure.value for tag, figure in distances.items()},
            "agreement": defined(mean_of(found)),
            "agreements": self._named(found),
        }

    def facts(self) -> dict[str, Any]:
        """What all of them have in common; once something has been measured."""
        return {
            "distance": self.frechet.tag,
            "coverage": self.frechet.coverage_tag,
            "extractor": self.frechet.extractor.name,
            "agreement_real": defined(mean_of(self.agreement.ceiling)),
            "agreements_real": self._named(self.agreement.ceiling),
        }

    def _named(self, figures: list[Estimate]) -> dict[str, float | None]:
        values = (defined(figure.value) for figure in figures)
        return dict(zip(self.agreement.findings, values, strict=True))


def defined(value: float) -> float | None:
    """The value; None, which JSON can hold, for NaN."""
    return None if math.isnan(value) else value


def said(value: float | None) -> str:
    """Three digits, or that there is none: too few images of every level."""
    return "undefined" if value is None else f"{value:.3f}"
