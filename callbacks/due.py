"""In which epochs a callback that works every n epochs has its turn, and the best checkpoint of what it measures."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


def is_due(trainer: Trainer, every_n_epochs: int) -> bool:
    """Whether the epoch being validated is one of every n, or the last of `max_epochs` or `max_steps`."""
    done = trainer.current_epoch + 1
    at_end = done == trainer.max_epochs or 0 < trainer.max_steps <= trainer.global_step
    return done % every_n_epochs == 0 or at_end


class BestCheckpoint(ModelCheckpoint):
    """ModelCheckpoint that looks at `monitor` in the epochs in which it is measured: every n, and the last.

    Lightning's own never looks at an epoch that is not a multiple of n, so that a run of fewer epochs had no best.

    Args:
        monitor: a log key of the validation.
        measured_every_n_epochs: epochs between two values of it.
        settings: other arguments of ModelCheckpoint.
    """

    def __init__(self, monitor: str, measured_every_n_epochs: int = 1, **settings: Any) -> None:
        super().__init__(monitor=monitor, every_n_epochs=1, **settings)
        self.measured_every_n_epochs = measured_every_n_epochs

    @property
    def state_key(self) -> str:
        """That of a ModelCheckpoint, under which runs begun before kept their best."""
        return super().state_key.replace("BestCheckpoint{", "ModelCheckpoint{", 1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if this is the best, in the epochs that are due."""
        if is_due(trainer, self.measured_every_n_epochs):
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same, where Lightning waits for this hook: after each validation that ends an epoch of training."""
        if is_due(trainer, self.measured_every_n_epochs):
            super().on_train_epoch_end(trainer, pl_module)
