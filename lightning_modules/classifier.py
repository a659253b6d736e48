"""The classifier: a backbone and one head a finding, of which each image may know some and not others.

Legend: B batch, F findings, K levels of a finding, T thresholds of all findings (networks/heads.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from datamodules.errors import UserError
from lightning_modules.ema import AveragedNetwork
from lightning_modules.layerwise import freeze_layers, layer_groups
from lightning_modules.losses.thresholds import known_total, threshold_loss
from lightning_modules.networks.backbone import layers_of
from lightning_modules.networks.heads import FindingHeads
from lightning_modules.randomness import seed_global_stream, stable_seed
from lightning_modules.ranks import mean_over_ranks, share_running_statistics
from lightning_modules.training import Blocks, Optimisation, TrainedModule, accepts_fields, check_images

ALL = "all"
OPTIMISATION = Optimisation(1e-3, (0.9, 0.999), weight_decay=0.05, decay_vectors=False, lr_schedule="cosine")


class ClassifierNetwork(nn.Module):
    """A backbone and the heads on its features: what is learnt, and what is averaged."""

    def __init__(self, backbone: nn.Module, heads: FindingHeads) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, heads

    def forward(self, images: Tensor) -> Tensor:
        """Images float [B, 3, H, W] in [0, 1] -> logits float [B, T]."""
        return self.heads(self.backbone(images))


@dataclass(frozen=True)
class Regularisation:
    """What keeps a classifier from learning its training images by heart, and rare levels from being overlooked.

    Args:
        dropout: before the heads, fraction.
        class_weights: weigh images by the rarity of their level, as `Classifier.weigh` counts them.
        mixup: parameter of the Beta distribution that images are mixed by (Zhang et al. 2018); 0 mixes none.

    Raises:
        ValueError: settings out of range.
    """

    dropout: float = 0.0
    class_weights: bool = False
    label_smoothing: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing={self.label_smoothing} must be in [0, 1).")
        if self.mixup < 0:
            raise UserError(f"mixup={self.mixup} must not be negative; 0 mixes nothing.")


@accepts_fields(regularisation=Regularisation, optimisation=Optimisation, blocks=Blocks)
class Classifier(TrainedModule):
    """Learns findings from photographs; what is unknown (-1) enters neither the loss nor a metric.

    Batches hold `image` float32 [B, 3, H, W] in [0, 1] and `labels` int64 [B, all findings]. Everything random in a
    step is a function of (seed, rank, epoch, batch), so that a resumed run equals an uninterrupted one.

    Args:
        backbone: images in [0, 1] -> features [B, D]; has `num_features`, and may have `layers` (networks/backbone.py).
        columns: the findings that are learnt, and the column of each in the label matrix.
        num_levels: levels of every finding, by name.
        layer_decay: rate of a layer over that of the next; 1 gives all the same.
        num_frozen: how many layers of the backbone, from the image on, keep their weights; "all" is a linear probe.
        ema_decay: of averaged weights, which are then those that are measured; 0 keeps none.

    Raises:
        ValueError: settings out of range, unknown names.
    """

    def __init__(
        self,
        backbone: nn.Module,
        columns: Mapping[str, int],
        num_levels: Mapping[str, int],
        layer_decay: float = 1.0,
        num_frozen: int | str = 0,
        regularisation: Regularisation = Regularisation(),
        optimisation: Optimisation = OPTIMISATION,
        ema_decay: float = 0.0,
        seed: int = 0,
        blocks: Blocks = Blocks(),
    ) -> None:
        super().__init__(optimisation, blocks, seed)
        _check_settings(layer_decay, num_frozen)
        heads = FindingHeads(backbone.num_features, columns, num_levels, regularisation.dropout)
        self.network = ClassifierNetwork(backbone, heads)
        self._layers = layers_of(backbone)
        num_frozen = max(self._layers.values()) + 1 if num_frozen == ALL else int(num_frozen)
        self.num_frozen = num_frozen
        self._frozen = freeze_layers(backbone, self._layers, num_frozen)
        self.ema = AveragedNetwork(self.network, ema_decay) if ema_decay else None
        self.layer_decay, self.regularisation = layer_decay, regularisation
        levels = max(self.network.heads.num_levels.values())
        self.register_buffer("level_weights", torch.ones(len(columns), levels))
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
        if not self.regularisation.class_weights:
            return
        for place, (name, column) in enumerate(self.network.heads.columns.items()):
            counts = torch.bincount(labels[:, column].clamp_min(-1) + 1, minlength=self.findings[name] + 1)[1:].double()
            present = counts > 0
            weights = counts.sum() / (present.sum().clamp_min(1) * counts.clamp_min(1))
            self.level_weights[place, : len(counts)] = torch.where(present, weights, torch.ones_like(weights)).float()

    # --- training -------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Spread the network, and its averages, over the processes, where the strategy does that."""
        networks = (self.network, *([self.ema.network] if self.ema else ()))
        self.prepare(self.network.backbone, [part for one in networks for part in (one.backbone, one.heads)])

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Loss of one batch."""
        where = (self.seed, self.global_rank, self.current_epoch, batch_idx)
        seed_global_stream(*where)
        image, labels = batch["image"], batch["labels"]
        heads = self.network.heads
        targets, known = heads.targets(labels, self.regularisation.label_smoothing)
        amounts = known * self._weights(labels)
        if self.regularisation.mixup > 0:
            stream = np.random.default_rng(stable_seed("mixup", *where))
            image, targets, known, amounts = _mixed(self.regularisation.mixup, stream, image, targets, known, amounts)
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

    def on_step(self) -> None:
        """Let the running statistics of all ranks be the same."""
        share_running_statistics(self, self.network)

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
        check_images(images)
        network = self.measured.eval()
        return network.heads.probabilities(network(images))

    def configure_optimizers(self) -> Any:
        """AdamW, layer by layer, with its schedule."""
        ours = self.optimisation
        groups = layer_groups(self.network.backbone, self.network.heads, self._layers, ours, self.layer_decay)
        return self.scheduled(AdamW(groups, lr=ours.learning_rate, betas=tuple(ours.betas), fused=self.fused or None))


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


def _check_settings(layer_decay: float, num_frozen: int | str) -> None:
    if not 0 < layer_decay <= 1:
        raise UserError(f"layer_decay={layer_decay} must be in (0, 1]; 1 gives all layers the same rate.")
    if not (num_frozen == ALL or (isinstance(num_frozen, int) and num_frozen >= 0)):
        raise UserError(f"num_frozen={num_frozen!r} must be a number of layers, or {ALL!r} for a linear probe.")
