"""Sharing work over processes: item i belongs to rank i % R, whatever the number R of data-parallel ranks."""

from dataclasses import dataclass

import torch
from lightning.pytorch import Trainer
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """Place of this process among those that share the work.

    Every rank gets a share of the same length, the surplus being repetitions that are dropped when the shares are put
    together: under sharded strategies a forward pass is a collective, so all ranks must make equally many.

    Attributes:
        rank: from 0 to num_ranks - 1.
        num_ranks: processes that see different data.
        num_copies: processes that see the same data (more than 1 under tensor parallelism).
        device: where collectives take their tensors.
    """

    rank: int = 0
    num_ranks: int = 1
    num_copies: int = 1
    device: torch.device = torch.device("cpu")

    @classmethod
    def of(cls, trainer: Trainer) -> "Ranks":
        """Read the place off a trainer."""
        place = trainer.distributed_sampler_kwargs or {"num_replicas": 1, "rank": 0}
        num_ranks = place["num_replicas"]
        return cls(place["rank"], num_ranks, max(1, trainer.world_size // num_ranks), trainer.strategy.root_device)

    def share(self, num_items: int) -> list[int]:
        """Return this rank's items, ceil(num_items / num_ranks) of them, the last item standing in for any surplus."""
        return [min(item, num_items - 1) for item in self._positions(num_items)]

    def genuine(self, num_items: int) -> Tensor:
        """Tell which of the share are not surplus, bool [share]."""
        return torch.tensor([item < num_items for item in self._positions(num_items)])

    def gather(self, rows: Tensor, num_items: int) -> Tensor:
        """Put the shares [share, ...] of all ranks together in the order of the items, [num_items, ...] on the CPU."""
        if self.num_ranks == 1:
            return rows[:num_items].cpu()
        rows = rows.to(self.device).contiguous()
        shares = [torch.empty_like(rows) for _ in range(self.num_ranks * self.num_copies)]
        torch.distributed.all_gather(shares, rows)
        return torch.stack(shares[:: self.num_copies], dim=1).flatten(0, 1)[:num_items].cpu()

    def add_up(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks, in place."""
        if self.num_ranks == 1:
            return
        for tensor in tensors:
            total = tensor.to(self.device, copy=True)
            torch.distributed.all_reduce(total)
            tensor.copy_(total / self.num_copies)

    def _positions(self, num_items: int) -> list[int]:
        return [self.rank + k * self.num_ranks for k in range(-(-num_items // self.num_ranks))]
