"""A run whose loss or weights are no longer numbers ends, and its checkpoints hold numbers."""

import json

import pytest
import torch
from lightning.pytorch import Callback
from refusals import refuses
from tiny_fit import TinyModule, fit, read_saved

from callbacks.run_record import RunRecord
from callbacks.step_checkpoint import StepCheckpoint
from callbacks.terminate_on_nan import PATIENCE, NotFiniteError, TerminateOnNaN


def own_part(weight):
    return weight


class Breaking(TinyModule):
    """Its loss is not finite in some steps."""

    def __init__(self, steps, value=float("nan")):
        super().__init__()
        self.steps, self.value = steps, value

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        loss = loss * self.value if self.trainer.fit_loop.total_batch_idx in self.steps else loss
        self.log("train/loss", loss, sync_dist=True)
        return loss


class Stepping(Breaking):
    """Steps by itself, and leaves out what is not finite."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if loss.isfinite():
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()


def run(folder, module, **settings):
    last = StepCheckpoint(folder / "checkpoints", "last", every_n_train_steps=1, enable_version_counter=False)
    callbacks = [TerminateOnNaN(str(folder), own_part), RunRecord(str(folder), {"seed": 3}), last]
    return fit(folder, callbacks, module=module, enable_checkpointing=True, **settings)


def saved(folder):
    return read_saved(folder / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_logged_ends_the_run(tmp_path, value):
    with refuses(NotFiniteError, "step 4", "epoch 0", f"train/loss={value}", tmp_path / "checkpoints/last.ckpt"):
        run(tmp_path, Breaking({3}, value))
    assert saved(tmp_path)["global_step"] == 3 and saved(tmp_path)["state_dict"]["scale"].isfinite().all()
    assert json.loads((tmp_path / "record.json").read_text())["status"] == "failed"


def test_weights_are_looked_at_before_they_are_written(tmp_path):
    """No loss is looked at here: those of few steps are logged."""
    with refuses(NotFiniteError, "step 4", "epoch 0", "1 of 1", "scale"):
        run(tmp_path, Breaking({3}), log_every_n_steps=100)
    assert saved(tmp_path)["global_step"] == 3


def test_the_last_step_is_looked_at_and_recorded(tmp_path):
    with refuses(NotFiniteError, "step 12", "epoch 2"):
        run(tmp_path, Breaking({11}), log_every_n_steps=100, limit_val_batches=0)
    assert json.loads((tmp_path / "record.json").read_text())["status"] == "failed"


def test_nothing_is_measured_with_weights_that_are_not_finite(tmp_path):
    class Measuring(Callback):
        def on_validation_start(self, trainer, pl_module):
            assert pl_module.scale.isfinite().all()

    callbacks = [TerminateOnNaN(str(tmp_path), own_part), Measuring()]
    with refuses(NotFiniteError, "step 6", "No checkpoint"):
        fit(tmp_path, callbacks, module=Breaking({5}), log_every_n_steps=100)


def test_a_step_that_the_module_leaves_out_does_no_harm_but_many_do(tmp_path):
    trainer, module = run(tmp_path / "few", Stepping({2, 3, 6}))
    assert trainer.global_step == 9 and module.scale.isfinite().all()
    with refuses(NotFiniteError, "step 5", "epoch 1", "train/loss=nan"):
        run(tmp_path / "many", Stepping({2, *range(6, 6 + PATIENCE)}))


def test_one_that_steps_no_more_is_looked_at_all_the_same(tmp_path):
    """Its count of steps stands still, between two logging steps."""
    with refuses(NotFiniteError, "step 3", "epoch 1", "train/loss=nan"):
        run(tmp_path, Stepping(range(3, 10**6)), log_every_n_steps=2)


def test_a_run_of_numbers_is_left_alone(tmp_path):
    _, watched = run(tmp_path, TinyModule())
    _, alone = fit(tmp_path, module=TinyModule())
    assert torch.equal(watched.scale, alone.scale) and watched.losses == alone.losses
