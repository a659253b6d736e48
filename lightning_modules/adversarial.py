"""Two optimisers in one training step: the autoencoder's, and that of the discriminator that judges it."""

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


class AdversarialSteps:
    """Mixin of a LightningModule with a `discriminator`, which steps by hand.

    It counts in the buffer `skipped_steps` the steps that it leaves out because their gradient is not finite.
    """

    adversary: Adversary
    optimisation: Optimisation
    gradient_clip: float | None
    skipped_steps: Tensor

    def _judge(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.discriminator(x.float())

    def _adversarial_step(self, losses: dict[str, Tensor], x: Tensor, y: Tensor) -> None:
        """Step the autoencoder, then the discriminator once it has joined; adds its quantities to `losses`."""
        optimizer = self.optimizers()[0]
        disc_optimizer = self.optimizers(use_pl_optimizer=False)[1]  # a raw one: its steps are not global steps
        judging = self.global_step >= self.adversary.disc_start
        if judging:
            self.discriminator.requires_grad_(False)
            losses["adversarial"] = generator_hinge(self._judge(y))
            losses["loss"] = losses["loss"] + self.adversary.disc_weight * losses["adversarial"]
        if self._backward(losses["loss"], optimizer):
            optimizer.step()
            self.lr_schedulers().step()
        if judging:
            self.discriminator.requires_grad_(True)
            real, fake = self._judge(x), self._judge(y.detach())
            losses["discriminator"] = discriminator_hinge(real, fake)
            losses["logits_real"], losses["logits_fake"] = real.mean(), fake.mean()
            if self._backward(losses["discriminator"], disc_optimizer):
                self.trainer.strategy.optimizer_step(disc_optimizer, lambda: None)
        losses["skipped_steps"] = self.skipped_steps.float()

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

    def _discriminator_optimizer(self) -> AdamW:
        """At a constant rate.

        Raises:
            ValueError: a strategy or precision that two optimisers do not work with; a discriminator that never joins.
        """
        strategy, precision = self.trainer.strategy, str(self.trainer.precision)
        if isinstance(strategy, DeepSpeedStrategy) or precision.startswith("16"):
            raise UserError(
                f"a discriminator needs a second optimiser, which strategy {type(strategy).__name__} with precision "
                f"{precision!r} does not work with: DeepSpeed takes one, float16 scales one loss. Use strategy single, "
                "ddp or fsdp2, and bf16-mixed or 32-true, or set the discriminator to null."
            )
        steps = self.trainer.estimated_stepping_batches
        start = self.adversary.disc_start
        if start >= steps:
            raise UserError(
                f"disc_start={start}, and the training has {steps:.0f} steps: the discriminator would never "
                "join. Lower it (autoencoder.module.disc_start), train longer, or take autoencoder=small."
            )
        rate = self.adversary.disc_learning_rate
        rate = self.optimisation.learning_rate if rate is None else rate
        return adamw([(self.discriminator, 0.0)], rate, self.optimisation.betas)
