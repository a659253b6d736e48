"""What generated images are to show: a value that plans, callbacks and shards hand on without looking inside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """What each image of a batch is to show.

    Attributes:
        labels: int64 [B, F], -1 for unknown.
        mask: int64 [B, H, W], levels, -1 for unknown; None where nothing is asked for. A generator that was trained
            without masks does not look at it.
    """

    labels: Tensor
    mask: Tensor | None = None

    @classmethod
    def of(cls, given: "Condition | Mapping[str, Tensor] | Tensor") -> "Condition":
        """A condition as it is, the `labels` and `mask` of a batch, or labels alone."""
        if isinstance(given, Condition):
            return given
        return cls(given) if isinstance(given, Tensor) else cls(given["labels"], given.get("mask"))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor | Sequence[int] | slice) -> "Condition":
        """The condition of some images."""
        return Condition(self.labels[rows], None if self.mask is None else self.mask[rows])

    def to(self, device: torch.device | str) -> "Condition":
        """The same on another device."""
        return Condition(self.labels.to(device), None if self.mask is None else self.mask.to(device))


class Pairs(NamedTuple):
    """Images float32 [B, 3, H, W] in [0, 1] and their masks int64 [B, H, W], levels; None where there are none."""

    images: Tensor
    masks: Tensor | None
