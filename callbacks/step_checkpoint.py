"""A checkpoint every so many steps, never where resuming from it would leave out a validation."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class StepCheckpoint(ModelCheckpoint):
    """ModelCheckpoint of `every_n_train_steps`, for going on from; `monitor` is left out.

    Lightning saves at the end of a batch, and goes on behind whatever follows it. So a checkpoint that falls on an
    epoch's last batch, or on one that a validation follows, is put off to the next batch that nothing follows. If there
    are none, as in epochs of one batch, it is saved at the end of an epoch, after the callbacks that are listed before
    this one. It is not saved while gradients are being accumulated, which no checkpoint holds. One that is put off at
    the last batch of all is left to who saves what the training ends with.
    """

    _num_put_off = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, or put off, a checkpoint that is due."""
        interval = self._every_n_train_steps
        is_due = self._num_put_off > 0 or (interval > 0 and trainer.global_step % interval == 0)
        at_step_end = trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not is_due or not at_step_end or self._should_skip_saving_checkpoint(trainer):
            return
        if _something_follows(trainer):
            self._num_put_off += 1
        else:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save a checkpoint that was put off and found no batch since."""
        if self._num_put_off > 1:
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save nothing: steps count here, not validations."""

    def _save(self, trainer: Trainer) -> None:
        self._num_put_off = 0
        candidates = self._monitor_candidates(trainer)
        self._save_topk_checkpoint(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)


def _something_follows(trainer: Trainer) -> bool:
    """Whether the end of this batch is the epoch's, or a validation comes before the next."""
    loop = trainer.fit_loop
    return trainer.is_last_batch or loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
