"""Two optimisers in one training step: that of what makes images, and that of the discriminator that judges them."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor, nn
from torch.optim import AdamW

from datamodules.errors import UserError
from lightning_modules.losses.adversarial import discriminator_hinge, generator_hinge
from lightning_modules.optimisation import adamw
from lightning_modules.training import Optimisation


@dataclass(frozen=True)
class Adversary:
    """The discriminator's part in the training of an autoencoder.

    Args:
        disc_weight: of its loss beside the others.
        disc_start: step at which it joins.
        disc_learning_rate: None takes the autoencoder's.
    """

    disc_weight: float = 0.1
    disc_start: int = 0
    disc_learning_rate: float | None = None


LOSSES = ("adversarial", "discriminator")  # logged; less of each is better


class TwoOptimisers:
    """Mixin of a LightningModule with a `discriminator`, which steps by hand; its first optimiser's steps count.

    It counts in the buffer `skipped_steps` the steps that it leaves out because their gradient is not finite.
    """

    optimisation: Optimisation
    gradient_clip: float | None
    skipped_steps: Tensor

    def _step_counted(self, loss: Tensor) -> bool:
        """A step of the first optimiser and of its schedule; False where it is left out."""
        optimizer = self.optimizers()[0]
        stepped = self._backward(loss, optimizer)
        if stepped:
            optimizer.step()
            self.lr_schedulers().step()
        return stepped

    def _step_discriminator(self, loss: Tensor) -> None:
        """A step of the second optimiser."""
        optimizer = self.optimizers(use_pl_optimizer=False)[1]  # a raw one: its steps are not global steps
        if self._backward(loss, optimizer):
            self.trainer.strategy.optimizer_step(optimizer, lambda: None)

    def _backward(self, loss: Tensor, optimizer: Any) -> bool:
        """Fill the gradients and clip them; False, counted, where they are not finite."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, math.inf if self.gradient_clip is None else self.gradient_clip)
        finite = bool(norm.isfinite())
        if not finite:
            optimizer.zero_grad()
            self.skipped_steps += 1
        return finite

    def _discriminator_optimizer(self, learning_rate: float | None) -> AdamW:
        """At a constant rate; None takes that of the first optimiser.

        Raises:
            ValueError: a strategy or precision that two optimisers do not work with.
        """
        strategy, precision = self.trainer.strategy, str(self.trainer.precision)
        if isinstance(strategy, DeepSpeedStrategy) or precision.startswith("16"):
            raise UserError(
                f"a discriminator needs a second optimiser, which strategy {type(strategy).__name__} with precision "
                f"{precision!r} does not work with: DeepSpeed takes one, float16 scales one loss. Use strategy single, "
                "ddp or fsdp2, and bf16-mixed or 32-true, or set the discriminator to null."
            )
        rate = self.optimisation.learning_rate if learning_rate is None else learning_rate
        return adamw([(self.discriminator, 0.0)], rate, self.optimisation.betas)


class AdversarialSteps(TwoOptimisers):
    """Mixin of an autoencoder, whose reconstructions the discriminator judges once it has joined."""

    adversary: Adversary

    def _judge(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.discriminator(x.float())

    def _adversarial_step(self, losses: dict[str, Tensor], x: Tensor, y: Tensor) -> None:
        """Step the autoencoder, then the discriminator once it has joined; adds its quantities to `losses`."""
        judging = self.global_step >= self.adversary.disc_start
        if judging:
            self.discriminator.requires_grad_(False)
            losses["adversarial"] = generator_hinge(self._judge(y))
            losses["loss"] = losses["loss"] + self.adversary.disc_weight * losses["adversarial"]
        self._step_counted(losses["loss"])
        if judging:
            self.discriminator.requires_grad_(True)
            real, fake = self._judge(x), self._judge(y.detach())
            losses["discriminator"] = discriminator_hinge(real, fake)
            losses["logits_real"], losses["logits_fake"] = real.mean(), fake.mean()
            self._step_discriminator(losses["discriminator"])
        losses["skipped_steps"] = self.skipped_steps.float()

    def _joining_optimizer(self) -> AdamW:
        """The discriminator's.

        Raises:
            ValueError: see `_discriminator_optimizer`; or the discriminator would never join.
        """
        optimizer = self._discriminator_optimizer(self.adversary.disc_learning_rate)
        steps = self.trainer.estimated_stepping_batches
        start = self.adversary.disc_start
        if start >= steps:
            raise UserError(
                f"disc_start={start}, and the training has {steps:.0f} steps: the discriminator would never "
                "join. Lower it (autoencoder.module.disc_start), train longer, or take autoencoder=small."
            )
        return optimizer
