"""`+exp=gan_train`: a GAN that makes images, and masks with them where the data have masks."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.errors import UserError
from datamodules.fundus import FundusDataModule
from datamodules.masks import masks_of
from experiments.assembly import build_callbacks, build_gan
from experiments.lineage import trained_on
from experiments.loading import start_from
from experiments.report import batch_text, heading, parameters_text, say
from experiments.session import Run
from experiments.trainers import build_trainer, final_metrics
from experiments.training import describe_data, fit, monitored, prepare_data


def gan_train(run: Run) -> dict[str, float]:
    """Train generator and discriminator; returns the final metrics."""
    cfg, checkpoint = run.cfg, run.checkpoint
    callbacks = build_callbacks(cfg)
    monitor, mode, every = monitored(cfg.job.monitor, callbacks)
    check_settings(monitor, cfg.trainer)
    datamodule = prepare_data(run, foretell=partial(announce, run))
    datamodule.setup("fit")
    describe_data(datamodule, run.output_dir)
    module = build_gan(with_levels(cfg, datamodule))
    if cfg.ckpt and not checkpoint:
        start_from(module, cfg.ckpt)
    module.trained_on = trained_on(datamodule, checkpoint or cfg.ckpt)
    hparams = {
        "image_size": cfg.data.image_size,
        "num_mask_levels": len(module.mask_levels),
        "batch_size": cfg.data.batch_size,
        "learning_rate": cfg.model.gan.learning_rate,
        "seed": cfg.seed,
    }
    trainer = build_trainer(
        run, monitor, hparams, [monitor, "val/discriminator"], callbacks, find_unused=True,
        monitored_every_n_epochs=every, mode=mode,
    )  # fmt: skip
    fit(trainer, module, datamodule, run)
    metrics = final_metrics(trainer)
    run.end(metrics)
    return metrics


def check_settings(monitor: str, trainer: Mapping[str, Any]) -> None:
    """See that what a GAN is trained and chosen by is there, before anything is read.

    Raises:
        ValueError: nothing measures its images; a setting of the Trainer that two optimisers do not work with.
    """
    if monitor == "val/loss":
        raise UserError(
            "job.monitor=val/loss: the loss of a GAN does not tell how good its images are. Remedy: keep "
            "callbacks.frechet or callbacks.agreement, and job.monitor=null takes what they measure."
        )
    if trainer["accumulate_grad_batches"] not in (None, 1):
        raise UserError(
            f"trainer.accumulate_grad_batches={trainer['accumulate_grad_batches']}: a GAN steps every batch. Remedy: a "
            "larger data.batch_size."
        )
    if trainer["gradient_clip_val"] is not None:
        raise UserError(
            f"trainer.gradient_clip_val={trainer['gradient_clip_val']}: a GAN has two optimisers, whose gradients the "
            f"Trainer does not clip. Remedy: model.gan.gradient_clip={trainer['gradient_clip_val']}."
        )


def announce(run: Run, datamodule: FundusDataModule, summary: Mapping[str, Any]) -> None:
    """Say what is going to be trained, once the index tells of the masks; what cannot be is found now."""
    cfg = with_levels(run.cfg, datamodule)
    module, levels = build_gan(cfg), list(cfg.model.mask_levels)
    say(heading("model"))
    say(parameters_text({"generator": module.network, "discriminator": module.discriminator}))
    say("masks:        " + (", ".join(levels) if levels else "none, images alone"))
    say("GAN:          " + batch_text(cfg.data.batch_size, cfg.trainer, run.world_size, cfg.model.gan.learning_rate))


def with_levels(cfg: DictConfig, datamodule: FundusDataModule) -> DictConfig:
    """The configuration with the levels of the masks that its data have, where it leaves them open."""
    if cfg.model.mask_levels is not None:
        return cfg
    sources = [source for source, _ in datamodule.parts() if masks_of(source, source.index()) is not None]
    levels = max((list(source.mask_levels) for source in sources), key=len, default=[])
    return OmegaConf.merge(cfg, {"model": {"mask_levels": levels}})
