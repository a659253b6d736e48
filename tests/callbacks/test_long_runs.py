"""Over many epochs a run takes no more files, threads and tensors than over a few."""

import gc
import os
import threading
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tiny_fit import ResumableModule, TinyData, read_saved

from callbacks.atomic_checkpoint_io import AsyncAtomicCheckpointIO
from callbacks.due import BestCheckpoint
from callbacks.kept_checkpoints import BestCheckpoints, KeepingTrainer, MovedFolder
from callbacks.learning_rate import LearningRate
from callbacks.metrics_csv import MetricsCSV
from callbacks.run_record import RunRecord
from callbacks.shutdown import GracefulShutdown
from callbacks.stamp_metric import StampMetric
from callbacks.step_checkpoint import StepCheckpoint

EARLY, EPOCHS = 5, 20


class Count(Callback):
    """What this process holds after a few epochs, and after many."""

    def __init__(self):
        self.held = []

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch in (EARLY, EPOCHS - 1):
            gc.collect()
            tensors = sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())
            self.held.append((len(os.listdir("/proc/self/fd")), threading.active_count(), tensors))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_nothing_grows_with_the_epochs(tmp_path):
    every = {"dirpath": tmp_path / "checkpoints", "enable_version_counter": False}
    count = Count()
    parts = [RunRecord(str(tmp_path), {"seed": 0}), LearningRate(), StampMetric("val/loss"), MovedFolder(read_saved),
             BestCheckpoint(filename="best", monitor="val/loss", **every),
             BestCheckpoints("val/loss", save_top_k=2, **every),
             StepCheckpoint(filename="last", every_n_train_steps=1, **every),
             GracefulShutdown(str(tmp_path)), count]  # fmt: skip
    loggers = [MetricsCSV(str(tmp_path)), TensorBoardLogger(str(tmp_path), name="", version="", sub_dir="tensorboard")]
    trainer = KeepingTrainer(
        2, read_saved, accelerator="cpu", devices=1, logger=loggers, callbacks=parts, max_epochs=EPOCHS,
        limit_train_batches=2, limit_val_batches=1, num_sanity_val_steps=0, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1, plugins=[AsyncAtomicCheckpointIO(read_saved)],
    )  # fmt: skip
    trainer.fit(ResumableModule(), datamodule=TinyData())
    assert trainer.current_epoch == EPOCHS and len(count.held) == 2
    assert count.held[1] == count.held[0]
