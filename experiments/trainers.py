"""The Trainer from a configuration: what it records, how it saves, under which strategy it runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.atomic_checkpoint_io import AsyncAtomicCheckpointIO, AtomicCheckpointIO
from callbacks.due import BestCheckpoint
from callbacks.kept_checkpoints import BestCheckpoints, KeepingTrainer, MovedFolder
from callbacks.learning_rate import LearningRate
from callbacks.metrics.estimate import Better
from callbacks.metrics_csv import MetricsCSV, resume_step
from callbacks.progress import TimeLeftProgressBar
from callbacks.run_record import HParams, RunRecord
from callbacks.shutdown import GracefulShutdown
from callbacks.stamp_metric import StampMetric
from callbacks.step_checkpoint import StepCheckpoint
from callbacks.terminate_on_nan import TerminateOnNaN
from callbacks.watch import Watch
from experiments.assembly import plain
from experiments.devices import build_strategy
from experiments.metric_directions import direction_of
from experiments.session import Run
from lightning_modules.checkpoint import load_progress, load_state, load_training
from lightning_modules.ema import local_part


def build_trainer(
    run: Run,
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
    cfg, output_dir, checkpoint = run.cfg, run.output_dir, run.checkpoint
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
        RunRecord(folder, run.config, ends_with_training=ends_with_training, environment=run.environment),
        TimeLeftProgressBar(),
        HParams(hparams, metrics),
        LearningRate(),
        StampMetric(monitor, best_every),
        MovedFolder(load_progress),
        BestCheckpoint(filename="best", **best),
        *([BestCheckpoints(save_top_k=cfg.checkpoint_keep_best, **best)] if cfg.checkpoint_keep_best > 1 else ()),
        StepCheckpoint(filename="last", every_n_train_steps=cfg.checkpoint_every_n_steps, **every),
        GracefulShutdown(folder),
        Watch(),
    ]  # fmt: skip
    strategy = build_strategy(cfg.strategy)
    if find_unused and strategy in ("auto", "ddp") and run.world_size > 1:
        strategy = "ddp_find_unused_parameters_true"
    settings = {"inference_mode": isinstance(strategy, str), **plain(cfg.trainer), **overrides}  # shares take none
    settings.pop("_target_")
    return KeepingTrainer(
        cfg.checkpoint_keep_last,
        load_progress,
        **settings,
        strategy=strategy,
        logger=loggers,
        callbacks=[TerminateOnNaN(folder, local_part), *parts, *standing],
        default_root_dir=folder,
        plugins=[(AsyncAtomicCheckpointIO if cfg.checkpoint_async else AtomicCheckpointIO)(load_state)],
    )


def final_metrics(trainer: L.Trainer) -> dict[str, float]:
    """The last values of all logged quantities."""
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {name: value for name, value in values.items() if not math.isnan(value)}
