"""Objects from a configuration: the only place, with the jobs, where the two meet."""

import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import Strategy
from omegaconf import DictConfig, OmegaConf

from callbacks.finite_loss import FiniteLoss
from callbacks.kept_checkpoints import BestCheckpoints, KeepingTrainer
from callbacks.learning_rate import LearningRate
from callbacks.metrics_csv import MetricsCSV, resume_step
from callbacks.progress import TimeLeftProgressBar
from callbacks.run_record import HParams, RunRecord
from callbacks.shutdown import GracefulShutdown
from callbacks.step_checkpoint import StepCheckpoint
from callbacks.watch import Watch
from callbacks.whole_files import FilesMeanwhile, WholeFiles
from datamodules.fundus import FundusDataModule
from experiments.machines import environment
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.checkpoint import (
    CONFIG_KEY,
    TRAINED_ON_KEY,
    check_targets,
    load_progress,
    load_state,
    load_weights,
)
from lightning_modules.checkpoint_shards import REST
from lightning_modules.latent_diffusion import LatentDiffusion
from lightning_modules.networks.kl import pretrained
from lightning_modules.strategies.sharded import ShardedCheckpoints

PRECISIONS = ("32", "32-true", "16-mixed", "bf16-mixed")  # weights and the sampler's state stay float32
TRAINER_KEYS = {"strategy": "strategy=<option>", "callbacks": "+callbacks.NAME._target_=…", "logger": "a callback",
                "default_root_dir": "output_dir=<folder>", "plugins": "strategy=<option>"}  # fmt: skip


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration in plain containers, as checkpoints and records keep it."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def build_callbacks(cfg: DictConfig) -> list[L.Callback]:
    """The callbacks of the configuration, in its order."""
    return [instantiate(callback) for callback in cfg.callbacks.values() if callback is not None]


def build_datamodule(cfg: DictConfig) -> FundusDataModule:
    """The data module of `cfg.data`."""
    return instantiate(cfg.data.module)


def build_autoencoder(cfg: DictConfig, with_judges: bool = True, start: str | None = None) -> Autoencoder:
    """The autoencoder of `cfg.model.autoencoder` with the settings of `cfg.autoencoder`.

    Args:
        with_judges: False leaves the perceptual network and the discriminator out: it is not going to be trained.
        start: where trained weights are, with their own sizes, as `autoencoder.pretrained`; None draws them at random.
    """
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    network = instantiate(cfg.model.autoencoder)
    if start:
        network = pretrained(start, network=network)
    judges = {} if with_judges else {"perceptual": None, "discriminator": None}
    module = instantiate(cfg.autoencoder.module, network=network, **judges)
    module.config = plain(cfg)
    return module


def pretrained_autoencoder(cfg: DictConfig, source: str) -> Autoencoder:
    """An autoencoder with trained weights: a checkpoint of ours, with its latents measured, or a diffusers one.

    Raises:
        FileNotFoundError, ValueError: it cannot be had; says which, from where, and where to put it.
    """
    module = build_autoencoder(cfg, with_judges=False, start=source)
    if holds_checkpoint(source):
        state = load_state(source)["state_dict"]
        prefix = "autoencoder." if any(name.startswith("autoencoder.network.") for name in state) else ""
        for name in ("latent_shift", "latent_scale", "num_measured"):
            getattr(module, name).copy_(state[prefix + name])
    return module


def holds_checkpoint(source: str) -> bool:
    """Whether this is a checkpoint of ours, in one file or in shares; else it is a folder or a name of diffusers'."""
    path = Path(source).expanduser()
    return path.is_file() or (path / REST).is_file()


def check_image_size(image_size: int, downsampling: int) -> int:
    """Latent cells along a side.

    Raises:
        ValueError: `downsampling` does not divide the size; names the nearest sizes that it divides.
    """
    if image_size % downsampling:
        lower = max(image_size // downsampling, 1) * downsampling
        raise ValueError(
            f"data.image_size={image_size} cannot be divided by the autoencoder's downsampling of {downsampling}. "
            f"Nearest sizes: {lower} and {lower + downsampling}; or another model/autoencoder."
        )
    return image_size // downsampling


def build_diffusion(cfg: DictConfig, autoencoder: Autoencoder) -> LatentDiffusion:
    """The latent diffusion model of `cfg.model` on this autoencoder, weights at random."""
    latent_size = check_image_size(cfg.data.image_size, autoencoder.downsampling)
    L.seed_everything(cfg.seed, workers=True, verbose=False)  # the same start whether or not an autoencoder was trained
    denoiser = instantiate(
        cfg.model.denoiser,
        latent_channels=autoencoder.latent_channels,
        latent_size=latent_size,
        cond_dim=cfg.model.conditioning.dim,
    )
    conditioning = instantiate(cfg.model.conditioning)
    objective = instantiate(cfg.model.objective)
    module = instantiate(
        cfg.model.diffusion,
        autoencoder=autoencoder,
        denoiser=denoiser,
        conditioning=conditioning,
        objective=objective,
        _convert_="all",
    )
    module.config = plain(cfg)
    return module


def load_generator(checkpoint: str | Path, trusted: Sequence[str] = ()) -> LatentDiffusion:
    """Rebuild a latent diffusion model from its checkpoint alone.

    Args:
        trusted: modules besides ours whose classes the checkpoint's configuration may name and so call.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: a checkpoint without a configuration, of another kind, or that names a class of elsewhere.
    """
    state = load_state(checkpoint)
    if CONFIG_KEY not in state or "denoiser" not in state[CONFIG_KEY].get("model", {}):
        raise ValueError(f"ckpt={checkpoint}: it was not written by ddpm_train; give the checkpoint of a generator.")
    check_targets(state[CONFIG_KEY], trusted, str(checkpoint))
    cfg = OmegaConf.create(state[CONFIG_KEY])
    module = build_diffusion(cfg, build_autoencoder(cfg, with_judges=False, start=str(checkpoint)))
    load_weights(module, state)
    module.trained_on = state.get(TRAINED_ON_KEY)
    return module.eval()


def start_from(module: LatentDiffusion, checkpoint: str | Path) -> None:
    """Take the averaged weights of another run's network, autoencoder included, as the start of training.

    Raises:
        FileNotFoundError, ValueError: no such checkpoint, or one of another architecture.
    """
    load_weights(module, load_state(checkpoint))
    module.network.load_state_dict(module.ema.network.state_dict())


def build_trainer(
    cfg: DictConfig,
    output_dir: Path,
    checkpoint: str,
    monitor: str,
    hparams: Mapping[str, Any],
    metrics: Sequence[str],
    parts: Sequence[L.Callback] = (),
    find_unused: bool = False,
    monitored_every_n_epochs: int = 1,
    mode: str = "min",
    ends_with_training: bool = True,
    **overrides: Any,
) -> L.Trainer:
    """A Trainer that records, saves, resumes and stops as every run of ours does.

    Args:
        monitor: log key of which the least value, or with `mode` "max" the greatest, marks the best checkpoint.
        metrics: log keys that are shown beside `hparams` in TensorBoard.
        parts: the callbacks of this run.
        find_unused: some parameters have no gradient in some steps, which DDP must be told.
        monitored_every_n_epochs: epochs between two values of `monitor`.
        ends_with_training: as RunRecord has it.
        overrides: arguments of the Trainer that differ from `cfg.trainer`.
    """
    folder = str(output_dir)
    step = resume_step(load_progress(checkpoint)) if checkpoint else 0
    loggers = [
        TensorBoardLogger(folder, name="", version="", sub_dir="tensorboard", purge_step=step or None,
                          default_hp_metric=False),
        MetricsCSV(folder, first_step=step),
    ]  # fmt: skip
    checkpoints = output_dir / "checkpoints"
    every = {"dirpath": str(checkpoints), "enable_version_counter": False}
    best_every = math.lcm(monitored_every_n_epochs, cfg.trainer.check_val_every_n_epoch or 1)
    best = {"monitor": monitor, "mode": mode, "every_n_epochs": best_every, **every}
    standing = [
        RunRecord(folder, plain(cfg), ends_with_training=ends_with_training,
                  environment=environment_of(cfg)),
        TimeLeftProgressBar(),
        HParams(hparams, metrics),
        LearningRate(),
        ModelCheckpoint(filename="best", **best),
        *([BestCheckpoints(save_top_k=cfg.checkpoint_keep_best, **best)] if cfg.checkpoint_keep_best > 1 else ()),
        StepCheckpoint(filename="last", every_n_train_steps=cfg.checkpoint_every_n_steps, **every),
        GracefulShutdown(folder),
        Watch(),
    ]  # fmt: skip
    strategy = build_strategy(cfg)
    if find_unused and strategy in ("auto", "ddp") and world_size(cfg) > 1:
        strategy = "ddp_find_unused_parameters_true"
    settings = {"inference_mode": isinstance(strategy, str), **plain(cfg.trainer), **overrides}  # shares take none
    settings.pop("_target_")
    return KeepingTrainer(
        cfg.checkpoint_keep_last,
        load_progress,
        **settings,
        strategy=strategy,
        logger=loggers,
        callbacks=[FiniteLoss(folder), *parts, *standing],
        default_root_dir=folder,
        plugins=[(FilesMeanwhile if cfg.checkpoint_async else WholeFiles)(load_state)],
    )


def build_strategy(cfg: DictConfig) -> Strategy | str:
    """The strategy of `cfg.strategy`: a name of Lightning's, or one of our own."""
    return instantiate(cfg.strategy) if "_target_" in cfg.strategy else cfg.strategy.name


def strategy_words(cfg: DictConfig) -> str:
    """The strategy for people: its name, or class and arguments."""
    if "_target_" not in cfg.strategy:
        return cfg.strategy.name
    arguments = ", ".join(f"{name}={value}" for name, value in cfg.strategy.items() if name != "_target_")
    return f"{cfg.strategy._target_.rpartition('.')[2]}({arguments})"


def environment_of(cfg: DictConfig) -> dict[str, Any]:
    """The machines and how the processes work together, for the record and for people."""
    batch = cfg.data.batch_size * (cfg.trainer.accumulate_grad_batches or 1)
    return environment(trial_trainer(cfg), strategy_words(cfg), batch)


def world_size(cfg: DictConfig) -> int:
    """Processes that the Trainer will have; see `trial_trainer`."""
    return trial_trainer(cfg).world_size


def root_device(cfg: DictConfig) -> torch.device:
    """The first device that the Trainer will have; see `trial_trainer`."""
    return trial_trainer(cfg).strategy.root_device


def trial_trainer(cfg: DictConfig) -> L.Trainer:
    """A Trainer on the devices of `cfg`, made to see at once whether it can have them.

    Raises:
        ValueError: an accelerator, strategy or number of devices that this machine lacks, a precision in which the
            state of a sampler cannot be kept, an argument of the Trainer that has a key of its own here,
            ways of saving and compiling that this strategy or machine lacks.
    """
    _check_settings(cfg)
    names = ("accelerator", "devices", "num_nodes", "precision")
    settings = {name: cfg.trainer[name] for name in names} | {"strategy": build_strategy(cfg)}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    try:
        return L.Trainer(**settings, **quiet, enable_model_summary=False)
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        asked = ", ".join(f"trainer.{name}={cfg.trainer[name]}" for name in names)
        raise ValueError(
            f"this machine cannot train with {asked} and strategy={strategy_words(cfg)}: {error} "
            "trainer=cpu trains on any machine."
        ) from error


def _check_settings(cfg: DictConfig) -> None:
    for key, ours in TRAINER_KEYS.items():
        if key in cfg.trainer:
            raise ValueError(f"trainer.{key} is not given there: use {ours}.")
    for key in ("checkpoint_keep_last", "checkpoint_keep_best"):
        if cfg[key] < 1:
            raise ValueError(f"{key}={cfg[key]} must be at least 1, which keeps {key.rpartition('_')[2]}.ckpt alone.")
    if str(cfg.trainer.precision) not in PRECISIONS:
        raise ValueError(f"trainer.precision={cfg.trainer.precision} must be one of: {', '.join(PRECISIONS)}.")
    strategy = build_strategy(cfg)
    if cfg.checkpoint_async and isinstance(strategy, ShardedCheckpoints):
        raise ValueError(
            f"checkpoint_async=true: strategy {strategy_words(cfg)} writes checkpoints in shares, together with all "
            "processes, and cannot do so while they train. Remedy: checkpoint_async=false; or strategy=single or ddp."
        )
    if cfg.compile and getattr(strategy, "zero_stage_3", False):
        raise ValueError(
            f"compile=true: {strategy_words(cfg)} fetches the weights of each layer as it comes, which cuts what is "
            "compiled into pieces of no use. Remedy: strategy=fsdp2, or compile=false."
        )
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if cfg.compile and shutil.which(compiler) is None:
        raise ValueError(
            f"compile=true needs a C++ compiler, and {compiler} is not there. Remedy: install it, name another by the "
            "environment variable CXX, or compile=false."
        )


def final_metrics(trainer: L.Trainer) -> dict[str, float]:
    """The last values of all logged quantities."""
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {name: value for name, value in values.items() if not math.isnan(value)}
