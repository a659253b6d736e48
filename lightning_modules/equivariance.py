"""Images and their latents, turned and shrunk alike: latents that follow are as smooth as images, and sooner learnt.

Source: EQ-VAE, Kouzelis et al. 2025 (arXiv 2502.09509), section 3.2. Differs from the paper: one transformation a
batch; shrunk to SMALLEST of the side and not to a quarter; sides in whole cells.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST = 0.5  # of the side: below it vessels of small photographs are gone


def turned_and_shrunk(z: Tensor, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents [B, C, h, w] and their images [B, 3, H, W], both by the same quarter turns and to the same share.

    Cells are squares, H / h = W / w, and stay as large. Returns [B, C, h', w'] and [B, 3, H', W']; both come back as
    they are where nothing is turned and no side is shorter. Shrinking is bilinear and antialiased, as of photographs.
    """
    height, width = z.shape[-2:]
    turns = int(torch.randint(4, (), generator=generator, device=generator.device))
    drawn = float(torch.rand((), generator=generator, device=generator.device))
    share = SMALLEST + (1 - SMALLEST) * drawn
    cells = [max(1, round(share * side)) for side in (height, width)]
    pixels = [side * x.shape[-1] // width for side in cells]
    return tuple(_resized(torch.rot90(part, turns, (-2, -1)), sides[::-1] if turns % 2 else sides)
                 for part, sides in ((z, cells), (x, pixels)))  # fmt: skip


def _resized(images: Tensor, sides: list[int]) -> Tensor:
    if list(images.shape[-2:]) == sides:
        return images
    return F.interpolate(images, sides, mode="bilinear", antialias=True)
