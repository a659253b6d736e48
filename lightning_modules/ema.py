"""Averaged weights of one network, kept by the module that trains it."""

import copy

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from datamodules.errors import UserError


def local_part(tensor: Tensor) -> Tensor:
    """The share of a tensor that this process keeps: under FSDP2 and under ZeRO's third stage, else all of it."""
    if isinstance(tensor, DTensor):
        return tensor.to_local()
    return getattr(tensor, "ds_tensor", tensor)


class AveragedNetwork(nn.Module):
    """A second copy of a network that holds the exponential moving average of its trainable weights.

    average <- d average + (1 - d) weights, with d = min(decay, (1 + n) / (10 + n)) at the n-th update, n from 0,
    so that the random start is soon forgotten (Tan & Le 2019's code and many after it).

    Only trainable floating-point parameters are averaged; frozen ones and buffers, integer ones included, are copied.
    Being a copy, `network` is evaluated as it is: no swap, and nothing that a failure could leave swapped. It is
    always in eval mode and never receives gradients. Its tensors are in the state_dict under `network.`.

    Raises:
        ValueError: decay outside [0, 1).
    """

    num_updates: Tensor

    def __init__(self, network: nn.Module, decay: float = 0.9999):
        super().__init__()
        if not 0 <= decay < 1:
            raise UserError(f"ema_decay={decay} must be in [0, 1); 0 keeps the raw weights.")
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self._count: int | None = None  # num_updates on the host, so that an update does not wait for the device

    def train(self, mode: bool = True) -> "AveragedNetwork":
        """Stay in eval mode."""
        return super().train(False)

    def decay_at(self, num_updates: int) -> float:
        """Decay of the update that follows `num_updates` earlier ones."""
        return min(self.decay, (1 + num_updates) / (10 + num_updates))

    def restart(self) -> None:
        """Count updates from 0 again: the average goes on from other weights, which are to be forgotten as soon."""
        self.num_updates.zero_()
        self._count = None

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights of `network` after an optimiser step."""
        if self._count is None:
            self._count = int(self.num_updates)
        averages, weights = [], []
        for average, weight in zip(self.network.parameters(), network.parameters(), strict=True):
            if weight.requires_grad and weight.is_floating_point():
                averages.append(local_part(average))
                weights.append(local_part(weight))
            else:
                local_part(average).copy_(local_part(weight))
        if averages:
            torch._foreach_lerp_(averages, weights, 1 - self.decay_at(self._count))
        for average, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            average.copy_(buffer)
        self._count += 1
        self.num_updates.fill_(self._count)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._count = None  # read again from the restored buffer
