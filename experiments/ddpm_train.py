"""`+exp=ddpm_train`: a latent diffusion model that paints labelled fundus photographs."""

import time
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
from omegaconf import DictConfig

from callbacks.sample_grid import SampleGrid
from datamodules.fundus import FundusDataModule
from datamodules.latents import LatentCache
from experiments.assembly import (
    build_autoencoder,
    build_callbacks,
    build_datamodule,
    build_diffusion,
    pretrained_autoencoder,
    start_from,
)
from experiments.lineage import trained_on
from experiments.report import batch_text, ending_text, heading, parameters_text, say
from experiments.trainers import build_trainer, final_metrics, world_size
from experiments.training import describe_data, fit, prepare_data
from experiments.vae_train import check_optimisers, existing_autoencoder, find_or_train_autoencoder
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.checkpoint import weights_fingerprint


def ddpm_train(cfg: DictConfig, checkpoint: str) -> dict[str, float]:
    """Find or train the autoencoder, cache its latents, train the denoiser; returns the final metrics."""
    start, output_dir = time.monotonic(), Path(cfg.output_dir)
    callbacks = build_callbacks(cfg)
    preview(cfg, callbacks)
    datamodule = prepare_data(cfg, output_dir)
    if checkpoint:  # the autoencoder on whose latents the run began, whatever has become of its file since
        autoencoder = pretrained_autoencoder(cfg, checkpoint)
    else:
        autoencoder = find_or_train_autoencoder(cfg, datamodule, output_dir)
    say(heading("denoiser"))
    module = build_diffusion(cfg, autoencoder)
    if cfg.ckpt:
        start_from(module, cfg.ckpt)
    monitored = next((callback for callback in callbacks if hasattr(callback, "tag")), None)
    monitor = "val/loss" if monitored is None else monitored.tag
    trainer = build_trainer(
        cfg, output_dir, checkpoint, monitor, hparams(cfg), [monitor, "val/loss"], callbacks,
        monitored_every_n_epochs=getattr(monitored, "every_n_epochs", 1),
    )  # fmt: skip
    datamodule.setup("fit")
    describe_data(datamodule, output_dir)
    module.trained_on = trained_on(datamodule, checkpoint or existing_autoencoder(cfg))
    if cfg.job.cache_latents:
        datamodule.attach_latents(cache_latents(cfg, datamodule, module.autoencoder.to(trainer.strategy.root_device)))
    fit(trainer, module, datamodule, output_dir, checkpoint)
    metrics = final_metrics(trainer)
    say(ending_text(output_dir, metrics, time.monotonic() - start))
    return metrics


def preview(cfg: DictConfig, callbacks: Sequence[L.Callback] = ()) -> None:
    """Say what is going to be trained, at what batch and rate, before anything heavy.

    Raises:
        ValueError: parts that do not fit together, found now and not after an hour.
    """
    if cfg.job.cache_latents:
        build_datamodule(cfg).check_latents()
    size, source = world_size(cfg), existing_autoencoder(cfg)
    if not source:
        check_optimisers(cfg)
    autoencoder = pretrained_autoencoder(cfg, source) if source else build_autoencoder(cfg, with_judges=False)
    module = build_diffusion(cfg, autoencoder)
    if cfg.ckpt:
        start_from(module, cfg.ckpt)
    for callback in callbacks:
        if isinstance(callback, SampleGrid):
            module.network.conditioning.check(callback.labels)
    say(heading("model"))
    if cfg.ckpt:
        say(f"weights of the denoiser and the autoencoder start from {cfg.ckpt}")
    say(parameters_text({"autoencoder": module.autoencoder, "denoiser": module.network.denoiser,
                         "conditioning": module.network.conditioning}))  # fmt: skip
    say("denoiser:     " + batch_text(cfg.data.batch_size, cfg.trainer, size, cfg.model.diffusion.learning_rate))


def cache_latents(cfg: DictConfig, datamodule: FundusDataModule, autoencoder: Autoencoder) -> LatentCache:
    """Latents of the training images, both ways round; made once for these images and these weights."""
    device = autoencoder.device

    def encode(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = autoencoder.encode(images.to(device))
        return mean.cpu(), std.cpu()

    fingerprint = {"images": datamodule.fingerprint, "split": datamodule.split_fingerprint,
                   "autoencoder": weights_fingerprint(autoencoder.network)}  # fmt: skip
    return LatentCache.build(encode, datamodule.images("train"), fingerprint, cfg.cache_dir)


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
