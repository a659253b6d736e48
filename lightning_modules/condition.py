"""What generated images are to show: a value that plans, callbacks and shards hand on without looking inside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """What each image of a batch is to show.

    Attributes:
        labels: int64 [B, F], -1 for unknown.
    """

    labels: Tensor

    @classmethod
    def of(cls, given: "Condition | Mapping[str, Tensor] | Tensor") -> "Condition":
        """A condition as it is, the `labels` of a batch, or labels alone."""
        if isinstance(given, Condition):
            return given
        return cls(given if isinstance(given, Tensor) else given["labels"])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor | Sequence[int] | slice) -> "Condition":
        """The condition of some images."""
        return Condition(self.labels[rows])

    def to(self, device: torch.device | str) -> "Condition":
        """The same on another device."""
        return Condition(self.labels.to(device))
