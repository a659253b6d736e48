"""A run killed at any time and resumed from what was saved by the number of steps is the run that was never stopped."""

import csv

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_fit import ResumableModule, fit, read_saved

from callbacks.metrics_csv import MetricsCSV, resume_step
from callbacks.step_checkpoint import StepCheckpoint


class Kill(Callback):
    """Stops the run as a kill would: nothing is saved or told."""

    def __init__(self, hook, batch):
        self.batch = batch
        setattr(self, hook, self._kill)

    def _kill(self, trainer, *args):
        if trainer.fit_loop.total_batch_idx == self.batch and not trainer.sanity_checking:
            raise InterruptedError


def run(folder, every=2, kind=StepCheckpoint, kill=None, ckpt_path=None, save_top_k=1, **settings):
    """Train; returns the module, and the callback that keeps the best."""
    best = ModelCheckpoint(folder / "best", "best", monitor="val/loss", enable_version_counter=False)
    name = "last" if save_top_k == 1 else "{step}"
    last = kind(folder / "steps", name, every_n_train_steps=every, save_top_k=save_top_k, enable_version_counter=False)
    logger = MetricsCSV(str(folder), first_step=resume_step(read_saved(ckpt_path)) if ckpt_path else 0)
    callbacks = [best, last] if kill is None else [best, last, kill]
    module = ResumableModule()
    settings = {"enable_checkpointing": True, "max_epochs": 3} | settings
    fit(folder, callbacks, module=module, logger=logger, ckpt_path=ckpt_path, **settings)
    return module, best


def steps_of(folder):
    return sorted(int(path.stem.removeprefix("step=")) for path in (folder / "steps").iterdir())


def rows_of(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


# Batches an epoch: 6. What falls on an epoch's last one, or before a validation, is saved a step later.
SETTINGS = {
    "plain": ({}, 2, [2, 4, 7, 8, 10, 13, 14, 16]),
    "an epoch's end each time": ({}, 6, [7, 13]),
    "every step": ({}, 1, [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17]),
    "no validation": ({"limit_val_batches": 0}, 3, [3, 7, 9, 13, 15]),
    "validation within the epoch": ({"val_check_interval": 3}, 3, [4, 7, 10, 13, 16]),
    "validation every other epoch": ({"check_val_every_n_epoch": 2}, 6, [7, 13]),
    "accumulated gradients": ({"accumulate_grad_batches": 2}, 3, [4, 7]),
    "max_steps": ({"max_epochs": -1, "max_steps": 18}, 6, [7, 13]),
    "epochs of one batch": ({"limit_train_batches": 1, "max_epochs": 6}, 1, [2, 4, 6]),
    "validation every batch": ({"val_check_interval": 1}, 2, [6, 12, 18]),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_resumed_from_each_equals_uninterrupted(tmp_path, name):
    settings, every, steps = SETTINGS[name]
    whole, best = run(tmp_path, every, save_top_k=-1, **settings)
    rows = rows_of(tmp_path)
    assert steps_of(tmp_path) == steps
    for step in steps[:-1]:
        checkpoint = tmp_path / "steps" / f"step={step}.ckpt"
        resumed, best_again = run(tmp_path, every, ckpt_path=checkpoint, save_top_k=-1, **settings)
        assert torch.equal(resumed.scale, whole.scale), step
        assert resumed.losses == whole.losses[-len(resumed.losses) :], step
        assert rows_of(tmp_path) == rows, step
        assert best_again.best_model_score == best.best_model_score, step


@pytest.mark.parametrize("hook", ["on_validation_start", "on_validation_end", "on_train_batch_start"])
def test_killed_about_an_epochs_end(tmp_path, hook):
    """The validation of the epoch is in the table, and the best checkpoint is the best."""
    whole, best = run(tmp_path / "whole", 6)
    batch = 12 if hook == "on_train_batch_start" else 11
    with pytest.raises(InterruptedError):
        run(tmp_path, 6, kill=Kill(hook, batch))
    checkpoint = tmp_path / "steps" / "last.ckpt"
    assert resume_step(read_saved(checkpoint)) == 7
    resumed, best_again = run(tmp_path, 6, ckpt_path=checkpoint)
    assert torch.equal(resumed.scale, whole.scale)
    assert rows_of(tmp_path) == rows_of(tmp_path / "whole")
    assert best_again.best_model_score == best.best_model_score
    kept, again = (read_saved(at / "best" / "best.ckpt") for at in (tmp_path / "whole", tmp_path))
    assert kept["global_step"] == again["global_step"]


def test_lightnings_own_loses_that_validation(tmp_path):
    """What StepCheckpoint is for; once this fails, it can go."""
    run(tmp_path / "whole", 6)
    with pytest.raises(InterruptedError):
        run(tmp_path, 6, ModelCheckpoint, Kill("on_validation_start", 11))
    run(tmp_path, 6, ModelCheckpoint, ckpt_path=tmp_path / "steps" / "last.ckpt")
    whole, resumed = ([row["step"] for row in rows_of(at) if row["val/loss"]] for at in (tmp_path / "whole", tmp_path))
    assert len(resumed) == len(whole) - 1
