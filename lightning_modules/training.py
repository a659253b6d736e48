"""What every module that is trained shares: its optimiser, how its blocks are trained, what its checkpoints hold."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import wraps
from typing import Any

import lightning as L
from torch import Tensor, nn
from torch.optim import Optimizer

from datamodules.errors import UserError
from lightning_modules.blocks import prepare_blocks
from lightning_modules.checkpoint import check_architecture, write_facts
from lightning_modules.optimisation import adamw, can_fuse, lr_scheduler, unfuse


@dataclass(frozen=True)
class Optimisation:
    """AdamW and the learning rate's course.

    Args:
        learning_rate: used as it is, whatever the batch size.
        decay_vectors: False draws neither biases, norms and other vectors nor embeddings towards 0.
        fused_optimizer: update the weights in one pass, where the strategy and the precision can have it.
        warmup_steps, warmup_epochs: in which the rate rises; the greater of the two.
        lr_schedule: "constant", or "cosine" to 0.
        decay_steps: end of lr_schedule "cosine"; None takes the Trainer's number of steps.

    Raises:
        UserError: betas that are not two fractions in [0, 1).
    """

    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    decay_vectors: bool = True
    fused_optimizer: bool = False
    warmup_steps: int = 0
    warmup_epochs: float = 0.0
    lr_schedule: str = "constant"
    decay_steps: int | None = None

    def __post_init__(self) -> None:
        pair = list(self.betas) if isinstance(self.betas, Sequence) else []
        if len(pair) != 2 or not all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in pair):
            raise UserError(f"betas={self.betas!r} must be two fractions in [0, 1), as [0.9, 0.99].")


@dataclass(frozen=True)
class Blocks:
    """How the blocks of a network are trained: see `recompute` and `compile_blocks` of blocks.py.

    Args:
        activation_checkpointing: with less memory.
        compile_blocks: faster.
    """

    activation_checkpointing: bool = False
    compile_blocks: bool = False


def accepts_fields(**kinds: type) -> Callable[[type], type]:
    """Class decorator: what the constructor takes as a dataclass it takes field by field too.

    A configuration and a command line name `learning_rate`, and not the object that holds it. Fields that are not
    given have the value of the parameter's default.

    Args:
        kinds: the dataclass of each such parameter.
    """

    def decorated(cls: type) -> type:
        construct = cls.__init__
        own = inspect.signature(construct).parameters
        group_of = {field.name: group for group, kind in kinds.items() for field in fields(kind)}

        @wraps(construct)
        def __init__(self: Any, *args: Any, **given: Any) -> None:
            groups: dict[str, dict[str, Any]] = {}
            for name in [name for name in given if name in group_of]:
                groups.setdefault(group_of[name], {})[name] = given.pop(name)
            for group, values in groups.items():
                given[group] = replace(given.get(group, own[group].default), **values)
            construct(self, *args, **given)

        flat = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(own[group].default, name))
            for name, group in group_of.items()
        ]
        __init__.__signature__ = inspect.Signature([*own.values(), *flat])
        cls.__init__ = __init__
        return cls

    return decorated


class TrainedModule(L.LightningModule):
    """A LightningModule that one AdamW trains; its checkpoints suffice to rebuild it.

    A module with averaged weights has them as `ema`, and what they are the average of as `network`.

    Attributes:
        config: the resolved configuration in plain containers, which goes into checkpoints.
        trained_on: as `write_facts` has it; goes into checkpoints.
    """

    def __init__(self, optimisation: Optimisation, blocks: Blocks, seed: int) -> None:
        super().__init__()
        self.optimisation, self.blocks, self.seed = optimisation, blocks, seed
        self.config: dict[str, Any] | None = None
        self.trained_on: dict[str, Tensor] | None = None

    def prepare(self, network: nn.Module, parts: Iterable[nn.Module | None]) -> None:
        """Train the blocks of `network` as asked for; share out each of `parts`, where the strategy does that."""
        if self.trainer.training:
            prepare_blocks(network, self.blocks.activation_checkpointing, self.blocks.compile_blocks)
        shard = getattr(self.trainer.strategy, "shard", None)
        for part in parts if shard else ():
            if part is not None:
                shard(part)

    def adamw(self, parts: Iterable[tuple[nn.Module, float]]) -> Optimizer:
        """AdamW over what networks learn, each with its weight decay."""
        ours = self.optimisation
        return adamw(list(parts), ours.learning_rate, ours.betas, ours.decay_vectors, self.fused)

    @property
    def fused(self) -> bool:
        """Whether the optimiser updates all weights in one pass."""
        return self.optimisation.fused_optimizer and (self._trainer is None or can_fuse(self._trainer))

    def scheduled(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimiser with its schedule, as Lightning takes them; the rate's course counts optimiser steps."""
        ours = self.optimisation
        decay_steps, warmup_steps = ours.decay_steps, ours.warmup_steps
        if decay_steps is None and ours.lr_schedule == "cosine":
            decay_steps = self.trainer.estimated_stepping_batches
        if ours.warmup_epochs:
            total = self.trainer.estimated_stepping_batches  # asking for it makes the loaders, whose length counts
            per_epoch = min(total, self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
            warmup_steps = max(warmup_steps, round(ours.warmup_epochs * per_epoch))
        scheduler = lr_scheduler(optimizer, ours.lr_schedule, warmup_steps, decay_steps or 0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Take up the optimisers of a checkpoint as this strategy can have them."""
        unfuse(self.trainer)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then average the weights where they are averaged: once a step, however many batches it gathers."""
        super().optimizer_step(*args, **kwargs)
        self.on_step()
        if getattr(self, "ema", None) is not None and getattr(self.trainer.strategy, "is_step", True):
            self.ema.update(self.network)

    def on_step(self) -> None:
        """What comes between an optimiser step and the averages."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add whose photographs trained it, and the configuration."""
        write_facts(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another architecture with an error that says what differs."""
        check_architecture(self, checkpoint)


def check_images(images: Tensor) -> None:
    """Raise UserError for what is no batch of images float [B, 3, H, W] in [0, 1]."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise UserError(f"images are {images.dtype} {list(images.shape)}: float [B, 3, H, W] in [0, 1] is needed.")
    if images.numel() and not (float(images.min()) >= 0 and float(images.max()) <= 1):
        raise UserError(
            f"images are in [{float(images.min()):.3g}, {float(images.max()):.3g}], and must be in [0, 1]: neither "
            "0 to 255 nor normalised."
        )
