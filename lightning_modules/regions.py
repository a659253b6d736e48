"""Regions of images: dilated, seen as latent cells, and pasted into an image without a seam.

Legend: B batch, H, W pixels, f pixels along a latent cell, h = H / f, w = W / f.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from datamodules.errors import UserError


def check_region(images: Tensor, where: Tensor, size: int) -> None:
    """See that images are float [B, 3, size, size], and `where` is a part of each.

    Raises:
        UserError: other shapes or types; a region that is empty or covers an image.
    """
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size) or not images.is_floating_point():
        raise UserError(f"images are {images.dtype} {list(images.shape)}; float [B, 3, {size}, {size}] is needed.")
    if where.dtype != torch.bool or where.shape != (len(images), size, size):
        raise UserError(
            f"the region is {where.dtype} {list(where.shape)}; bool [{len(images)}, {size}, {size}] is needed."
        )
    for number, inside in enumerate(where.flatten(1)):
        if not inside.any() or inside.all():
            raise UserError(
                f"the region of image {number} {'covers all of it' if inside.all() else 'is empty'}: give a part of "
                "the image, or sample a whole one."
            )


def dilated(where: Tensor, radius: int) -> Tensor:
    """A region bool [B, H, W] with all pixels whose centres are at most `radius` pixels from one of its own."""
    offsets = torch.arange(-radius, radius + 1, device=where.device)
    disc = (offsets[:, None] ** 2 + offsets**2 <= radius**2).float()
    return conv2d(where[:, None].float(), disc[None, None], padding=radius)[:, 0] > 0.5


def touched_cells(where: Tensor, cell: int) -> Tensor:
    """Latent cells of which a pixel lies in a region: bool [B, H, W] -> bool [B, 1, h, w]."""
    return max_pool2d(where[:, None].float(), cell) > 0


def feathered(where: Tensor, feather: int) -> Tensor:
    """Shares float32 [B, H, W]: 0 outside a region, 1 deeper in it than `feather` pixels, and even steps between.

    Depth is counted in steps to neighbours, diagonal ones too. The border of the image is no border of the region.
    """
    left = where[:, None].float()
    shares = left.clone()
    for _ in range(feather):
        left = 1 - max_pool2d(1 - left, 3, stride=1, padding=1)  # pads with -inf: what is beyond the image is inside
        shares += left
    return shares[:, 0] / (feather + 1)


def pasted(images: Tensor, painted: Tensor, where: Tensor, feather: int) -> Tensor:
    """Images [B, 3, H, W] with what was painted in a region, blended inside of it; outside they are the same bits."""
    share = feathered(where, feather)[:, None]
    return torch.where(where[:, None], images + share * (painted - images), images)
