# SPDX-License-Identifier: Apache-2.0
"""Autoencoder networks that fold pixels into channels: AutoencoderKL of diffusers with less work at full resolution.

This file imports nothing of this package: `export_model` puts a copy of it beside the weights, as their code.
"""

import inspect
import math

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn
from torch.nn import functional as F


class FoldedAutoencoderKL(AutoencoderKL):
    """AutoencoderKL that folds p x p pixels into channels first, and unfolds them last.

    No layer works at full resolution, which is where a plain one spends most of its time and memory. p follows from
    `in_channels` = 3 p^2. Source of the folding: Shi et al. 2016 (arXiv 1609.05158), sub-pixel convolution.
    """

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple:
        """Images [B, 3, H, W] -> posterior of latents."""
        return super().encode(F.pixel_unshuffle(x, folding(self.config)), return_dict=return_dict)

    def decode(self, z: Tensor, return_dict: bool = True, generator: None = None) -> DecoderOutput | tuple:
        """Latents -> images [B, 3, H, W]."""
        sample = F.pixel_shuffle(super().decode(z, return_dict=False)[0], folding(self.config))
        return DecoderOutput(sample=sample) if return_dict else (sample,)


class ShortcutAutoencoderKL(FoldedAutoencoderKL):
    """FoldedAutoencoderKL whose convolutions learn what a linear code of each cell leaves over.

    A linear map from a cell's pixels to its moments, and one back, are added to encoder and decoder. They start as the
    mean colour of the cell, and the convolutions start small: from the first step on there is a blurred image to
    improve, where a plain network spends its first thousand steps on finding the colours.

    Source: residual autoencoding of Chen et al. 2024 (arXiv 2410.10733). Differs from the paper: the shortcuts are
    learnt, and one spans the whole network instead of each stage.
    """

    def __init__(self, linear_shortcut: bool = True, **config: object):
        super().__init__(**config)
        self.register_to_config(linear_shortcut=True)
        fold, latents = folding(self.config), self.config.latent_channels
        side = downsampling(self.config) // fold  # of a cell, in folded pixels
        self.shortcut_in = nn.Conv2d(3 * fold**2, 2 * latents, side, stride=side)
        self.shortcut_out = nn.ConvTranspose2d(latents, 3 * fold**2, side, stride=side)
        with torch.no_grad():
            for part in (self.shortcut_in, self.shortcut_out):
                part.weight.zero_()
                part.bias.zero_()
            for colour in range(min(3, latents)):
                folded = slice(colour * fold**2, (colour + 1) * fold**2)
                self.shortcut_in.weight[colour, folded] = 2 / (side * fold) ** 2
                self.shortcut_out.weight[colour, folded] = 0.5
            for convolution in (self.encoder.conv_out, self.decoder.conv_out):
                convolution.weight.mul_(0.1)

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple:
        """Images [B, 3, H, W] -> posterior of latents."""
        folded = F.pixel_unshuffle(x, folding(self.config))
        moments = self.quant_conv(self.encoder(folded)) + self.shortcut_in(folded)
        posterior = DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True, generator: None = None) -> DecoderOutput | tuple:
        """Latents -> images [B, 3, H, W]."""
        folded = self.decoder(self.post_quant_conv(z)) + self.shortcut_out(z)
        sample = F.pixel_shuffle(folded, folding(self.config))
        return DecoderOutput(sample=sample) if return_dict else (sample,)


def _with_the_plain_ones() -> inspect.Signature:
    """By which `from_pretrained` knows what a config.json may hold: AutoencoderKL's, and `linear_shortcut`."""
    plain = inspect.signature(AutoencoderKL.__init__)
    more = inspect.Parameter("linear_shortcut", inspect.Parameter.KEYWORD_ONLY, default=True)
    return plain.replace(parameters=[*plain.parameters.values(), more])


ShortcutAutoencoderKL.__init__.__signature__ = _with_the_plain_ones()


def folding(config: object) -> int:
    """Pixels of the side of a fold, 1 for a plain AutoencoderKL; from the config it was built with."""
    return math.isqrt(config.in_channels // 3)


def downsampling(config: object) -> int:
    """Pixels of the side of a latent cell; from the config that an AutoencoderKL was built with."""
    return folding(config) * 2 ** (len(config.block_out_channels) - 1)
