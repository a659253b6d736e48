"""The synthesizer: rows of a plan to finished images, redrawn until an annotator agrees where that is asked for."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import lightning as L
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from datamodules.errors import UserError
from lightning_modules.condition import Condition, Pairs
from lightning_modules.masks import mask_dice
from lightning_modules.randomness import stable_seed

UNKNOWN_PIXEL = 255  # of a mask in a file
MOST_ATTEMPTS = 127  # a shard keeps their number in a byte


class Generates(Protocol):
    """What the synthesizer needs of a generator."""

    def sample_pairs(self, condition: Condition, seeds: Sequence[int] | Tensor) -> Pairs:
        """Images and masks, if any; image i follows from condition i and seed i alone."""


class Annotates(Protocol):
    """What the filter needs of an annotator."""

    def annotate(self, images: Tensor) -> Mapping[str, Tensor]:
        """P(level) of each finding, float32 [B, K], of images float32 [B, 3, H, W] in [0, 1]."""


class Agreement:
    """Whether what an annotator sees is what was asked for, in the findings that are named.

    A finding of two levels is seen at level 1 from a probability of `threshold` on. A grade agrees when its median
    level is at most `tolerance` from the one asked for. What the condition leaves unknown always agrees.

    Args:
        annotator: see Annotates; it must tell all of `columns`.
        columns: column in the label matrix of each finding that has to agree.
    """

    def __init__(
        self, annotator: Annotates, columns: Mapping[str, int], threshold: float = 0.5, tolerance: int = 0
    ) -> None:
        self.annotator, self.columns = annotator, dict(columns)
        self.threshold, self.tolerance = threshold, tolerance

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Bool [B] of images float32 [B, 3, H, W] in [0, 1] and labels int64 [B, F]."""
        agrees = torch.ones(len(images), dtype=torch.bool, device=images.device)
        found = self.annotator.annotate(images)
        for name, column in self.columns.items():
            wanted, chances = labels[:, column].to(images.device), found[name]
            if chances.shape[1] == 2:
                off = (chances[:, 1] >= self.threshold).long() != wanted
            else:
                seen = (chances.cumsum(1) < 0.5).sum(1)
                off = (seen - wanted).abs() > self.tolerance
            agrees &= ~off | (wanted < 0)
        return agrees


class Segments(Protocol):
    """What the filter of masks needs of a segmenter."""

    def segment(self, images: Tensor) -> Tensor:
        """Levels int64 [B, H, W] of images float32 [B, 3, H, W] in [0, 1]."""


class MaskFilter:
    """Whether a segmenter finds the mask that an image belongs to: the Dice of the two is at least `least_dice`.

    Args:
        segmenter: see Segments; trained on real pairs.

    Raises:
        UserError: a least Dice that is not between 0 and 1.
    """

    def __init__(self, segmenter: Segments, least_dice: float) -> None:
        if not 0 < least_dice <= 1:
            raise UserError(f"job.filter.least_dice={least_dice} must be above 0 and up to 1.")
        self.segmenter, self.least_dice = segmenter, least_dice

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        """Bool [B] of images float32 [B, 3, H, W] in [0, 1] and masks int64 [B, H, W]."""
        return mask_dice(self.segmenter.segment(images), masks) >= self.least_dice


class Synthesizer(L.LightningModule):
    """Makes the images of a plan; image i follows from its row alone, but for the rounding of sums in other batches.

    Batches hold `labels` int64 [B, F], `seed` int64 [B], and perhaps `mask` int64 [B, H, W].
    With `agreement` an image that does not agree is drawn
    again, from seeds that follow from its own, up to `max_attempts` times; the last one stays, and is not accepted.
    With `image_size` what is given is resized, images antialiased, masks by the nearest pixel; the annotator sees it
    before.

    Raises:
        ValueError: fewer than one attempt, or a size below 8 pixels.
    """

    def __init__(
        self,
        generator: Generates,
        agreement: Agreement | None = None,
        max_attempts: int = 1,
        image_size: int | None = None,
        mask_filter: MaskFilter | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= max_attempts <= MOST_ATTEMPTS:
            raise UserError(f"max_attempts={max_attempts} must be at least 1, and at most {MOST_ATTEMPTS}.")
        if image_size is not None and image_size < 8:
            raise UserError(f"image_size={image_size} must be at least 8 pixels.")
        self.generator, self.image_size = generator, image_size
        self.agreement, self.max_attempts = agreement, max_attempts
        self.mask_filter = mask_filter
        if agreement is not None and isinstance(agreement.annotator, torch.nn.Module):
            self.annotator = agreement.annotator  # so that it goes to the device too
        if mask_filter is not None and isinstance(mask_filter.segmenter, torch.nn.Module):
            self.segmenter = mask_filter.segmenter
        self.eval()

    @torch.no_grad()
    def predict_step(self, batch: Mapping[str, Any], batch_idx: int = 0) -> dict[str, Tensor]:
        """On the CPU: `image` uint8 [B, 3, H, W], `seed` int64 [B] of the image that stayed, `attempts` int64 [B].

        And `accepted` bool [B], where an annotator has to agree; and `mask` uint8 [B, H, W], 255 for unknown, where
        the generator has masks.

        Raises:
            FloatingPointError: an image with values that are not finite.
        """
        condition, planned = Condition.of(batch), batch["seed"].cpu()
        seeds = planned.clone()
        images, masks = self._draw(condition, seeds)
        if self.agreement is None and self.mask_filter is None:
            return self._finished(images, masks) | {"seed": seeds, "attempts": torch.ones_like(seeds)}
        attempts, accepted = torch.ones_like(seeds), self._accepted(images, condition.labels, masks)
        for attempt in range(2, self.max_attempts + 1):
            again = torch.nonzero(~accepted).flatten()
            if not len(again):
                break
            seeds[again] = torch.tensor([stable_seed("redraw", seed, attempt) for seed in planned[again].tolist()])
            on_device = again.to(images.device)
            wanted = condition[on_device]
            redrawn, their_masks = self._draw(wanted, seeds[again])
            images[on_device], attempts[again] = redrawn, attempt
            if masks is not None:
                masks[on_device] = their_masks
            accepted[again] = self._accepted(redrawn, wanted.labels, their_masks)
        return self._finished(images, masks) | {"seed": seeds, "attempts": attempts, "accepted": accepted}

    def _accepted(self, images: Tensor, labels: Tensor, masks: Tensor | None) -> Tensor:
        """Whether each image passes the filters that there are, bool [B] on the CPU."""
        accepted = torch.ones(len(images), dtype=torch.bool)
        if self.agreement is not None:
            accepted &= self.agreement(images, labels).cpu()
        if self.mask_filter is not None:
            accepted &= self.mask_filter(images, masks).cpu()
        return accepted

    def _draw(self, condition: Condition, seeds: Tensor) -> Pairs:
        images, masks = self.generator.sample_pairs(condition, seeds)
        images = images.float()
        finite = images.isfinite().flatten(1).all(dim=1)
        if not finite.all():
            bad = int(torch.nonzero(~finite)[0])
            raise FloatingPointError(
                f"the generator made an image with values that are not finite, from seed {int(seeds[bad])}: it has "
                "diverged, or sampling_precision is too low. Remedy: another checkpoint, or job.precision=32."
            )
        return Pairs(images.clamp(0, 1), masks)

    def _finished(self, images: Tensor, masks: Tensor | None) -> dict[str, Tensor]:
        """Images float32 [B, 3, H, W] in [0, 1] and masks as uint8 on the CPU, resized where that is asked for."""
        if self.image_size is not None and self.image_size != images.shape[-1]:
            size = (self.image_size, self.image_size)
            images = interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
            if masks is not None:
                masks = interpolate(masks[:, None].float(), size, mode="nearest-exact")[:, 0].long()
        finished = {"image": (images * 255).round().to(torch.uint8).cpu()}
        if masks is not None:
            finished["mask"] = torch.where(masks < 0, UNKNOWN_PIXEL, masks).to(torch.uint8).cpu()
        return finished
