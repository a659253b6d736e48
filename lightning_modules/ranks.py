"""What the ranks of a run do together, so that they train as one with the batch of all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class RankSlice:
    """The part that this rank has of a batch that ranks share: rows rank * B to (rank + 1) * B of num_ranks * B."""

    rank: int = 0
    num_ranks: int = 1

    @classmethod
    def of_module(cls, module: Any) -> "RankSlice":
        """The part of the Trainer that a LightningModule is in; all of it where it is in none."""
        trainer = module._trainer
        return cls() if trainer is None else cls(trainer.global_rank, trainer.world_size)

    def of(self, draw: Callable[[int], Tensor], num: int) -> Tensor:
        """The `num` rows of this part, of what `draw` draws for a number of rows."""
        return draw(num * self.num_ranks)[self.rank * num : (self.rank + 1) * num]


def mean_over_ranks(module: Any, tensor: Tensor) -> Tensor:
    """Mean of a tensor over the ranks of the Trainer that a LightningModule is in; without a gradient."""
    if RankSlice.of_module(module).num_ranks == 1:
        return tensor
    return module.trainer.strategy.reduce(tensor.detach().clone(), reduce_op="mean")


@torch.no_grad()
def share_running_statistics(module: Any, network: nn.Module) -> None:
    """Replace the running means and variances of batch normalisation by their means over the ranks.

    A strategy that keeps a copy of the network on each rank does so, or takes those of the first; others leave every
    rank with its own, and what is measured and saved would be those of one.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]
    running = [tensor for layer in layers for tensor in (layer.running_mean, layer.running_var)]
    if not running or RankSlice.of_module(module).num_ranks == 1:
        return
    shared = mean_over_ranks(module, torch.cat([tensor.flatten() for tensor in running]))
    for tensor, part in zip(running, shared.split([tensor.numel() for tensor in running]), strict=True):
        tensor.copy_(part.view_as(tensor))
