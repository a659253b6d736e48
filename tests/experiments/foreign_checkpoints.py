"""Checkpoints of somebody else: good ones to begin with, and all that is done with one that a command names."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from checkpoints import autoencoder, classifier, generator
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.migration.utils import migrate_checkpoint

from callbacks.due import BestCheckpoint
from callbacks.kept_checkpoints import BestCheckpoints, MovedFolder
from datamodules.findings import NAMES
from datamodules.plan.laws import BalancedLaw, TrainingLaw
from datamodules.synthetic.plan import write_plan
from experiments.loading import load_classifier, load_generator
from experiments.model_export.kinds import AVERAGED, export_of
from experiments.model_export.training import level_counts, training_facts
from experiments.synthesize import seen
from lightning_modules.annotator import Annotator
from lightning_modules.checkpoint import CONFIG_KEY, TRAINED_ON_KEY, load_progress, load_state, load_training
from lightning_modules.initialisation import CheckpointInit

MAKERS = {"generator": generator, "classifier": classifier, "autoencoder": autoencoder}
TRAINED_ON = {
    "patients": torch.arange(3),
    "labels": torch.zeros(2, len(NAMES), dtype=torch.int8),
    "counts": torch.tensor([3, 1]),
    "own_patients": 3,
}


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Name the file in what is said by those who know it by its place in the command alone."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read(kind: str, path: Path) -> None:
    """All that a command builds from a checkpoint that somebody names."""
    if kind == "generator":
        labels = seen(load_generator(path))
        for law in (TrainingLaw(), BalancedLaw()) if labels is not None else ():
            with named(path):
                write_plan(path.with_name("plan.parquet"), law.chunks(5, 0, labels), 0)
    elif kind == "classifier":
        module = load_classifier(path)
        with named(path):
            Annotator([module], NAMES)
        CheckpointInit(str(path))(torch.nn.Linear(2, 2))
    state = load_state(path)
    export_of(path, state, AVERAGED, False, ())
    training_facts(kind, state)
    level_counts(state)


def keepers(folder: Path) -> list[ModelCheckpoint]:
    """What keeps the checkpoints of a run."""
    each = {"dirpath": folder, "monitor": "val/loss"}
    return [BestCheckpoint(**each), BestCheckpoints(**each, save_top_k=2)]


def training(folder: Path) -> dict[str, Any]:
    """What training goes on from."""
    counted = dict.fromkeys(("total", "current"), {"ready": 1, "started": 1, "processed": 1, "completed": 1})
    kept = {
        "best_k_models": {str(folder / "foreign.ckpt"): torch.tensor(0.5)},
        "best_model_path": str(folder / "a.ckpt"),
    }
    return {
        "state_dict": torch.nn.Linear(3, 2).state_dict(), "epoch": 1, "global_step": 5,
        "loops": {"fit_loop": {"epoch_progress": counted, "epoch_loop.batch_progress": counted}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(5.0)}}}], "lr_schedulers": [],
        "callbacks": {keeper.state_key: keeper.state_dict() | kept for keeper in keepers(folder)},
        "pytorch-lightning_version": "2.6.6", CONFIG_KEY: {"seed": 1}, TRAINED_ON_KEY: TRAINED_ON,
    }  # fmt: skip


def go_on(path: Path) -> None:
    """What is done with a checkpoint before a Trainer gives each part of it to whom it is of."""
    checkpoint, _ = migrate_checkpoint(load_training(path))
    kept, alone = keepers(path.parent), SimpleNamespace(broadcast=lambda found: found)
    trainer = SimpleNamespace(checkpoint_callbacks=kept, is_global_zero=True, strategy=alone)
    MovedFolder(load_progress).on_load_checkpoint(trainer, None, checkpoint)
    for keeper in kept:
        if state := checkpoint["callbacks"].get(keeper.state_key):
            keeper.load_state_dict(state)
