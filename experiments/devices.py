"""On what a run trains: the strategy and the devices of a configuration, and whether this machine has them."""

import os
import shutil
import sys
from collections.abc import Mapping
from typing import Any

import lightning as L
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import Strategy
from omegaconf import DictConfig

from datamodules.errors import UserError

PRECISIONS = ("32", "32-true", "16-mixed", "bf16-mixed")  # weights and the sampler's state stay float32
TRAINER_KEYS = {"strategy": "strategy=<option>", "callbacks": "+callbacks.NAME._target_=…", "logger": "a callback",
                "default_root_dir": "output_dir=<folder>", "plugins": "strategy=<option>"}  # fmt: skip


def build_strategy(settings: Mapping[str, Any]) -> Strategy | str:
    """The strategy of the group `strategy`: a name of Lightning's, or one of our own."""
    return instantiate(settings) if "_target_" in settings else settings["name"]


def strategy_words(settings: Mapping[str, Any]) -> str:
    """The strategy for people: its name, or class and arguments."""
    if "_target_" not in settings:
        return settings["name"]
    arguments = ", ".join(f"{name}={value}" for name, value in settings.items() if name != "_target_")
    return f"{settings['_target_'].rpartition('.')[2]}({arguments})"


def trial_trainer(cfg: DictConfig) -> L.Trainer:
    """A Trainer on the devices of `cfg`, made to see at once whether it can have them.

    Raises:
        ValueError: an accelerator, strategy or number of devices that this machine lacks, a precision in which the
            state of a sampler cannot be kept, an argument of the Trainer that has a key of its own here,
            ways of saving and compiling that this strategy or machine lacks.
    """
    _check_trainer(cfg.trainer)
    _check_kept(checkpoint_keep_last=cfg.checkpoint_keep_last, checkpoint_keep_best=cfg.checkpoint_keep_best)
    strategy = build_strategy(cfg.strategy)
    if cfg.compile:
        _check_compiling(strategy, strategy_words(cfg.strategy))
    names = ("accelerator", "devices", "num_nodes", "precision")
    settings = {name: cfg.trainer[name] for name in names} | {"strategy": strategy}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    try:
        return L.Trainer(**settings, **quiet, enable_model_summary=False)
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        asked = ", ".join(f"trainer.{name}={cfg.trainer[name]}" for name in names)
        raise UserError(
            f"this machine cannot train with {asked} and strategy={strategy_words(cfg.strategy)}: {error} "
            "trainer=cpu trains on any machine."
        ) from error


def _check_trainer(settings: Mapping[str, Any]) -> None:
    for key, ours in TRAINER_KEYS.items():
        if key in settings:
            raise UserError(f"trainer.{key} is not given there: use {ours}.")
    if str(settings["precision"]) not in PRECISIONS:
        raise UserError(f"trainer.precision={settings['precision']} must be one of: {', '.join(PRECISIONS)}.")


def _check_kept(**numbers: int) -> None:
    for key, number in numbers.items():
        if number < 1:
            raise UserError(f"{key}={number} must be at least 1, which keeps {key.rpartition('_')[2]}.ckpt alone.")


def _check_compiling(strategy: Strategy | str, words: str) -> None:
    if getattr(strategy, "zero_stage_3", False):
        raise UserError(
            f"compile=true: {words} fetches the weights of each layer as it comes, which cuts what is "
            "compiled into pieces of no use. Remedy: strategy=fsdp2, or compile=false."
        )
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"compile=true needs a C++ compiler, and {compiler} is not there. Remedy: install it, name another by the "
            "environment variable CXX, or compile=false."
        )
