"""A progress bar that tells the time left for the whole training, beside that of the epoch."""

import datetime
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class TimeLeftProgressBar(TQDMProgressBar):
    """Lightning's bar with `left`, the hours:minutes:seconds until the last step, validation and sampling included.

    The bars themselves show the time left of the epoch and of the validation; FrechetDistance has its own for sampling.

    Args:
        refresh_rate: batches between updates; 0 switches the bar off.
        leave: keep the bar of each epoch.
    """

    def __init__(self, refresh_rate: int = 10, leave: bool = False) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=leave)
        self._start = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; a run that goes on within an epoch says which, for it has no start of one."""
        super().on_train_start(trainer, pl_module)
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready:
            self.on_train_epoch_start(trainer, pl_module)
        self._start = time.monotonic()
        self._first_step = trainer.fit_loop.total_batch_idx

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return Lightning's figures and the time left."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        left = self.seconds_left(trainer)
        if left is not None:
            metrics["left"] = str(datetime.timedelta(seconds=int(left)))
        return metrics

    def seconds_left(self, trainer: Trainer) -> float | None:
        """Return the seconds until the end at the pace since the start; None where no end or no pace is known."""
        num_all = num_batches(trainer)
        done = trainer.fit_loop.total_batch_idx + 1
        in_this_session = done - self._first_step - 1
        if num_all is None or in_this_session < 1:
            return None
        return max(0, num_all - done) * (time.monotonic() - self._start) / in_this_session


def num_batches(trainer: Trainer) -> int | None:
    """Return the number of training batches until max_epochs or max_steps, whichever comes first; None if endless."""
    limits = []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        limits.append(trainer.max_epochs * trainer.num_training_batches)
    if trainer.max_steps > 0:
        limits.append(trainer.max_steps * trainer.accumulate_grad_batches)
    finite = [limit for limit in limits if limit != float("inf")]
    return int(min(finite)) if finite else None
