"""What generated images are to show: a value that plans, callbacks and shards hand on without looking inside."""

from collections.abc import Callable, Mapping, Sequence
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
        cluster: int64 [B], -1 for unknown; None where the generator, if it knows clusters, is to draw them.
    """

    labels: Tensor
    mask: Tensor | None = None
    cluster: Tensor | None = None

    @classmethod
    def of(cls, given: "Condition | Mapping[str, Tensor] | Tensor") -> "Condition":
        """A condition as it is, the `labels`, `mask` and `cluster` of a batch, or labels alone."""
        if isinstance(given, Condition):
            return given
        return (
            cls(given) if isinstance(given, Tensor) else cls(given["labels"], given.get("mask"), given.get("cluster"))
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor | Sequence[int] | slice) -> "Condition":
        """The condition of some images."""
        return self._each(lambda part: part[rows])

    def to(self, device: torch.device | str) -> "Condition":
        """The same on another device."""
        return self._each(lambda part: part.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Condition":
        """The condition whose parts, those that there are, went through `change`."""
        return Condition(*(None if part is None else change(part) for part in (self.labels, self.mask, self.cluster)))


class Pairs(NamedTuple):
    """Images float32 [B, 3, H, W] in [0, 1] and their masks int64 [B, H, W], levels; None where there are none."""

    images: Tensor
    masks: Tensor | None
