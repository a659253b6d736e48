"""`+exp=ddpm_train`: a latent diffusion model that paints labelled fundus photographs."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import lightning as L

from datamodules.fundus import FundusDataModule
from experiments.assembly import build_callbacks, build_diffusion, mask_levels, pretrained_autoencoder
from experiments.autoencoders import existing_autoencoder, find_or_train_autoencoder
from experiments.clusters import cluster_images
from experiments.latents import cache_latents, fit_label_maps, fit_mask_code
from experiments.lineage import trained_on
from experiments.loading import start_from
from experiments.preview import preview
from experiments.report import heading, say
from experiments.run_time import expectation
from experiments.session import Run
from experiments.trainers import build_trainer, final_metrics
from experiments.training import describe_data, fit, monitored, prepare_data
from lightning_modules.latent_diffusion import LatentDiffusion


def ddpm_train(run: Run) -> dict[str, float]:
    """Find or train the autoencoder, cache its latents, train the denoiser; returns the final metrics."""
    run = with_mask_levels(run)
    cfg, output_dir, checkpoint = run.cfg, run.output_dir, run.checkpoint
    callbacks = build_callbacks(cfg)
    monitor, mode, every = monitored(cfg.job.monitor, callbacks)
    module = preview(run, callbacks)
    before = None if checkpoint else partial(foretell, run, callbacks, module)
    datamodule = prepare_data(run, foretell=before)
    del module, before
    # That on whose latents the run began, whatever has become of its file since; else one that is found or trained.
    autoencoder = pretrained_autoencoder(cfg, checkpoint) if checkpoint else find_or_train_autoencoder(run, datamodule)
    say(heading("denoiser"))
    module = build_diffusion(cfg, autoencoder)
    if cfg.ckpt and not checkpoint:
        start_from(module, cfg.ckpt)
    trainer = build_trainer(
        run, monitor, hparams(run), list(dict.fromkeys([monitor, "val/loss"])), callbacks,
        monitored_every_n_epochs=every, mode=mode,
    )  # fmt: skip
    datamodule.setup("fit")
    describe_data(datamodule, output_dir)
    repeat_rare(datamodule, cfg.job.repeat_threshold)
    module.trained_on = trained_on(datamodule, checkpoint or existing_autoencoder(cfg.autoencoder.pretrained, cfg.ckpt))
    if cfg.job.cache_latents:
        own = module.autoencoder.to(trainer.strategy.root_device)
        datamodule.attach_latents(cache_latents(cfg.cache_dir, datamodule, own))
    if not checkpoint:
        fit_mask_code(module.to(trainer.strategy.root_device), datamodule)
        fit_label_maps(module, datamodule)
    if module.network.clusters is not None:
        cluster_images(module, datamodule, trainer.strategy.root_device, checkpoint)
    fit(trainer, module, datamodule, run)
    metrics = final_metrics(trainer)
    run.end(metrics)
    return metrics


def with_mask_levels(run: Run) -> Run:
    """The run with the levels of the data's masks in its configuration, where masks are trained on."""
    masks = run.cfg.model.get("masks")
    if masks is None or masks.levels is not None:
        return run
    return run.but({"model": {"masks": {"levels": mask_levels(run.cfg.data)}}})


def foretell(
    run: Run,
    callbacks: Sequence[L.Callback],
    module: LatentDiffusion,
    datamodule: FundusDataModule,
    summary: Mapping[str, Any],
) -> None:
    """Say how long it is going to take."""
    say(expectation(run, module, callbacks, datamodule, summary))


def repeat_rare(datamodule: FundusDataModule, threshold: float | None) -> None:
    """Let images of rare levels be drawn more often, where the data can, and say it."""
    if threshold is None:
        return
    if datamodule.repeat_rare(threshold):
        say(f"drawn more often: images of levels that a share of less than {threshold:g} of the images show")
    else:
        say(f"job.repeat_threshold={threshold:g} changes nothing: images are streamed, or data.balance draws them")


def hparams(run: Run) -> dict[str, object]:
    """The settings that tell runs apart in TensorBoard."""
    cfg = run.cfg
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
