"""What was measured of the very weights that a checkpoint holds."""

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.due import is_due

MEASURED_KEY = "synfundus_measured"  # of a checkpoint: {"monitor": log key, "value": float}


class StampMetric(Callback):
    """Put into every checkpoint the value of `monitor` at that checkpoint's own step, where there is one.

    The state of a ModelCheckpoint does not tell it: that holds what it looked at last, which is of an earlier epoch
    where another callback writes the file, or where the epoch was not among the best.

    Args:
        monitor: a log key of the validation.
        every_n_epochs: epochs between two values, the last epoch apart; those in between would be of an earlier one.
    """

    def __init__(self, monitor: str, every_n_epochs: int = 1) -> None:
        self.monitor, self.every_n_epochs = monitor, every_n_epochs
        self._step, self._value = -1, math.nan

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the value, before those callbacks that save, which a Trainer lists last."""
        if trainer.sanity_checking or not is_due(trainer, self.every_n_epochs):
            return
        self._step = trainer.global_step
        self._value = float(trainer.callback_metrics.get(self.monitor, math.nan))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add it, if no step was made since; what is undefined is left out."""
        if self._step == trainer.global_step and math.isfinite(self._value):
            checkpoint[MEASURED_KEY] = {"monitor": self.monitor, "value": self._value}
