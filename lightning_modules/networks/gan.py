"""Generator and discriminator of a GAN that learns from few images.

Source: FastGAN, Liu et al. 2021 (arXiv 2101.04775): gated blocks, skip-layer excitation, a discriminator that also
reconstructs. Differs from the paper: a generator's features are normalised over the channels of each pixel (Karras et
al. 2018, arXiv 1710.10196, section 4.2) and not over the batch, and the discriminator has spectral normalisation alone,
so that an image depends on no other of its batch; one decoder, whose error is L1 and not perceptual; labels.

Legend:
    B batch    Z length of the noise    D width of a conditioning vector    C channels of an image    S pixels of a side
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from datamodules.errors import UserError

FIRST = 4  # pixels of the side of the generator's first feature map
LAST = 8  # and of the discriminator's last
RECONSTRUCTED = 32  # pixels of the side of what the discriminator reconstructs, at most
EXCITED = 3  # levels that a skip-layer excitation goes over: from 4 pixels to 32


def check_side(image_size: int) -> int:
    """The side itself, if it is 16 pixels doubled some times.

    Raises:
        ValueError: it is not; names the nearest.
    """
    if image_size < 16 or image_size & (image_size - 1):
        lower = max(16, 1 << (image_size.bit_length() - 1))
        raise UserError(
            f"image_size={image_size}: the GAN's networks double the side from {FIRST} pixels on, and make 16, 32, 64 "
            f"and so on. Remedy: data.image_size={lower} or {2 * lower}."
        )
    return image_size


class PixelNorm(nn.Module):
    """Features [B, C, ...] scaled to a mean square of 1 over the channels."""

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def _gated(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, 2 * outputs, 3, padding=1), PixelNorm(), nn.GLU(dim=1))


class UpBlock(nn.Module):
    """Features to twice the side, by nearest neighbours and a gated convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gated = _gated(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, S, S] -> [B, outputs, 2 S, 2 S]."""
        return self.gated(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class SkipExcitation(nn.Module):
    """Channels of large features weighed by small ones (section 3.1 of the paper)."""

    def __init__(self, small: int, large: int) -> None:
        super().__init__()
        self.weights = nn.Sequential(
            nn.AdaptiveAvgPool2d(FIRST), nn.Conv2d(small, large, FIRST), nn.SiLU(), nn.Conv2d(large, large, 1)
        )

    def forward(self, small: Tensor, large: Tensor) -> Tensor:
        """[B, small, s, s] and [B, large, S, S] -> [B, large, S, S]."""
        return large * self.weights(small).sigmoid()


class Generator(nn.Module):
    """Noise and a conditioning vector to an image in [-1, 1].

    Args:
        image_size: S, 16 or more and a power of 2.
        num_channels: C.
        cond_dim: D.
        noise_dim: Z.
        width: channels of the largest features, doubled at each halving of the side.
        max_width: up to so many.

    Raises:
        ValueError: another image_size.
    """

    def __init__(
        self,
        image_size: int,
        num_channels: int,
        cond_dim: int,
        noise_dim: int = 128,
        width: int = 16,
        max_width: int = 128,
    ) -> None:
        super().__init__()
        self.image_size, self.num_channels, self.noise_dim = check_side(image_size), num_channels, noise_dim
        self.cond_dim = cond_dim
        levels = (image_size // FIRST).bit_length()
        widths = [min(width << level, max_width) for level in reversed(range(levels))]
        self.first = nn.Sequential(
            PixelNorm(), nn.Linear(noise_dim + cond_dim, 2 * widths[0] * FIRST**2),
            nn.Unflatten(1, (2 * widths[0], FIRST, FIRST)), PixelNorm(), nn.GLU(dim=1),
        )  # fmt: skip
        self.blocks = nn.ModuleList(UpBlock(*widths[level : level + 2]) for level in range(levels - 1))
        self.excitations = nn.ModuleList(
            SkipExcitation(widths[level], widths[level + EXCITED]) for level in range(levels - EXCITED)
        )
        self.last = nn.Conv2d(widths[-1], num_channels, 3, padding=1)

    def forward(self, noise: Tensor, cond: Tensor) -> Tensor:
        """Standard normal noise [B, Z] and cond [B, D] -> images [B, C, S, S] in [-1, 1]."""
        features = [self.first(torch.cat([noise, cond], dim=1))]
        for level, block in enumerate(self.blocks, start=1):
            x = block(features[-1])
            if level >= EXCITED:
                x = self.excitations[level - EXCITED](features[level - EXCITED], x)
            features.append(x)
        return self.last(features[-1]).tanh()


class DownBlock(nn.Module):
    """Features to half the side: a convolutional and a pooled way, averaged."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolved = nn.Sequential(
            spectral_norm(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)), nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(outputs, outputs, 3, padding=1)), nn.LeakyReLU(0.2),
        )  # fmt: skip
        self.pooled = nn.Sequential(
            nn.AvgPool2d(2), spectral_norm(nn.Conv2d(inputs, outputs, 1)), nn.LeakyReLU(0.2)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, S, S] -> [B, outputs, S / 2, S / 2]."""
        return (self.convolved(x) + self.pooled(x)) / 2


class Discriminator(nn.Module):
    """Images and conditioning vectors to logits of patches; its features are decoded to the image, shrunk.

    Labels reach the logits by a product with the features (Miyato & Koyama 2018, arXiv 1802.05637, eq. 3); their vector
    has length 1 there, or it would grow and undo the spectral normalisation.

    Args:
        image_size, num_channels, cond_dim: as the generator's.
        width: channels of the largest features, doubled at each halving of the side.
        max_width: up to so many.

    Raises:
        ValueError: another image_size.
    """

    def __init__(
        self, image_size: int, num_channels: int, cond_dim: int, width: int = 32, max_width: int = 256
    ) -> None:
        super().__init__()
        self.image_size, self.num_channels = check_side(image_size), num_channels
        halvings = (image_size // LAST).bit_length() - 1
        widths = [min(width << level, max_width) for level in range(halvings)]
        self.first = nn.Sequential(
            spectral_norm(nn.Conv2d(num_channels, widths[0], 4, stride=2, padding=1)), nn.LeakyReLU(0.2)
        )
        self.blocks = nn.ModuleList(DownBlock(*widths[level : level + 2]) for level in range(halvings - 1))
        self.patches = nn.Sequential(
            spectral_norm(nn.Conv2d(widths[-1], widths[-1], 1)), nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(widths[-1], 1, 4)),
        )  # fmt: skip
        self.projection = spectral_norm(nn.Linear(cond_dim, widths[-1], bias=False))
        doublings = (min(RECONSTRUCTED, image_size) // LAST).bit_length() - 1
        decoded = [widths[-1], *(max(widths[-1] >> level, 16) for level in range(1, doublings + 1))]
        self.decoder = nn.Sequential(
            *(UpBlock(*decoded[level : level + 2]) for level in range(doublings)),
            nn.Conv2d(decoded[-1], num_channels, 3, padding=1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, C, S, S] and cond [B, D] -> logits [B, 1, 5, 5], positive for real, and features [B, W, 8, 8]."""
        features = self.first(x)
        for block in self.blocks:
            features = block(features)
        product = (self.projection(F.normalize(cond)) * features.mean((2, 3))).sum(1)
        return self.patches(features) + product[:, None, None, None], features

    def reconstruction_error(self, features: Tensor, x: Tensor) -> Tensor:
        """Mean absolute error of images [B, C, S, S], shrunk to 32 pixels at most, as decoded from their features."""
        decoded = self.decoder(features)
        return F.l1_loss(decoded, F.adaptive_avg_pool2d(x, decoded.shape[-2:]))
