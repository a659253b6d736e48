"""The annotator: what one classifier says of generated images, or the mean of what several say.

Letters: B batch, S side of the images in pixels, K levels of a finding.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules.errors import UserError
from lightning_modules.checkpoint import weights_fingerprint
from lightning_modules.classifier import Classifier


class Annotator(L.LightningModule):
    """Tells findings; each is the mean over those members that tell it. Nothing is learnt: it stays in eval mode.

    What an image gets depends on that image alone, but for the rounding of sums that are ordered by the batch's size.

    Args:
        members: classifiers whose `config` says at which `data.image_size` they were trained.
        names: every finding there is; those that are told are given in this order.

    Raises:
        ValueError: no member; one that tells what is not in `names`, or other levels of a finding than another tells;
            one without a configuration.
    """

    def __init__(self, members: Sequence[Classifier], names: Sequence[str]) -> None:
        super().__init__()
        if not members:
            raise UserError("there is no annotator: name one run of classifier_train at least.")
        self.members = nn.ModuleList(members)
        self.image_sizes = [_image_size(member, place) for place, member in enumerate(members)]
        told = _levels([member.findings for member in members], names)
        self.findings: dict[str, int] = {name: told[name] for name in names if name in told}
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Annotator":
        """Stay in eval mode whatever is asked."""
        return super().train(False)

    def fingerprints(self) -> list[str]:
        """Of each member hexadecimal digits over the weights in use."""
        return [weights_fingerprint(member.measured) for member in self.members]

    @torch.no_grad()
    def annotate(self, images: Tensor) -> dict[str, Tensor]:
        """P(level) of each finding, float32 [B, K], of images float32 [B, 3, S, S] in [0, 1].

        Images are resized, antialiased, to the size that each member was trained at.

        Raises:
            ValueError: images of another shape, type or range.
        """
        members = zip(self.members, self.image_sizes, strict=True)
        said = [member.probabilities(at_size(images, size)) for member, size in members]
        return {name: torch.stack([one[name] for one in said if name in one]).mean(dim=0) for name in self.findings}

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        """Probabilities float32 [B, K] by finding, with the ids of the batch."""
        return {"id": batch["id"], "probabilities": self.annotate(batch["image"])}


def at_size(images: Tensor, size: int) -> Tensor:
    """Images float [B, 3, S, S] in [0, 1] at another size, still in [0, 1]; the same where they have it."""
    if images.ndim != 4 or images.shape[-2:] == (size, size):
        return images
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True).clamp(0, 1)


def _image_size(member: Classifier, place: int) -> int:
    size = ((member.config or {}).get("data") or {}).get("image_size")
    if type(size) is not int or size < 1:
        raise UserError(
            f"annotator {place} does not say at which size it was trained: data.image_size of its configuration is "
            f"{size!r:.100}, and must be a number of pixels. Remedy: a classifier that classifier_train wrote."
        )
    return size


def _levels(findings: Sequence[Mapping[str, int]], names: Sequence[str]) -> dict[str, int]:
    """Levels of every finding that a member tells, checked."""
    told: dict[str, int] = {}
    for place, mine in enumerate(findings):
        for name, levels in mine.items():
            if name not in names:
                raise UserError(f"annotator {place} tells {name!r}, which is none of: {', '.join(names)}.")
            if told.setdefault(name, levels) != levels:
                raise UserError(f"annotator {place} tells {levels} levels of {name}, another tells {told[name]}.")
    return told
