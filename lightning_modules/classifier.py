"""The classifier: a backbone and one head a finding, of which each image may know some and not others.

Legend: B batch, F findings, K levels of a finding, T thresholds of all findings (networks/heads.py).
"""

from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from lightning_modules.blocks import prepare_blocks
from lightning_modules.checkpoint import check_architecture, write_facts
from lightning_modules.ema import AveragedNetwork
from lightning_modules.layerwise import freeze_layers, layer_groups
from lightning_modules.losses.thresholds import known_total, threshold_loss
from lightning_modules.networks.backbone import layers_of
from lightning_modules.networks.heads import FindingHeads
from lightning_modules.optimisation import lr_scheduler
from lightning_modules.randomness import seed_global_stream, stable_seed
from lightning_modules.ranks import mean_over_ranks, share_running_statistics

ALL = "all"


class ClassifierNetwork(nn.Module):
    """A backbone and the heads on its features: what is learnt, and what is averaged."""

    def __init__(self, backbone: nn.Module, heads: FindingHeads) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, heads

    def forward(self, images: Tensor) -> Tensor:
        """Images float [B, 3, H, W] in [0, 1] -> logits float [B, T]."""
        return self.heads(self.backbone(images))


class Classifier(L.LightningModule):
    """Learns findings from photographs; what is unknown (-1) enters neither the loss nor a metric.

    Batches hold `image` float32 [B, 3, H, W] in [0, 1] and `labels` int64 [B, all findings]. Everything random in a
    step is a function of (seed, rank, epoch, batch), so that a resumed run equals an uninterrupted one.

    Args:
        backbone: images in [0, 1] -> features [B, D]; has `num_features`, and may have `layers` (networks/backbone.py).
        columns: the findings that are learnt, and the column of each in the label matrix.
        num_levels: levels of every finding, by name.
        layer_decay: rate of a layer over that of the next; 1 gives all the same.
        num_frozen: how many layers of the backbone, from the image on, keep their weights; "all" is a linear probe.
        class_weights: weigh images by the rarity of their level, as `weigh` counts them.
        mixup: parameter of the Beta distribution that images are mixed by (Zhang et al. 2018); 0 mixes none.
        ema_decay: of averaged weights, which are then those that are measured; 0 keeps none.
        warmup_steps, warmup_epochs: in which the rate rises; the greater of the two.
        decay_steps: end of lr_schedule "cosine"; None takes the Trainer's number of steps.
        activation_checkpointing, compile_blocks: train the backbone's blocks with less memory, or faster, as
            `recompute` and `compile_blocks` of blocks.py have it.

    Raises:
        ValueError: settings out of range, unknown names.
    """

    def __init__(
        self,
        backbone: nn.Module,
        columns: Mapping[str, int],
        num_levels: Mapping[str, int],
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.05,
        layer_decay: float = 1.0,
        num_frozen: int | str = 0,
        dropout: float = 0.0,
        class_weights: bool = False,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        warmup_steps: int = 0,
        warmup_epochs: float = 0.0,
        lr_schedule: str = "cosine",
        decay_steps: int | None = None,
        ema_decay: float = 0.0,
        seed: int = 0,
        activation_checkpointing: bool = False,
        compile_blocks: bool = False,
    ) -> None:
        super().__init__()
        _check_settings(layer_decay, label_smoothing, mixup, num_frozen)
        self.network = ClassifierNetwork(backbone, FindingHeads(backbone.num_features, columns, num_levels, dropout))
        self._layers = layers_of(backbone)
        num_frozen = max(self._layers.values()) + 1 if num_frozen == ALL else int(num_frozen)
        self.num_frozen = num_frozen
        self._frozen = freeze_layers(backbone, self._layers, num_frozen)
        self.ema = AveragedNetwork(self.network, ema_decay) if ema_decay else None
        self.learning_rate, self.betas, self.weight_decay = learning_rate, tuple(betas), weight_decay
        self.layer_decay, self.label_smoothing, self.mixup = layer_decay, label_smoothing, mixup
        self.warmup_steps, self.warmup_epochs = warmup_steps, warmup_epochs
        self.lr_schedule, self.decay_steps = lr_schedule, decay_steps
        self.class_weights = class_weights
        levels = max(self.network.heads.num_levels.values())
        self.register_buffer("level_weights", torch.ones(len(columns), levels))
        self.seed = seed
        self.activation_checkpointing, self.compile_blocks = activation_checkpointing, compile_blocks
        self.config: dict[str, Any] | None = None  # resolved configuration, plain containers; goes into checkpoints
        self.trained_on: dict[str, Tensor] | None = None  # as write_facts has it; goes into checkpoints
        self.train()  # the Trainer takes modes as they are

    @property
    def findings(self) -> dict[str, int]:
        """Levels of each finding that is learnt, by name, in the order of the heads."""
        return self.network.heads.num_levels

    @property
    def measured(self) -> ClassifierNetwork:
        """The network that is measured and saved for use: the averaged one where there is one."""
        return self.network if self.ema is None else self.ema.network

    def train(self, mode: bool = True) -> "Classifier":
        """Set the mode; what is frozen stays in eval mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def weigh(self, labels: Tensor) -> None:
        """Take level weights from training labels int64 [N, all findings]: for each finding N_known / (K n_level).

        K counts the levels that occur; the mean weight over the known images is 1. Without `class_weights` all stay 1.
        """
        if not self.class_weights:
            return
        for place, (name, column) in enumerate(self.network.heads.columns.items()):
            counts = torch.bincount(labels[:, column].clamp_min(-1) + 1, minlength=self.findings[name] + 1)[1:].double()
            present = counts > 0
            weights = counts.sum() / (present.sum().clamp_min(1) * counts.clamp_min(1))
            self.level_weights[place, : len(counts)] = torch.where(present, weights, torch.ones_like(weights)).float()

    # --- training -------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Spread the network, and its averages, over the processes, where the strategy does that."""
        if self.trainer.training:
            prepare_blocks(self.network.backbone, self.activation_checkpointing, self.compile_blocks)
        shard = getattr(self.trainer.strategy, "shard", None)
        for network in (self.network, *([self.ema.network] if self.ema else ())) if shard else ():
            shard(network.backbone)
            shard(network.heads)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Loss of one batch."""
        where = (self.seed, self.global_rank, self.current_epoch, batch_idx)
        seed_global_stream(*where)
        image, labels = batch["image"], batch["labels"]
        heads = self.network.heads
        targets, known = heads.targets(labels, self.label_smoothing)
        amounts = known * self._weights(labels)
        if self.mixup > 0:
            stream = np.random.default_rng(stable_seed("mixup", *where))
            image, targets, known, amounts = _mixed(self.mixup, stream, image, targets, known, amounts)
        total = mean_over_ranks(self, known_total(known, heads.finding))  # as in one batch of all ranks
        loss = threshold_loss(self.network(image), targets, known, heads.finding, amounts, total)
        self.log("train/loss", loss.detach(), on_step=True, on_epoch=False, prog_bar=True, sync_dist=True,
                 batch_size=len(image))  # fmt: skip
        return loss

    def _weights(self, labels: Tensor) -> Tensor:
        """Weights of the thresholds of each image, float32 [B, T]."""
        heads = self.network.heads
        levels = labels[:, list(heads.columns.values())].clamp_min(0)
        of_findings = torch.stack([self.level_weights[place, levels[:, place]] for place in range(levels.shape[1])], 1)
        return of_findings[:, heads.finding]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then average the weights where they are averaged."""
        super().optimizer_step(*args, **kwargs)
        share_running_statistics(self, self.network)
        if self.ema is not None and getattr(self.trainer.strategy, "is_step", True):
            self.ema.update(self.network)

    def _evaluate(self, batch: Mapping[str, Any], stage: str) -> dict[str, Any]:
        """Log the loss, without weights or smoothing; give what metrics are made of."""
        network, labels = self.measured, batch["labels"]
        logits = network(batch["image"])
        targets, known = network.heads.targets(labels)
        loss = threshold_loss(logits, targets, known, network.heads.finding)
        num_known = int((labels[:, list(network.heads.columns.values())] >= 0).sum())  # a batch weighs what it knows
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True,
                 batch_size=num_known)  # fmt: skip
        return {"probabilities": network.heads.probabilities(logits), "labels": labels, "id": batch["id"]}

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        """Probabilities float32 [B, K] by finding, with labels and ids."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        """As in validation."""
        return self._evaluate(batch, "test")

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> dict[str, Tensor]:
        """P(level) of each finding, float32 [B, K], of images float32 [B, 3, H, W] in [0, 1]; in eval mode.

        Raises:
            ValueError: images of another shape, type or range.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"images are {images.dtype} {list(images.shape)}: float [B, 3, H, W] in [0, 1] is needed.")
        if images.numel() and not (float(images.min()) >= 0 and float(images.max()) <= 1):
            raise ValueError(
                f"images are in [{float(images.min()):.3g}, {float(images.max()):.3g}], and must be in [0, 1]: neither "
                "0 to 255 nor normalised."
            )
        network = self.measured.eval()
        return network.heads.probabilities(network(images))

    def configure_optimizers(self) -> Any:
        """AdamW, layer by layer; the rate's course counts optimiser steps."""
        groups = layer_groups(
            self.network.backbone, self.network.heads, self._layers,
            self.learning_rate, self.weight_decay, self.layer_decay,
        )  # fmt: skip
        optimizer = AdamW(groups, lr=self.learning_rate, betas=self.betas)
        decay_steps = self.decay_steps
        if decay_steps is None and self.lr_schedule == "cosine":
            decay_steps = self.trainer.estimated_stepping_batches
        warmup_steps = self.warmup_steps
        if self.warmup_epochs:
            total = self.trainer.estimated_stepping_batches  # asking for it makes the loaders, whose length counts
            per_epoch = min(total, self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
            warmup_steps = max(warmup_steps, round(self.warmup_epochs * per_epoch))
        scheduler = lr_scheduler(optimizer, self.lr_schedule, warmup_steps, decay_steps or 0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add whose photographs trained it, and the configuration: the checkpoint suffices to rebuild the module."""
        write_facts(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another architecture with an error that says what differs."""
        check_architecture(self, checkpoint)


def _mixed(
    alpha: float, stream: np.random.Generator, image: Tensor, targets: Tensor, known: Tensor, amounts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each image mixed with another of the batch by one share ~ Beta(alpha, alpha).

    The loss of what comes out is the mixture of the losses against both labels, each weighted and masked as its own
    image is: what one of them does not know is learnt from the other, by its share.
    """
    share = float(stream.beta(alpha, alpha))
    order = torch.from_numpy(stream.permutation(len(image))).to(image.device)
    image = share * image + (1 - share) * image[order]
    first, second = share * amounts, (1 - share) * amounts[order]
    mixed = (first * targets + second * targets[order]) / (first + second).clamp_min(1e-12)
    return image, mixed, share * known + (1 - share) * known[order], first + second


def _check_settings(layer_decay: float, label_smoothing: float, mixup: float, num_frozen: int | str) -> None:
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay={layer_decay} must be in (0, 1]; 1 gives all layers the same rate.")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing={label_smoothing} must be in [0, 1).")
    if mixup < 0:
        raise ValueError(f"mixup={mixup} must not be negative; 0 mixes nothing.")
    if not (num_frozen == ALL or (isinstance(num_frozen, int) and num_frozen >= 0)):
        raise ValueError(f"num_frozen={num_frozen!r} must be a number of layers, or {ALL!r} for a linear probe.")
