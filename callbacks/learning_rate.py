"""The learning rate as a curve: one for each optimiser, whatever the number of its parameter groups."""

from collections import Counter
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class LearningRate(Callback):
    """Logs `lr-<optimiser>`, the largest rate of its groups, before every step; a second of its kind is `…-1`."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Log the rates of the step that comes."""
        seen: Counter[str] = Counter()
        for optimizer in trainer.optimizers:
            kind = type(getattr(optimizer, "optimizer", optimizer)).__name__  # DeepSpeed's has one inside
            name = f"lr-{kind}-{seen[kind]}" if seen[kind] else f"lr-{kind}"
            seen[kind] += 1
            rate = max(group["lr"] for group in optimizer.param_groups)
            pl_module.log(name, rate, on_step=True, on_epoch=False, batch_size=1)
