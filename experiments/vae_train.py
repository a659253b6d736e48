"""`+exp=vae_train`: the autoencoder alone."""

from datamodules.errors import UserError
from experiments.assembly import build_autoencoder, build_callbacks, check_image_size
from experiments.autoencoders import announce, check_optimisers, train_autoencoder
from experiments.session import Run
from experiments.training import prepare_data


def vae_train(run: Run) -> dict[str, float]:
    """Train the autoencoder of `cfg.model.autoencoder`; returns the final metrics."""
    cfg = run.cfg
    if cfg.autoencoder.pretrained:
        raise UserError("autoencoder.pretrained is for ddpm_train. vae_train starts from weights with ckpt=<path>.")
    check_optimisers(cfg.autoencoder.module.get("discriminator"), cfg.strategy)
    run = run.but({"data": {"batch_size": cfg.autoencoder.batch_size}})
    module = build_autoencoder(run.cfg, start=None if run.checkpoint else cfg.ckpt)
    check_image_size(cfg.data.image_size, module.downsampling)
    announce(run, module)
    callbacks = build_callbacks(run.cfg)
    datamodule = prepare_data(run)
    limits = {"max_epochs": cfg.autoencoder.max_epochs}
    metrics = train_autoencoder(run, module, datamodule, callbacks, limits)
    run.end(metrics)
    return metrics
