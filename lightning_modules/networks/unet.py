"""U-Net denoiser: diffusers' UNet2DModel under the denoiser contract."""

from collections.abc import Sequence

from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from datamodules.errors import UserError


class UNet(nn.Module):
    """Convolutional denoiser with self-attention at chosen levels; the conditioning is added to the time embedding.

    Source: Ho et al. 2020 (arXiv 2006.11239), with the scale-and-shift of Nichol & Dhariwal 2021 (arXiv 2102.09672).

    Args:
        latent_channels: channels C of the latents.
        latent_size: height and width of the latents in cells; divisible by 2 ** (len(channels) - 1).
        cond_dim: width D of the conditioning vector.
        channels: width of each level, finest first; each divisible by `norm_groups`.
        layers_per_block: residual blocks of each level.
        attention_levels: levels that carry self-attention, 0 the finest; the bottom of the U always does.
        head_dim: width of an attention head; divides the width of each level with attention.
        map_channels: further channels M of the input, which are seen and not predicted.
        dropout: in the residual blocks, fraction.
        zero_init: every residual branch starts as 0, as Ho et al. have it: blocks start as the identity, and larger
            learning rates are stable.

    Raises:
        ValueError: sizes that do not fit together, each named.
    """

    def __init__(
        self,
        latent_channels: int,
        latent_size: int,
        cond_dim: int,
        channels: Sequence[int] = (128, 256, 256),
        layers_per_block: int = 2,
        attention_levels: Sequence[int] = (1, 2),
        head_dim: int = 32,
        norm_groups: int = 32,
        map_channels: int = 0,
        dropout: float = 0.0,
        zero_init: bool = False,
    ):
        super().__init__()
        channels, attention_levels = tuple(channels), tuple(attention_levels)
        _check_sizes(latent_size, channels, attention_levels, head_dim, norm_groups)
        self.latent_channels, self.latent_size, self.cond_dim = latent_channels, latent_size, cond_dim
        self.map_channels = map_channels
        down = tuple("AttnDownBlock2D" if i in attention_levels else "DownBlock2D" for i in range(len(channels)))
        up = tuple("AttnUpBlock2D" if i in attention_levels else "UpBlock2D" for i in reversed(range(len(channels))))
        self.cond_proj = nn.Linear(cond_dim, 4 * channels[0])
        self.unet = UNet2DModel(
            sample_size=latent_size,
            in_channels=latent_channels + map_channels,
            out_channels=latent_channels,
            block_out_channels=channels,
            down_block_types=down,
            up_block_types=up,
            layers_per_block=layers_per_block,
            attention_head_dim=head_dim,
            norm_num_groups=norm_groups,
            dropout=dropout,
            resnet_time_scale_shift="scale_shift",
            class_embed_type="identity",
        )
        last = [self.unet.conv_out]
        if zero_init:
            last += [module.conv2 for module in self.unet.modules() if isinstance(module, ResnetBlock2D)]
            last += [module.to_out[0] for module in self.unet.modules() if isinstance(module, Attention)]
        for layer in last:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """x_t [B, C + M, h, w], t float [B] in [0, 1000), cond [B, D] -> [B, C, h, w]."""
        return self.unet(x_t, t, class_labels=self.cond_proj(cond), return_dict=False)[0]


def _check_sizes(
    latent_size: int, channels: tuple[int, ...], attention_levels: tuple[int, ...], head_dim: int, norm_groups: int
) -> None:
    factor = 2 ** (len(channels) - 1)
    if latent_size % factor:
        raise UserError(
            f"latent_size={latent_size} is not divisible by {factor}, which {len(channels)} levels of `channels` need. "
            f"Nearest: {latent_size // factor * factor or factor} or {(latent_size // factor + 1) * factor}; "
            "or use fewer levels."
        )
    for level in attention_levels:
        if not 0 <= level < len(channels):
            raise UserError(f"attention_levels holds {level}; the levels of `channels` are 0..{len(channels) - 1}.")
    for level, width in enumerate(channels):
        if width % norm_groups:
            raise UserError(f"channels[{level}]={width} is not divisible by norm_groups={norm_groups}.")
        if width % head_dim and (level in attention_levels or level == len(channels) - 1):
            raise UserError(f"channels[{level}]={width} has attention but is not divisible by head_dim={head_dim}.")
