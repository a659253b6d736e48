"""Patch discriminator: one logit for each overlapping patch of an image."""

from torch import Tensor, nn

from datamodules.errors import UserError


class PatchDiscriminator(nn.Module):
    """Convolutional discriminator of patches; three downsamplings see 70 x 70 pixels, two 34 x 34.

    Source: Isola et al. 2017 (arXiv 1611.07004), section 3.2.2 and appendix 6.1.2.
    Differs from the paper: group normalisation, so that a logit depends on its own image alone.

    Args:
        channels: width after the first convolution, doubled at each level up to 8 times.
        num_downsamplings: convolutions of stride 2.
        norm_groups: groups of the normalisations, divides `channels`.
    """

    def __init__(self, in_channels: int = 3, channels: int = 64, num_downsamplings: int = 3, norm_groups: int = 16):
        super().__init__()
        if channels % norm_groups:
            raise UserError(f"channels={channels} is not divisible by norm_groups={norm_groups}.")
        self.smallest_image = 2 ** (num_downsamplings + 2)
        widths = [channels * min(2**level, 8) for level in range(num_downsamplings + 1)]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level in range(1, num_downsamplings + 1):
            stride = 2 if level < num_downsamplings else 1
            layers += [
                nn.Conv2d(widths[level - 1], widths[level], 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(norm_groups, widths[level]),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] [B, 3, H, W] -> logits [B, 1, H', W'], positive for real.

        Raises:
            ValueError: an image too small to leave a patch.
        """
        if min(images.shape[-2:]) < self.smallest_image:
            raise UserError(
                f"image of {tuple(images.shape[-2:])} pixels is smaller than the {self.smallest_image} that this "
                "discriminator's num_downsamplings needs: take fewer, or larger images."
            )
        return self.layers(images)
