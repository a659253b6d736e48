"""Augmentation of what a discriminator sees, real and generated alike, through which gradients go.

Source: Zhao et al. 2020 (arXiv 2006.10738): colour, translation, cutout. Differs from the paper: channels beyond the
first three are masks, which keep their colour, and are moved and cut with the image; what comes from outside the frame
is black, and background in the mask, and so is what is cut.

Legend: B batch, C channels, H, W pixels
"""

import torch
from torch import Tensor, nn

from datamodules.errors import UserError

NUM_DRAWS = 7  # brightness, saturation, contrast; shift down and right; middle of the cut, down and right
OUTSIDE = -1.0  # black, and background


class DifferentiableAugmentation(nn.Module):
    """Images [B, C, H, W] in [-1, 1], changed by numbers that are drawn for each.

    Args:
        colour: change brightness (by up to 0.5), saturation (times 0 to 2) and contrast (times 0.5 to 1.5).
        translation: largest shift, as a share of the side.
        cutout: side of the square that is cut, as a share of the image's.

    Raises:
        ValueError: a share outside [0, 1].
    """

    def __init__(self, colour: bool = True, translation: float = 0.125, cutout: float = 0.5) -> None:
        super().__init__()
        for name, value in (("translation", translation), ("cutout", cutout)):
            if not 0 <= value <= 1:
                raise UserError(f"{name}={value} must be a share of the image's side, in [0, 1].")
        self.colour, self.translation, self.cutout = colour, translation, cutout

    @staticmethod
    def draw(num: int, generator: torch.Generator) -> Tensor:
        """The numbers of `num` images, uniform in [0, 1), float32 [num, NUM_DRAWS]."""
        return torch.rand(num, NUM_DRAWS, generator=generator, device=generator.device)

    def forward(self, x: Tensor, draws: Tensor) -> Tensor:
        """x [B, C, H, W] and draws [B, NUM_DRAWS] -> the same shape."""
        if self.colour:
            x = torch.cat([_coloured(x[:, :3], draws[:, :3]), x[:, 3:]], dim=1)
        if self.translation:
            x = _moved(x, draws[:, 3:5], self.translation)
        return _cut(x, draws[:, 5:7], self.cutout) if self.cutout else x


def _coloured(x: Tensor, draws: Tensor) -> Tensor:
    brightness, saturation, contrast = draws.view(*draws.shape, 1, 1, 1).unbind(1)
    x = x + brightness - 0.5
    grey = x.mean(1, keepdim=True)
    x = grey + 2 * saturation * (x - grey)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (0.5 + contrast) * (x - mean)


def _moved(x: Tensor, draws: Tensor, share: float) -> Tensor:
    """Shifted by whole pixels, -share to share of the side; positive is down and right."""
    for dim, draw in ((2, draws[:, 0]), (3, draws[:, 1])):
        side = x.shape[dim]
        most = round(share * side)
        shift = (draw * (2 * most + 1)).floor().long() - most
        source = torch.arange(side, device=x.device) - shift[:, None]  # [B, side]
        outside = (source < 0) | (source >= side)
        shape = (len(x), 1, side, 1) if dim == 2 else (len(x), 1, 1, side)
        x = x.gather(dim, source.clamp(0, side - 1).view(shape).expand_as(x))
        x = x.masked_fill(outside.view(shape), OUTSIDE)
    return x


def _cut(x: Tensor, draws: Tensor, share: float) -> Tensor:
    """Without a square, whose middle lies in the image."""
    inside = []
    for dim, draw in ((2, draws[:, 0]), (3, draws[:, 1])):
        side = x.shape[dim]
        length = round(share * side)
        start = (draw * side).floor().long() - length // 2
        place = torch.arange(side, device=x.device) - start[:, None]
        inside.append((place >= 0) & (place < length))
    rows, columns = inside
    return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], OUTSIDE)
