# SPDX-License-Identifier: Apache-2.0
"""Diffusion transformer, written from the paper.

Legend:
    B batch    C latent channels    h, w latent cells    p patch_size    N = (h / p)(w / p) tokens    E hidden width

This file imports nothing of this package: `export_model` puts a copy of it beside the weights, as their code.
"""

import math

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

TIME_FEATURES = 256


class DiT(ModelMixin, ConfigMixin):
    """Transformer denoiser with adaLN-Zero blocks.

    Source: Peebles & Xie 2023 (arXiv 2212.09748), section 3.2. Differs from the paper: RMS-normalised queries and keys
    (Dehghani et al. 2023, arXiv 2302.05442) and SwiGLU (Shazeer 2020, arXiv 2002.05202) of the same parameter count.

    Args:
        latent_channels: channels C of the latents.
        latent_size: height and width of the latents in cells, divisible by `patch_size`.
        cond_dim: width D of the conditioning vector.
        hidden: width E of a token, divisible by 4 and by `heads`.
        depth: number of blocks.
        map_channels: further channels M of the input, which are seen and not predicted.
        dropout: after attention and MLP, fraction.

    Raises:
        ValueError: sizes that do not fit together.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int,
        latent_size: int,
        cond_dim: int,
        patch_size: int = 2,
        hidden: int = 384,
        depth: int = 12,
        heads: int = 6,
        dropout: float = 0.0,
        map_channels: int = 0,
    ):
        super().__init__()
        if latent_size % patch_size:
            raise ValueError(f"latent_size={latent_size} is not divisible by patch_size={patch_size}.")
        if hidden % heads or hidden % 4:
            raise ValueError(f"hidden={hidden} must be divisible by heads={heads} and by 4 (two sines, two cosines).")
        self.latent_channels, self.latent_size, self.cond_dim = latent_channels, latent_size, cond_dim
        self.patch_size, self.map_channels = patch_size, map_channels
        self.patchify = nn.Conv2d(latent_channels + map_channels, hidden, patch_size, stride=patch_size)
        self.register_buffer("positions", sincos_positions(latent_size // patch_size, hidden), persistent=False)
        self.time_mlp = nn.Sequential(nn.Linear(TIME_FEATURES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.cond_proj = nn.Linear(cond_dim, hidden)
        self.blocks = nn.ModuleList(Block(hidden, heads, dropout) for _ in range(depth))
        self.final_modulation = nn.Linear(hidden, 2 * hidden)
        self.final_norm = nn.LayerNorm(hidden, eps=1e-6, elementwise_affine=False)
        self.final = nn.Linear(hidden, patch_size**2 * latent_channels)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patchify.weight.view(self.patchify.out_channels, -1))
        nn.init.zeros_(self.patchify.bias)
        for layer in (self.time_mlp[0], self.time_mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        # Zero: every block starts as the identity and the output as 0 (section 3.2, "adaLN-Zero").
        for layer in (self.final_modulation, self.final, *(block.modulation for block in self.blocks)):
            nn.init.zeros_(layer.weight)

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """x_t [B, C + M, h, w], t float [B] in [0, 1000), cond [B, D] -> [B, C, h, w]."""
        x = self.patchify(x_t).flatten(2).transpose(1, 2) + self.positions.to(x_t.dtype)  # [B, N, E]
        c = F.silu(self.time_mlp(time_features(t).to(x_t.dtype)) + self.cond_proj(cond))  # [B, E]
        for block in self.blocks:
            x = block(x, c)  # [B, N, E]
        shift, scale = self.final_modulation(c).unsqueeze(1).chunk(2, dim=-1)  # [B, 1, E] each
        x = self.final(self.final_norm(x) * (1 + scale) + shift)  # [B, N, p p C]
        p, cells = self.patch_size, self.latent_size // self.patch_size
        x = x.view(-1, cells, cells, p, p, self.latent_channels).permute(0, 5, 1, 3, 2, 4)  # [B, C, h/p, p, w/p, p]
        return x.reshape(-1, self.latent_channels, self.latent_size, self.latent_size)


class Block(nn.Module):
    """Attention and MLP, each modulated and gated by the conditioning (adaLN-Zero)."""

    def __init__(self, hidden: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads, self.head_dim = heads, hidden // heads
        self.norm_attention = nn.LayerNorm(hidden, eps=1e-6, elementwise_affine=False)
        self.norm_mlp = nn.LayerNorm(hidden, eps=1e-6, elementwise_affine=False)
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.norm_q = nn.RMSNorm(self.head_dim, eps=1e-6)
        self.norm_k = nn.RMSNorm(self.head_dim, eps=1e-6)
        self.attention_out = nn.Linear(hidden, hidden)
        inner = 8 * math.ceil(hidden / 3)  # 2/3 of 4 E, so that three matrices weigh what the paper's two do
        self.mlp_in = nn.Linear(hidden, 2 * inner)
        self.mlp_out = nn.Linear(inner, hidden)
        self.modulation = nn.Linear(hidden, 6 * hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x [B, N, E], c [B, E] -> [B, N, E]."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(c).unsqueeze(1).chunk(6, dim=-1)
        x = x + gate_a * self.dropout(self.attention(self.norm_attention(x) * (1 + scale_a) + shift_a))
        up, gate = self.mlp_in(self.norm_mlp(x) * (1 + scale_m) + shift_m).chunk(2, dim=-1)
        return x + gate_m * self.dropout(self.mlp_out(up * F.silu(gate)))

    def attention(self, x: Tensor) -> Tensor:
        """Multi-head self-attention over all tokens, [B, N, E] -> [B, N, E]."""
        num, tokens, hidden = x.shape
        q, k, v = self.qkv(x).view(num, tokens, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k = self.norm_q(q).to(v.dtype), self.norm_k(k).to(v.dtype)
        out = F.scaled_dot_product_attention(q, k, v)  # [B, heads, N, E / heads]
        return self.attention_out(out.transpose(1, 2).reshape(num, tokens, hidden))


def time_features(t: Tensor) -> Tensor:
    """Sines and cosines of t [B] at frequencies 1 .. 1/10000 per timestep, float32 [B, TIME_FEATURES]."""
    half = TIME_FEATURES // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def sincos_positions(cells: int, hidden: int) -> Tensor:
    """Fixed 2-D sine-cosine positions [1, cells * cells, hidden]: half of the width for rows, half for columns."""
    quarter = hidden // 4
    frequencies = 10_000 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(cells, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=-1)  # [cells, hidden / 2]
    rows = line[:, None].expand(cells, cells, -1)
    columns = line[None].expand(cells, cells, -1)
    return torch.cat([rows, columns], dim=-1).reshape(1, cells * cells, hidden).float()
