"""A run stopped by a signal at any batch and resumed is the run that was never stopped."""

import csv
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_fit import ResumableModule, fit, read_saved

from callbacks.metrics_csv import MetricsCSV, resume_step
from callbacks.shutdown import GracefulShutdown, Interrupted


class SendSignal(Callback):
    def __init__(self, batch, number=signal.SIGTERM, hook="train"):
        self.batch, self.number, self.hook = batch, number, hook

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.hook == "train" and trainer.fit_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), self.number)

    def on_validation_epoch_end(self, trainer, pl_module):
        if self.hook == "validation" and trainer.fit_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), self.number)


def rows_of(folder):
    with open(Path(folder) / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def run(folder, *callbacks, ckpt_path=None, **settings):
    logger = MetricsCSV(str(folder), first_step=resume_step(read_saved(ckpt_path)) if ckpt_path else 0)
    callbacks = [GracefulShutdown(str(folder)), *callbacks]
    module = ResumableModule()
    trainer, _ = fit(folder, callbacks, module=module, logger=logger, ckpt_path=ckpt_path, **settings)
    return module


def stop_and_resume(folder, sender, **settings):
    with pytest.raises(Interrupted) as stopped:
        run(folder, sender, **settings)
    assert stopped.value.checkpoint == str(folder / "checkpoints" / "last.ckpt")
    assert stopped.value.code == 128 + sender.number
    return run(folder, ckpt_path=stopped.value.checkpoint, **settings)


SETTINGS = {
    "plain": {},
    "no validation": {"limit_val_batches": 0},
    "validation within the epoch": {"val_check_interval": 3},
    "accumulated gradients": {"accumulate_grad_batches": 2},
    "max_steps": {"max_epochs": -1, "max_steps": 12},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, name):
    settings = SETTINGS[name]
    whole = run(tmp_path / "whole", **settings)
    assert len(whole.losses) == 12
    for batch in range(10):
        folder = tmp_path / str(batch)
        resumed = stop_and_resume(folder, SendSignal(batch), **settings)
        assert torch.equal(resumed.scale, whole.scale), batch
        assert resumed.losses == whole.losses[-len(resumed.losses) :], batch
        assert len(resumed.losses) >= 12 - batch - 4, batch
        assert rows_of(folder) == rows_of(tmp_path / "whole"), batch


def test_signal_during_validation_is_heeded_after_it(tmp_path):
    whole = run(tmp_path / "whole")
    resumed = stop_and_resume(tmp_path / "stopped", SendSignal(5, signal.SIGINT, "validation"))
    assert resumed.losses == whole.losses[7:]
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "whole")


def test_signal_in_the_last_batch_lets_the_run_finish(tmp_path):
    whole = run(tmp_path / "whole")
    assert run(tmp_path / "late", SendSignal(11)).losses == whole.losses


def test_model_checkpoint_keeps_its_best_and_its_file(tmp_path):
    def keeper():
        folder = str(tmp_path / "checkpoints")
        return ModelCheckpoint(folder, monitor="val/loss", save_last=True, filename="{epoch}")

    settings = {"enable_checkpointing": True, "max_epochs": 3}
    with pytest.raises(Interrupted) as stopped:
        run(tmp_path, keeper(), SendSignal(2), **settings)
    run(tmp_path, kept := keeper(), ckpt_path=stopped.value.checkpoint, **settings)
    assert [path.name for path in (tmp_path / "checkpoints").glob("last*")] == ["last.ckpt"]
    assert resume_step(read_saved(tmp_path / "checkpoints" / "last.ckpt")) == 18
    assert kept.last_model_path.endswith("last.ckpt")
    assert kept.best_model_path


@pytest.mark.parametrize(
    ("keeping", "settings", "batch", "step"),
    [
        ({"monitor": "val/loss"}, {}, 5, 7),
        ({"monitor": "val/loss"}, {"val_check_interval": 3}, 2, 4),
        ({"monitor": "train/epochs_ended"}, {"limit_val_batches": 0}, 5, 7),
        ({"every_n_train_steps": 1}, {}, 2, 3),
    ],
)
def test_checkpoint_holds_what_other_callbacks_have_noted(tmp_path, keeping, settings, batch, step):
    keeper = ModelCheckpoint(str(tmp_path / "best"), **keeping)
    with pytest.raises(Interrupted) as stopped:
        run(tmp_path, keeper, SendSignal(batch), enable_checkpointing=True, **settings)
    assert resume_step(read_saved(stopped.value.checkpoint)) == step
    saved = read_saved(stopped.value.checkpoint)["callbacks"][keeper.state_key]
    assert keeper.best_model_path
    assert saved["best_model_path"] == keeper.best_model_path


def test_epochs_of_one_batch_are_left_too(tmp_path):
    stop_and_resume(tmp_path, SendSignal(2), limit_train_batches=1, max_epochs=5)
    assert [row["step"] for row in rows_of(tmp_path) if row["train/loss"]] == ["0", "1", "2", "3", "4"]


@pytest.fixture
def sigint_raises():
    """As in a terminal; a process that was started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_handlers_are_given_back(tmp_path, sigint_raises):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(tmp_path / "whole", max_epochs=1)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", SendSignal(2))
    assert signal.getsignal(signal.SIGTERM) == before[1]
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_second_signal_stops_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("callbacks.shutdown.ECHO_SECONDS", -1)

    class Twice(SendSignal):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, Twice(1))
    assert not isinstance(stopped.value, Interrupted)
    assert not (tmp_path / "checkpoints").exists()
