"""A run whose loss or weights are no longer numbers ends, before it overwrites a good checkpoint."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from datamodules.errors import UserError

PATIENCE = 3  # logging steps in a row, for a module that leaves out steps whose gradient is not finite


class NotFiniteError(UserError):
    """A loss or a weight is infinite or not a number."""


class TerminateOnNaN(Callback):
    """End the training on all ranks, with an error, once a loss or a weight is not finite.

    Losses are looked at where they are logged. Weights are looked at before each validation and before each checkpoint:
    one that holds NaN is never written. In between nothing waits for the device. A module that steps by itself, as an
    autoencoder with a discriminator does, leaves a bad step out and goes on; it is stopped when `PATIENCE` logging
    steps in a row were bad.

    Args:
        output_dir: folder of the run.
        own_part: a weight -> the share of it that this process keeps.
        keys: log keys of losses; one that is not logged is passed over.
    """

    def __init__(
        self,
        output_dir: str,
        own_part: Callable[[Tensor], Tensor],
        keys: Sequence[str] = ("train/loss", "train/discriminator"),
    ) -> None:
        self.own_part = own_part
        self.last = Path(output_dir) / "checkpoints" / "last.ckpt"
        self.keys = tuple(keys)
        self._num_bad = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the losses, at a logging step.

        Raises:
            NotFiniteError: one is not finite.
        """
        # A module that leaves out bad steps does not count them, nor come to the next logging step.
        step = trainer.global_step if pl_module.automatic_optimization else trainer.fit_loop.total_batch_idx + 1
        if not trainer.log_every_n_steps or step % trainer.log_every_n_steps:
            return
        losses = {key: float(trainer.callback_metrics.get(key, 0.0)) for key in self.keys}
        bad = {key: value for key, value in losses.items() if not math.isfinite(value)}
        is_bad = trainer.strategy.reduce_boolean_decision(bool(bad), all=False)
        self._num_bad = self._num_bad + 1 if is_bad else 0
        if self._num_bad >= (1 if pl_module.automatic_optimization else PATIENCE):
            said = ", ".join(f"{key}={value}" for key, value in bad.items()) or "a loss on another process"
            raise self._error(trainer, said)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the weights: what is measured with NaN says nothing."""
        self._check_weights(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look at the weights that are about to be written.

        Raises:
            NotFiniteError: one of them is not finite; nothing is written.
        """
        self._check_weights(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the weights while the run can still be recorded as failed."""
        self._check_weights(trainer, pl_module)

    def _check_weights(self, trainer: Trainer, pl_module: LightningModule) -> None:
        learnt = [(name, weight) for name, weight in pl_module.named_parameters() if weight.requires_grad]
        if not learnt:
            return
        num_bad = torch.stack([(~self.own_part(weight).isfinite()).any() for _, weight in learnt]).float()
        num_bad = trainer.strategy.reduce(num_bad.to(trainer.strategy.root_device), reduce_op="sum")
        bad = [name for (name, _), number in zip(learnt, num_bad.tolist(), strict=True) if number]
        if bad:
            raise self._error(trainer, f"{len(bad)} of {len(learnt)} weights are not finite (the first: {bad[0]})")

    def _error(self, trainer: Trainer, what: str) -> NotFiniteError:
        before = f"Last good checkpoint: {self.last}." if self.last.exists() else "No checkpoint was saved before."
        return NotFiniteError(
            f"training broke at step {trainer.global_step}, epoch {trainer.current_epoch}: {what}. {before} Remedy: "
            "output_dir=<this folder> resume=auto with trainer.gradient_clip_val=1.0 (where there is a discriminator "
            "autoencoder.module.gradient_clip) or trainer.precision=32-true; or a new run at a lower learning_rate, "
            "from the weights of that checkpoint by ckpt=<it>."
        )
