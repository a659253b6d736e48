"""The Trainer from a configuration: what it records, how it saves, under which strategy it runs."""

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
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import Strategy
from omegaconf import DictConfig

from callbacks.due import BestCheckpoint
from callbacks.finite_loss import FiniteLoss
from callbacks.kept_checkpoints import BestCheckpoints, KeepingTrainer, MovedFolder
from callbacks.learning_rate import LearningRate
from callbacks.measured import Measured
from callbacks.metrics.estimate import Better
from callbacks.metrics_csv import MetricsCSV, resume_step
from callbacks.progress import TimeLeftProgressBar
from callbacks.run_record import HParams, RunRecord
from callbacks.shutdown import GracefulShutdown
from callbacks.step_checkpoint import StepCheckpoint
from callbacks.watch import Watch
from callbacks.whole_files import FilesMeanwhile, WholeFiles
from experiments.assembly import plain
from experiments.machines import environment
from experiments.metric_directions import direction_of
from lightning_modules.checkpoint import load_progress, load_state, load_training
from lightning_modules.ema import local_part

PRECISIONS = ("32", "32-true", "16-mixed", "bf16-mixed")  # weights and the sampler's state stay float32
TRAINER_KEYS = {"strategy": "strategy=<option>", "callbacks": "+callbacks.NAME._target_=…", "logger": "a callback",
                "default_root_dir": "output_dir=<folder>", "plugins": "strategy=<option>"}  # fmt: skip


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
    mode: Better | None = None,
    ends_with_training: bool = True,
    **overrides: Any,
) -> L.Trainer:
    """A Trainer that records, saves, resumes and stops as every run of ours does.

    Args:
        monitor: log key that chooses the best checkpoint.
        metrics: log keys that are shown beside `hparams` in TensorBoard.
        parts: the callbacks of this run.
        find_unused: some parameters have no gradient in some steps, which DDP must be told.
        monitored_every_n_epochs: epochs between two values of `monitor`.
        mode: which direction of `monitor` is better; None takes what the metric declares.
        ends_with_training: as RunRecord has it.
        overrides: arguments of the Trainer that differ from `cfg.trainer`.

    Raises:
        ValueError: no mode for a metric that declares none.
    """
    mode = mode or direction_of(monitor, "monitor", "give build_trainer mode=max or mode=min")
    folder = str(output_dir)
    step = resume_step(load_training(checkpoint)) if checkpoint else 0
    loggers = [
        TensorBoardLogger(folder, name="", version="", sub_dir="tensorboard", purge_step=step or None,
                          default_hp_metric=False),
        MetricsCSV(folder, first_step=step),
    ]  # fmt: skip
    checkpoints = output_dir / "checkpoints"
    every = {"dirpath": str(checkpoints), "enable_version_counter": False}
    best_every = math.lcm(monitored_every_n_epochs, cfg.trainer.check_val_every_n_epoch or 1)
    best = {"monitor": monitor, "mode": mode, "measured_every_n_epochs": best_every, **every}
    standing = [
        RunRecord(folder, plain(cfg), ends_with_training=ends_with_training,
                  environment=environment_of(cfg)),
        TimeLeftProgressBar(),
        HParams(hparams, metrics),
        LearningRate(),
        Measured(monitor, best_every),
        MovedFolder(load_progress),
        BestCheckpoint(filename="best", **best),
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
        callbacks=[FiniteLoss(folder, local_part), *parts, *standing],
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
