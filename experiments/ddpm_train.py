"""`+exp=ddpm_train`: a latent diffusion model that paints labelled fundus photographs."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig

from callbacks.metrics.estimate import Better
from callbacks.sample_grid import SampleGrid
from datamodules.fundus import FundusDataModule
from experiments.assembly import (
    build_autoencoder,
    build_callbacks,
    build_datamodule,
    build_diffusion,
    pretrained_autoencoder,
    start_from,
)
from experiments.latents import cache_latents, fit_label_maps
from experiments.lineage import trained_on
from experiments.metric_directions import direction_of
from experiments.report import batch_text, ending_text, heading, parameters_text, say
from experiments.run_time import expectation
from experiments.trainers import build_trainer, final_metrics, world_size
from experiments.training import describe_data, fit, prepare_data
from experiments.vae_train import check_optimisers, existing_autoencoder, find_or_train_autoencoder
from lightning_modules.latent_diffusion import LatentDiffusion


def ddpm_train(cfg: DictConfig, checkpoint: str) -> dict[str, float]:
    """Find or train the autoencoder, cache its latents, train the denoiser; returns the final metrics."""
    start, output_dir = time.monotonic(), Path(cfg.output_dir)
    callbacks = build_callbacks(cfg)
    module = preview(cfg, callbacks, checkpoint)
    before = None if checkpoint else partial(foretell, cfg, callbacks, module)
    datamodule = prepare_data(cfg, output_dir, foretell=before)
    del module, before
    if checkpoint:  # the autoencoder on whose latents the run began, whatever has become of its file since
        autoencoder = pretrained_autoencoder(cfg, checkpoint)
    else:
        autoencoder = find_or_train_autoencoder(cfg, datamodule, output_dir)
    say(heading("denoiser"))
    module = build_diffusion(cfg, autoencoder)
    if cfg.ckpt and not checkpoint:
        start_from(module, cfg.ckpt)
    monitor, mode, every = monitored(cfg.job.monitor, callbacks)
    trainer = build_trainer(
        cfg, output_dir, checkpoint, monitor, hparams(cfg), list(dict.fromkeys([monitor, "val/loss"])), callbacks,
        monitored_every_n_epochs=every, mode=mode,
    )  # fmt: skip
    datamodule.setup("fit")
    describe_data(datamodule, output_dir)
    repeat_rare(datamodule, cfg.job.repeat_threshold)
    module.trained_on = trained_on(datamodule, checkpoint or existing_autoencoder(cfg))
    if cfg.job.cache_latents:
        datamodule.attach_latents(cache_latents(cfg, datamodule, module.autoencoder.to(trainer.strategy.root_device)))
    if not checkpoint:
        fit_label_maps(module.to(trainer.strategy.root_device), datamodule)
    fit(trainer, module, datamodule, output_dir, checkpoint)
    metrics = final_metrics(trainer)
    say(ending_text(output_dir, metrics, time.monotonic() - start))
    return metrics


def foretell(
    cfg: DictConfig,
    callbacks: Sequence[L.Callback],
    module: LatentDiffusion,
    datamodule: FundusDataModule,
    summary: Mapping[str, Any],
) -> None:
    """Say how long it is going to take."""
    say(expectation(cfg, module, callbacks, datamodule, summary))


def repeat_rare(datamodule: FundusDataModule, threshold: float | None) -> None:
    """Let images of rare levels be drawn more often, where the data can, and say it."""
    if threshold is None:
        return
    if datamodule.repeat_rare(threshold):
        say(f"drawn more often: images of levels that a share of less than {threshold:g} of the images show")
    else:
        say(f"job.repeat_threshold={threshold:g} changes nothing: images are streamed, or data.balance draws them")


def monitored(name: str | None, callbacks: Sequence[L.Callback]) -> tuple[str, Better, int]:
    """The metric that chooses the best checkpoint, which direction is better, and every how many epochs it is measured.

    Args:
        name: None takes the first that a callback measures, else val/loss.

    Raises:
        ValueError: no callback measures it, or neither the callback nor the metric declares a direction.
    """
    measured = {callback.tag: callback for callback in callbacks if hasattr(callback, "tag")}
    name = next(iter(measured), "val/loss") if name is None else name
    if name not in (*measured, "val/loss"):
        raise ValueError(f"job.monitor={name} is measured by no callback of this run: {', '.join(measured)}, val/loss.")
    callback = measured.get(name)
    declare = f"give {type(callback).__name__} an attribute mode, 'max' or 'min'"
    mode = getattr(callback, "mode", None) or direction_of(name, "job.monitor", declare)
    return name, mode, getattr(callback, "every_n_epochs", 1)


def preview(cfg: DictConfig, callbacks: Sequence[L.Callback] = (), checkpoint: str = "") -> LatentDiffusion:
    """Say what is going to be trained, at what batch and rate, before anything heavy; returns it, weights at random.

    A run that goes on from a checkpoint has all weights in it: those that it once began with may be elsewhere by now.

    Raises:
        ValueError: parts that do not fit together, found now and not after an hour.
    """
    threshold = cfg.job.repeat_threshold if "repeat_threshold" in cfg.job else None
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"job.repeat_threshold={threshold} must be a share above 0 and up to 1; null: no repeats.")
    if cfg.job.cache_latents:
        build_datamodule(cfg).check_latents()
    size, source = world_size(cfg), checkpoint or existing_autoencoder(cfg)
    if not source:
        check_optimisers(cfg)
    autoencoder = pretrained_autoencoder(cfg, source) if source else build_autoencoder(cfg, with_judges=False)
    module = build_diffusion(cfg, autoencoder)
    module.objective.check_trainable()
    if cfg.ckpt and not checkpoint:
        start_from(module, cfg.ckpt)
    for callback in callbacks:
        if isinstance(callback, SampleGrid):
            module.network.conditioning.check(callback.labels)
    say(heading("model"))
    if cfg.ckpt and not checkpoint:
        say(f"weights of the denoiser and the autoencoder start from {cfg.ckpt}")
    say(parameters_text({"autoencoder": module.autoencoder, "denoiser": module.network.denoiser,
                         "conditioning": module.network.conditioning}))  # fmt: skip
    say("denoiser:     " + batch_text(cfg.data.batch_size, cfg.trainer, size, cfg.model.diffusion.learning_rate))
    return module


def hparams(cfg: DictConfig) -> dict[str, object]:
    """The settings that tell runs apart in TensorBoard."""
    diffusion, objective = cfg.model.diffusion, cfg.model.objective
    return {
        "denoiser": cfg.model.denoiser._target_.rpartition(".")[2],
        "image_size": cfg.data.image_size,
        "batch_size": cfg.data.batch_size,
        "learning_rate": diffusion.learning_rate,
        "prediction": objective.prediction,
        "weighting": objective.weighting,
        "schedule": objective.schedule.name,
        "guidance": diffusion.guidance,
        "seed": cfg.seed,
    }
