"""The autoencoder of a run: found where it is kept, or trained when there is none."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities import rank_zero_only

from callbacks.atomic_checkpoint_io import to_file
from callbacks.files import write_atomically
from callbacks.reconstructions import Reconstructions
from datamodules.errors import UserError
from datamodules.fundus import FundusDataModule
from experiments.assembly import build_autoencoder, build_datamodule, check_image_size, pretrained_autoencoder
from experiments.devices import build_strategy, strategy_words
from experiments.lineage import trained_on
from experiments.report import batch_text, heading, parameters_text, say
from experiments.runs import NOT_OF_THE_RESULT, named_checkpoint, newest_whole
from experiments.session import Run
from experiments.trainers import build_trainer, final_metrics
from experiments.training import describe_data, fit
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.checkpoint import load_state

# of the Trainer: replaced for the autoencoder, counted as world_size, or without effect on the weights
NOT_OF_THE_RECIPE = ("max_epochs", "max_steps", "gradient_clip_val", "devices", "num_nodes", "log_every_n_steps",
                     "enable_model_summary")  # fmt: skip
ORDER_KEYS = ("epoch_size", "num_lanes", "window_groups")  # of data: what the order of the images depends on
LATER = {"equivariance": 0.0}  # keys of the module that came later, and the value by which nothing changes
RECIPE_VERSION = 2  # raise it when the same configuration no longer trains the same autoencoder


def check_optimisers(discriminator: Mapping[str, Any] | None, strategy: Mapping[str, Any]) -> None:
    """See that the strategy takes as many optimisers as there will be, before anything is read.

    Args:
        discriminator: that of `autoencoder.module`, if there is one.
        strategy: the group `strategy`.

    Raises:
        ValueError: a discriminator, which has an optimiser of its own, under DeepSpeed.
    """
    if discriminator and isinstance(build_strategy(strategy), DeepSpeedStrategy):
        raise UserError(
            f"an autoencoder with a discriminator has two optimisers, and strategy {strategy_words(strategy)} takes "
            "one. Remedy: train it by +exp=vae_train with strategy=single, ddp or fsdp2, and give it to others as "
            "autoencoder.pretrained=<its checkpoint>; or autoencoder.module.discriminator=null."
        )


def announce(run: Run, module: Autoencoder) -> None:
    """Say how large it is, and at what batch and rate it is going to be trained."""
    cfg, parts = run.cfg, {"network": module.network}
    if module.discriminator is not None:
        parts["discriminator"] = module.discriminator
    say(heading("autoencoder"))
    say(parameters_text(parts))
    say(batch_text(cfg.autoencoder.batch_size, cfg.trainer, run.world_size, cfg.autoencoder.module.learning_rate))


def find_or_train_autoencoder(run: Run, datamodule: FundusDataModule) -> Autoencoder:
    """The autoencoder that the configuration names, or the one of this recipe on these data, trained if need be.

    A trained one is kept as `<cache_dir>/autoencoders/<fingerprint>.ckpt`, the fingerprint being over all that it
    depends on.
    """
    cfg = run.cfg
    source = existing_autoencoder(cfg.autoencoder.pretrained, cfg.ckpt)
    if source:
        say(heading(f"autoencoder: {source}"))
        module = pretrained_autoencoder(cfg, source)
        check_image_size(cfg.data.image_size, module.downsampling)
        if not module.measured:
            datamodule.setup("fit")
            measure(module.to(run.device), datamodule)
        return module.cpu()
    own = run.but({"data": {"batch_size": cfg.autoencoder.batch_size}})
    data = build_datamodule(own.cfg)
    data.setup("fit")
    kept = Path(cfg.cache_dir) / "autoencoders" / f"{recipe_fingerprint(run, data)}.ckpt"
    if not kept.exists():
        say(heading(f"no trained autoencoder for these data and settings ({kept}): training one first"))
        module = build_autoencoder(cfg)
        announce(run, module)
        folder = run.output_dir / "autoencoder"
        limits = {"max_epochs": cfg.autoencoder.max_epochs, "max_steps": -1, "gradient_clip_val": None}
        resumed, note = newest_whole(folder) if cfg.resume else ("", "")
        if note:
            say(f"{note}going on from {resumed}")
        train_autoencoder(own.within(folder, resumed), module, data, limits=limits)
        if rank_zero_only.rank == 0:
            _publish(folder / "checkpoints" / "last.ckpt", kept)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
    say(f"autoencoder: {kept}")
    return pretrained_autoencoder(cfg, str(kept))


def existing_autoencoder(pretrained: str | None, ckpt: str | None) -> str | None:
    """Where a trained autoencoder is: `autoencoder.pretrained`, or inside `ckpt`; None where neither is given.

    Raises:
        ValueError: both are given.
        FileNotFoundError: no such ckpt.
    """
    if ckpt:
        named_checkpoint("ckpt", ckpt)
    if pretrained and ckpt:
        raise UserError(
            f"autoencoder.pretrained={pretrained} and ckpt={ckpt}: a denoiser only knows the "
            "latents of its own autoencoder, which ckpt brings. Give one of the two."
        )
    return pretrained or ckpt


def recipe_fingerprint(run: Run, datamodule: FundusDataModule) -> str:
    """16 hexadecimal digits over all that the trained autoencoder depends on."""
    config = run.config
    training = {key: value for key, value in config["autoencoder"].items() if key != "pretrained"}
    training["module"] = {
        key: value
        for key, value in training["module"].items()
        if key not in NOT_OF_THE_RESULT and (key, value) not in LATER.items()
    }
    recipe: dict[str, Any] = {
        "version": RECIPE_VERSION,
        "network": config["model"]["autoencoder"],
        "training": training,
        "data": [datamodule.training_images, *(config["data"].get(key) for key in ORDER_KEYS)],
        "trainer": {key: value for key, value in config["trainer"].items() if key not in NOT_OF_THE_RECIPE},
        "world_size": run.world_size,
        "seed": config["seed"],
    }
    return hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=8).hexdigest()


def train_autoencoder(
    run: Run,
    module: Autoencoder,
    datamodule: FundusDataModule,
    callbacks: Sequence[L.Callback] = (),
    limits: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, float]:
    """Train, measure the latents over the training set, and save both in `checkpoints/last.ckpt`.

    Args:
        limits: arguments of the Trainer that differ from `cfg.trainer`, which in `ddpm_train` are the denoiser's.
    """
    cfg, output_dir, checkpoint = run.cfg, run.output_dir, run.checkpoint
    settings = cfg.autoencoder
    hparams = {
        "channels": str(list(cfg.model.autoencoder.get("block_channels", []))),
        "latent_channels": module.latent_channels,
        "downsampling": module.downsampling,
        "image_size": cfg.data.image_size,
        "batch_size": settings.batch_size,
        "learning_rate": settings.module.learning_rate,
        "discriminator": module.discriminator is not None,
        "seed": cfg.seed,
    }
    manual = not module.automatic_optimization
    if manual and cfg.trainer.accumulate_grad_batches > 1:
        raise UserError(
            f"trainer.accumulate_grad_batches={cfg.trainer.accumulate_grad_batches}: an autoencoder with a "
            "discriminator steps every batch. Use a larger data.batch_size, or autoencoder.module.discriminator=null."
        )
    trainer = build_trainer(
        run, "val/loss", hparams, ["val/psnr", "val/ssim", "val/loss"],
        [Reconstructions(str(output_dir), every_n_epochs=settings.reconstruct_every_n_epochs, num_metric_images=128),
         *callbacks],
        find_unused=manual, **limits,
    )  # fmt: skip
    datamodule.setup("fit")
    describe_data(datamodule, output_dir)
    module.trained_on = trained_on(datamodule, checkpoint or cfg.ckpt)
    fit(trainer, module, datamodule, run)
    module.to(trainer.strategy.root_device)
    measure(module, datamodule)
    trainer.save_checkpoint(str(output_dir / "checkpoints" / "last.ckpt"), weights_only=False)
    return final_metrics(trainer)


def measure(module: Autoencoder, datamodule: FundusDataModule) -> None:
    """Mean and deviation of the latents over the whole training set, shared out among the ranks, the same on each."""
    images = datamodule.images("train")
    size, rank, ranks = 64, 0, 1
    if torch.distributed.is_initialized():
        rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    # As many batches on each rank, for where weights are shared out each encoding takes all ranks.
    rows = np.array_split(np.arange(len(images)), ranks * -(-len(images) // (ranks * size)))
    batches = (torch.from_numpy(images[part]).permute(0, 3, 1, 2).contiguous() for part in rows[rank::ranks])
    number = module.eval().measure_latents(batches)
    scales = ", ".join(f"{value:.3g}" for value in module.latent_scale.tolist())
    say(f"latents measured over {number} training images: standard deviation by channel {scales}")


def _publish(checkpoint: Path, kept: Path) -> None:
    """Keep a finished checkpoint, in one file, where other runs find it; whole or not at all."""
    write_atomically(kept, lambda part: to_file(load_state(checkpoint), part))
