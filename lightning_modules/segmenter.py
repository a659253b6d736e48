"""The segmenter: a network that tells the level of every pixel; what is unknown is learnt from nothing.

Legend: B batch, K levels of a mask, background first, H and W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from lightning_modules.ema import AveragedNetwork
from lightning_modules.losses.segmentation import cross_entropies, dice_losses
from lightning_modules.randomness import seed_global_stream
from lightning_modules.ranks import mean_over_ranks, share_running_statistics
from lightning_modules.training import Blocks, Optimisation, TrainedModule, accepts_fields, check_images

OPTIMISATION = Optimisation(1e-3, (0.9, 0.999), weight_decay=0.01, decay_vectors=False, lr_schedule="cosine")


@dataclass(frozen=True)
class LossWeights:
    """What the loss is the weighted sum of, each of an image first: see losses/segmentation.py.

    Args:
        dice_weight: of 1 - Dice.
        cross_entropy_weight: of the cross-entropy, which punishes what is found in an image whose mask is empty.
        focal_weight: of the focal loss, for structures of few pixels.
        focal_gamma: how little pixels count in it that are told well.

    Raises:
        UserError: a negative number, or Dice alone, which hardly sees what is found where nothing is.
    """

    dice_weight: float = 1.0
    cross_entropy_weight: float = 1.0
    focal_weight: float = 0.0
    focal_gamma: float = 2.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise UserError(f"{name}={value} must not be negative; 0 leaves a loss out.")
        if not self.cross_entropy_weight + self.focal_weight:
            raise UserError(
                "cross_entropy_weight=0 and focal_weight=0 leave the Dice loss alone, which hardly punishes what is "
                "found in images whose mask is empty. Remedy: a weight above 0 for one of them."
            )


@accepts_fields(loss_weights=LossWeights, optimisation=Optimisation, blocks=Blocks)
class Segmenter(TrainedModule):
    """Learns masks from photographs; pixels that are unknown (-1) enter neither the loss nor a metric.

    Batches hold `image` float32 [B, 3, H, W] in [0, 1], `mask` int64 [B, H, W] and `id`. Everything random in a step is
    a function of (seed, rank, epoch, batch), so that a resumed run equals an uninterrupted one.

    The levels of a pixel exclude each other: their probabilities are a softmax, which for two levels is the sigmoid of
    the difference of two logits. A pixel shows something where the background's probability is at most 1 - `threshold`;
    it then has the likeliest of the other levels.

    Args:
        network: images in [0, 1] -> logits [B, K, H, W].
        ema_decay: of averaged weights, which are then those that are measured; 0 keeps none.

    Attributes:
        threshold: float32 scalar in (0, 1), a buffer; a callback sets it by the validation images.

    Raises:
        UserError: settings out of range.
    """

    threshold: Tensor

    def __init__(
        self,
        network: nn.Module,
        loss_weights: LossWeights = LossWeights(),
        optimisation: Optimisation = OPTIMISATION,
        ema_decay: float = 0.0,
        seed: int = 0,
        blocks: Blocks = Blocks(),
    ) -> None:
        super().__init__(optimisation, blocks, seed)
        self.network, self.loss_weights = network, loss_weights
        self.ema = AveragedNetwork(network, ema_decay) if ema_decay else None
        self.register_buffer("threshold", torch.tensor(0.5))
        self.train()  # the Trainer takes modes as they are

    @property
    def measured(self) -> nn.Module:
        """The network that is measured and saved for use: the averaged one where there is one."""
        return self.network if self.ema is None else self.ema.network

    # --- training -------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Spread the network, and its averages, over the processes, where the strategy does that."""
        self.prepare(self.network, (self.network, self.ema.network if self.ema else None))

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Loss of one batch."""
        seed_global_stream(self.seed, self.global_rank, self.current_epoch, batch_idx)
        losses, known = self._losses(self.network(batch["image"]), batch["mask"])
        total = mean_over_ranks(self, known.sum().float())  # as in one batch of all ranks
        loss = (losses * known).sum() / total.clamp_min(1e-6)
        self.log("train/loss", loss.detach(), on_step=True, on_epoch=False, prog_bar=True, sync_dist=True,
                 batch_size=len(losses))  # fmt: skip
        return loss

    def _losses(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of each image, float32 [B], and whether anything is known of it, bool [B]."""
        ours = self.loss_weights
        losses = ours.dice_weight * dice_losses(logits, mask)
        if ours.cross_entropy_weight:
            losses = losses + ours.cross_entropy_weight * cross_entropies(logits, mask)
        if ours.focal_weight:
            losses = losses + ours.focal_weight * cross_entropies(logits, mask, ours.focal_gamma)
        return losses, (mask >= 0).flatten(1).any(dim=1)

    def on_step(self) -> None:
        """Let the running statistics of all ranks be the same."""
        share_running_statistics(self, self.network)

    def _evaluate(self, batch: Mapping[str, Any], stage: str) -> dict[str, Any]:
        """Log the loss; give what metrics are made of."""
        logits, mask = self.measured(batch["image"]), batch["mask"]
        losses, known = self._losses(logits, mask)
        number = int(known.sum())  # a batch weighs what it knows
        self.log(f"{stage}/loss", (losses * known).sum() / max(number, 1), on_step=False, on_epoch=True, prog_bar=True,
                 sync_dist=True, batch_size=number)  # fmt: skip
        return {"probabilities": logits.float().softmax(dim=1), "mask": mask, "id": batch["id"]}

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        """Probabilities float32 [B, K, H, W], with masks and ids."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        """As in validation."""
        return self._evaluate(batch, "test")

    # --- use ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """P(level) of each pixel, float32 [B, K, H, W], of images float [B, 3, H, W] in [0, 1]; in eval mode.

        Raises:
            UserError: images of another shape, type or range.
        """
        check_images(images)
        return self.measured.eval()(images).float().softmax(dim=1)

    def segment(self, images: Tensor) -> Tensor:
        """Levels int64 [B, H, W] of images as in `probabilities`, by the threshold."""
        return self.levels(self.probabilities(images))

    def levels(self, probabilities: Tensor) -> Tensor:
        """Levels int64 [B, H, W] of probabilities float [B, K, H, W], by the threshold."""
        shows = 1 - probabilities[:, 0] >= self.threshold
        return torch.where(shows, 1 + probabilities[:, 1:].argmax(dim=1), 0)

    def configure_optimizers(self) -> Any:
        """AdamW with its schedule."""
        return self.scheduled(self.adamw([(self.network, self.optimisation.weight_decay)]))
