"""What a classifier says of the images of a split, gathered over batches and processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


def of_all_processes(mine: Any) -> list[Any]:
    """What each process has, in the order of their ranks; every process gets the same."""
    if not (torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1):
        return [mine]
    parts = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, mine)
    return parts


@dataclass
class Predictions:
    """Probabilities float32 [N, K] by finding, labels int64 [N, all findings], ids; filled batch by batch."""

    probabilities: dict[str, list[np.ndarray]] = field(default_factory=dict)
    labels: list[np.ndarray] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def add(self, probabilities: Mapping[str, Tensor], labels: Tensor, ids: list[str]) -> None:
        """Take in a batch."""
        for name, values in probabilities.items():
            self.probabilities.setdefault(name, []).append(values.float().cpu().numpy())
        self.labels.append(labels.cpu().numpy())
        self.ids += ids

    def gathered(self) -> "Gathered":
        """Those of all processes, each image once, ordered by id; every process gets the same."""
        mine = Gathered(
            {name: np.concatenate(parts) for name, parts in self.probabilities.items()},
            np.concatenate(self.labels), np.array(self.ids, dtype=object),
        )  # fmt: skip
        parts = of_all_processes(mine)
        ids = np.concatenate([part.ids for part in parts])
        _, first = np.unique(ids.astype(str), return_index=True)
        return Gathered(
            {name: np.concatenate([part.probabilities[name] for part in parts])[first] for name in mine.probabilities},
            np.concatenate([part.labels for part in parts])[first], ids[first],
        )  # fmt: skip


@dataclass(frozen=True)
class Gathered:
    """Probabilities float32 [N, K] by finding, labels int64 [N, all findings], ids [N]."""

    probabilities: dict[str, np.ndarray]
    labels: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)
