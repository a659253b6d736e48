"""Mean and standard deviation of latents over many images, streamed in float64 and without drawing any."""

import torch
from torch import Tensor

from datamodules.errors import UserError


class LatentStatistics:
    """Running sums over posteriors N(mean, std^2), a channel each: Var[z] = E[mean^2 + std^2] - E[mean]^2."""

    def __init__(self, channels: int):
        self.num_images = 0
        self._sums = torch.zeros(3, channels, dtype=torch.float64)  # of cells: 1, mean, mean^2 + std^2

    def add(self, mean: Tensor, std: Tensor) -> None:
        """Take in the posteriors of a batch, [B, C, h, w] each."""
        mean, std = mean.cpu().double(), std.cpu().double()
        self.num_images += len(mean)
        self._sums[0] += mean.numel() // mean.shape[1]
        self._sums[1] += mean.sum((0, 2, 3))
        self._sums[2] += (mean.square() + std.square()).sum((0, 2, 3))

    def add_ranks(self, device: torch.device) -> None:
        """Add the sums of all processes of a distributed run, over `device`."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        flat = torch.cat([self._sums.flatten(), torch.tensor([self.num_images], dtype=torch.float64)]).to(device)
        torch.distributed.all_reduce(flat)
        self._sums = flat[:-1].cpu().view_as(self._sums)
        self.num_images = int(flat[-1])

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel, float64 [C].

        Raises:
            ValueError: nothing was added.
        """
        if not self.num_images:
            raise UserError("no image to measure the latents of: the batches are empty.")
        mean = self._sums[1] / self._sums[0]
        return mean, (self._sums[2] / self._sums[0] - mean.square()).sqrt()
