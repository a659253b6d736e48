# SPDX-License-Identifier: Apache-2.0
"""A small classifier of noised latents, by whose gradient sampling is guided towards the labels.

Source: Dhariwal & Nichol 2021 (arXiv 2105.05233), section 4.1. Differs from the paper: a finding each instead of one
class, findings that are unknown left out; no attention; it is trained along with the denoiser.

Legend:
    B batch    F findings    R levels of all findings together    C, h, w latent channels and cells

This file imports nothing of this package: `export_model` puts a copy of it beside the weights, as their code.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

UNKNOWN = -1
TIME_FEATURES, CELLS, GROUPS = 64, 4, 8


class LatentClassifier(ModelMixin, ConfigMixin):
    """x_t and t -> logits of the levels of each finding.

    Args:
        latent_channels: channels C of the latents.
        num_levels: levels of each finding, in the order of the label columns.
        channels: width of each level of the network, finest first, each divisible by 8; the next has half the cells.
        dropout: before the last layer, fraction.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int,
        num_levels: Sequence[int],
        channels: Sequence[int] = (32, 64, 128),
        dropout: float = 0.0,
    ):
        super().__init__()
        self.num_levels = tuple(num_levels)
        self.stem = nn.Conv2d(latent_channels, channels[0], 3, padding=1)
        self.time = nn.Sequential(nn.Linear(TIME_FEATURES, channels[-1]), nn.SiLU())
        pairs = zip((channels[0], *channels), channels, strict=False)
        self.blocks = nn.ModuleList(Block(before, after, channels[-1]) for before, after in pairs)
        self.norm = nn.GroupNorm(GROUPS, channels[-1])
        self.drop = nn.Dropout(dropout)
        self.last = nn.Linear(channels[-1] * CELLS**2, sum(self.num_levels))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t [B, C, h, w], t float [B] in [0, 1000) -> [B, R]."""
        half = TIME_FEATURES // 2
        angles = t.float()[:, None] * torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
        time = self.time(torch.cat([angles.cos(), angles.sin()], dim=1).to(x_t.dtype))
        x = self.stem(x_t)
        for place, block in enumerate(self.blocks):
            x = block(F.avg_pool2d(x, 2) if place and min(x.shape[-2:]) >= 2 * CELLS else x, time)
        x = F.adaptive_avg_pool2d(F.silu(self.norm(x)), CELLS)  # places are kept: a disc lies left or right
        return self.last(self.drop(x.flatten(1)))

    def log_likelihood(self, x_t: Tensor, t: Tensor, labels: Tensor, weights: Sequence[float] | None = None) -> Tensor:
        """Log of the probability of all known labels [B, F] together, as if they were independent, float32 [B].

        Args:
            weights: of each finding's part, F numbers; None for 1.
        """
        parts = self(x_t, t).float().split(self.num_levels, dim=1)
        total = torch.zeros(len(x_t), device=x_t.device)
        for column, logits in enumerate(parts):
            wanted = labels[:, column]
            found = logits.log_softmax(1).gather(1, wanted.clamp(min=0)[:, None]).squeeze(1)
            weight = 1.0 if weights is None else weights[column]
            total = total + weight * torch.where(wanted == UNKNOWN, 0.0, found)
        return total

    def gradient(self, x_t: Tensor, t: Tensor, labels: Tensor, weights: Sequence[float] | None = None) -> Tensor:
        """Of `log_likelihood` by x_t, float32 [B, C, h, w]; also where gradients are switched off."""
        with torch.inference_mode(False), torch.enable_grad():
            x_t, t, labels = x_t.detach().float().clone().requires_grad_(), t.clone(), labels.clone()
            found = self.log_likelihood(x_t.to(self.stem.weight.dtype), t, labels, weights)
            return torch.autograd.grad(found.sum(), x_t)[0]


class Block(nn.Module):
    """Two convolutions with the time between them, and a shortcut."""

    def __init__(self, before: int, after: int, time: int):
        super().__init__()
        self.norm_1, self.norm_2 = nn.GroupNorm(GROUPS, before), nn.GroupNorm(GROUPS, after)
        self.conv_1, self.conv_2 = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        self.time = nn.Linear(time, 2 * after)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x [B, before, h, w], time [B, time] -> [B, after, h, w]."""
        shift, scale = self.time(time)[:, :, None, None].chunk(2, dim=1)
        found = self.norm_2(self.conv_1(F.silu(self.norm_1(x)))) * (1 + scale) + shift
        return self.shortcut(x) + self.conv_2(F.silu(found))
