"""AdamW and the learning rate's course; the rate given is the rate used, whatever the batch size."""

import math
from collections.abc import Sequence

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from datamodules.errors import UserError
from lightning_modules.names import check_name

LR_SCHEDULES = ("constant", "cosine")


def adamw(
    parts: Sequence[tuple[nn.Module, float]],
    learning_rate: float,
    betas: tuple[float, float],
    decay_vectors: bool = True,
    fused: bool = False,
) -> AdamW:
    """AdamW over the trainable parameters of networks, each with its weight decay.

    Args:
        decay_vectors: False draws neither biases, norms and other vectors nor embeddings towards 0.
        fused: all in one pass over the weights, several times faster on a processor; where `can_fuse` allows it.
    """
    groups = []
    for network, decay in parts:
        trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        kept: set[nn.Parameter] = set()
        if decay and not decay_vectors:
            tables = {module.weight for module in network.modules() if isinstance(module, nn.Embedding)}
            kept = {parameter for parameter in trainable if parameter.ndim < 2 or parameter in tables}
        groups.append({"params": [one for one in trainable if one not in kept], "weight_decay": decay})
        groups.append({"params": [one for one in trainable if one in kept], "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    return AdamW(groups, lr=learning_rate, betas=tuple(betas), fused=fused or None)


def can_fuse(trainer: Trainer) -> bool:
    """Whether a Trainer can take a fused optimiser: weights that each process has whole, in float32.

    Lightning 2.6 refuses to clip gradients for one in mixed precision.
    """
    whole = type(trainer.strategy) in (SingleDeviceStrategy, DDPStrategy)  # not DeepSpeed's, which are of these too
    return whole and trainer.precision == "32-true"


def unfuse(trainer: Trainer) -> None:
    """Let a resumed optimiser go step by step where its checkpoint was written by a Trainer that could fuse."""
    if not can_fuse(trainer):
        for group in (group for optimizer in trainer.optimizers for group in optimizer.param_groups):
            group["fused"] = None


def lr_factor(step: int, schedule: str, warmup_steps: int, decay_steps: int) -> float:
    """Share of the learning rate in optimiser step `step`, from 0: linear warm-up, then constant or half a cosine."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1, decay_steps - warmup_steps))
    return 0.5 * (1 + math.cos(math.pi * progress))


def lr_scheduler(optimizer: AdamW, schedule: str, warmup_steps: int, decay_steps: float) -> LambdaLR:
    """Scheduler to be stepped once an optimiser step.

    Args:
        decay_steps: optimiser step at which "cosine" reaches 0; "constant" does not read it.

    Raises:
        ValueError: unknown schedule; negative warm-up; "cosine" without a finite end after the warm-up.
    """
    check_name("lr_schedule", schedule, LR_SCHEDULES)
    if warmup_steps < 0:
        raise UserError(f"warmup_steps={warmup_steps} must not be negative.")
    if schedule == "cosine" and not warmup_steps < decay_steps < math.inf:
        raise UserError(
            f"lr_schedule='cosine' needs an end after warmup_steps={warmup_steps}, but decay_steps={decay_steps}: give "
            "fewer (model.classifier.warmup_steps, model.diffusion.warmup_steps or autoencoder.module.warmup_steps), "
            "or more steps by data.epoch_size, trainer.max_epochs or trainer.max_steps."
        )
    end = int(decay_steps) if schedule == "cosine" else 0
    return LambdaLR(optimizer, lambda step: lr_factor(step, schedule, warmup_steps, end))
