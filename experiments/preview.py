"""What a run is going to train, built once and said before anything heavy: what cannot be is found now."""

from collections.abc import Sequence

import lightning as L

from callbacks.sample_grid import SampleGrid
from datamodules.errors import UserError
from experiments.assembly import build_autoencoder, build_datamodule, build_diffusion, pretrained_autoencoder
from experiments.autoencoders import check_optimisers, existing_autoencoder
from experiments.loading import start_from
from experiments.report import batch_text, heading, parameters_text, say
from experiments.session import Run
from lightning_modules.latent_diffusion import LatentDiffusion


def preview(run: Run, callbacks: Sequence[L.Callback] = ()) -> LatentDiffusion:
    """Say what is going to be trained, at what batch and rate, before anything heavy; returns it, weights at random.

    A run that goes on from a checkpoint has all weights in it: those that it once began with may be elsewhere by now.

    Raises:
        ValueError: parts that do not fit together, found now and not after an hour.
    """
    cfg, checkpoint = run.cfg, run.checkpoint
    threshold = cfg.job.repeat_threshold if "repeat_threshold" in cfg.job else None
    if threshold is not None and not 0 < threshold <= 1:
        raise UserError(f"job.repeat_threshold={threshold} must be a share above 0 and up to 1; null: no repeats.")
    if cfg.job.cache_latents:
        build_datamodule(cfg).check_latents()
    source = checkpoint or existing_autoencoder(cfg.autoencoder.pretrained, cfg.ckpt)
    if not source:
        check_optimisers(cfg.autoencoder.module.get("discriminator"), cfg.strategy)
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
    say(
        "denoiser:     "
        + batch_text(cfg.data.batch_size, cfg.trainer, run.world_size, cfg.model.diffusion.learning_rate)
    )
    return module
