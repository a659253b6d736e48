"""A run: what every job has of its settings, its folder and the machine; how it is recorded, and how it ends."""

import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from callbacks.files import refuse_link, write_text
from callbacks.run_record import RunRecord
from callbacks.watch import dismiss
from datamodules.errors import UserError
from experiments.assembly import plain
from experiments.devices import strategy_words, trial_trainer
from experiments.known_keys import locate
from experiments.machines import environment
from experiments.report import config_text, ending_text, heading, say, say_error
from experiments.runs import RunFolder

FOLDERS = ("checkpoints", "samples", "tensorboard", "cells", "pretraining", "comparison")  # that a run writes into


class Run:
    """One run of a job. A job is a function of it that returns the figures which the record keeps.

    Args:
        cfg: the resolved configuration.
        checkpoint: what the run goes on from; "" for none.
        note: why, in a line.

    Attributes:
        output_dir: its folder.
        job: the settings of the job, `cfg.job`, in plain containers.
    """

    def __init__(self, cfg: DictConfig, checkpoint: str = "", note: str = "") -> None:
        self.cfg, self.checkpoint, self.note, self.output_dir = cfg, checkpoint, note, Path(cfg.output_dir)
        self._start = time.monotonic()

    @classmethod
    def of(cls, cfg: DictConfig, folder: RunFolder) -> "Run":
        """The run in a folder that has been decided on.

        Raises:
            ValueError: a link in the place of a folder that it writes into.
        """
        for name in FOLDERS:
            refuse_link(folder.output_dir / name)
        cfg.output_dir = str(folder.output_dir)
        cfg.resume = folder.checkpoint or cfg.resume
        return cls(cfg, folder.checkpoint, folder.note)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration in plain containers, as checkpoints and records keep it."""
        return plain(self.cfg)

    @property
    def job(self) -> dict[str, Any]:
        """The settings of the job, in plain containers."""
        return self.config["job"]

    @property
    def name(self) -> str:
        """Name of the job."""
        return self.cfg.job._target_.rpartition(".")[2]

    def but(self, changes: Mapping[str, Any]) -> "Run":
        """The same run with some settings changed, none of which the machine depends on."""
        other = Run(OmegaConf.merge(self.cfg, changes), self.checkpoint)
        other._start, other.trial = self._start, self.trial
        return other

    def within(self, folder: Path, checkpoint: str) -> "Run":
        """A part of this run, with a folder and a checkpoint of its own."""
        other = self.but({})
        other.output_dir, other.checkpoint = folder, checkpoint
        return other

    def go(self) -> None:
        """Say what is going to be done, and where, and hand over to the job."""
        say(heading(f"{self.cfg.name}: configuration"))
        say(config_text(self.config))
        say(heading(f"output folder: {self.output_dir}"))
        if self.note:
            say(self.note)
        locate(self.cfg.job._target_)(self)
        dismiss()

    # --- the machine ----------------------------------------------------------------------------------------------

    @cached_property
    def trial(self) -> L.Trainer:
        """A Trainer on the devices of the run, made once, to see at once whether it can have them."""
        return trial_trainer(self.cfg)

    @property
    def world_size(self) -> int:
        """Processes that the Trainer will have."""
        return self.trial.world_size

    @property
    def device(self) -> torch.device:
        """The first device that the Trainer will have."""
        return self.trial.strategy.root_device

    @property
    def is_first(self) -> bool:
        """Whether this is the first process; of several only once `trial` has told this one its rank."""
        return rank_zero_only.rank == 0

    @cached_property
    def environment(self) -> dict[str, Any]:
        """The machines and how the processes work together, for the record and for people."""
        batch = self.cfg.data.batch_size * (self.cfg.trainer.accumulate_grad_batches or 1)
        return environment(self.trial, strategy_words(self.cfg.strategy), batch)

    # --- beginning and end ----------------------------------------------------------------------------------------

    @property
    def command(self) -> str:
        """What was typed to start it."""
        words = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
        return f"python -m experiments.run {shlex.join(words)}".strip()

    def refuse_weights(
        self, why: str = "has no weights: leave ckpt out, and give resume as auto or not at all"
    ) -> None:
        """Raise ValueError where weights are given to a job that takes none."""
        if self.checkpoint or self.cfg.ckpt:
            raise UserError(f"{self.name} {why}.")

    def write_config(self) -> None:
        """Write config.yaml, by which `resume=auto` finds the folder."""
        write_text(self.output_dir / "config.yaml", config_text(self.config) + "\n")

    @contextmanager
    def recorded(self, fingerprints: Mapping[str, str] | None = None) -> Iterator[RunRecord]:
        """Keep the record of a job that trains nothing; on the first process alone, the others' writes nothing.

        One that does not come to its end is closed as interrupted or failed.
        """
        record = RunRecord(str(self.output_dir), self.config, fingerprints)
        if not self.is_first:
            yield record
            return
        record.start()
        try:
            yield record
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            if not stopped:
                record.record["error"] = f"{type(error).__name__}: {error}"
            try:
                record.finish("interrupted" if stopped else "failed")
            except OSError as refused:  # as on a full disk, of which the error itself says more
                say_error(f"record.json could not be written ({refused}), and says that this still runs.")
            raise

    def end(self, metrics: Mapping[str, float] | None = None) -> None:
        """Say what came of it, where it is, and how long it took."""
        say(ending_text(self.output_dir, metrics or {}, time.monotonic() - self._start))
