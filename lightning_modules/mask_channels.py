"""Images and masks as the channels of one image, and back.

Legend:
    B batch    K levels of a mask    C channels: 3, and one for each level of the mask but the background
    x          channels in [-1, 1]: colours, then 1 where a pixel has the level and -1 elsewhere
"""

import torch
from torch import Tensor

from datamodules.errors import UserError
from lightning_modules.condition import Pairs


def num_channels(num_mask_levels: int) -> int:
    """C, for masks of K levels; without masks K is 0.

    Raises:
        ValueError: K is negative, or 1: a mask has the background and something else.
    """
    if num_mask_levels < 0 or num_mask_levels == 1:
        raise UserError(
            f"model.mask_levels names {num_mask_levels}: two or more are needed, background first, or none at all."
        )
    return 3 + max(num_mask_levels - 1, 0)


def channels_of(images: Tensor, masks: Tensor | None, num_levels: int) -> Tensor:
    """x of images [B, 3, H, W] in [0, 1] and masks int64 [B, H, W]: C is 3 + K - 1, and 0 stands for an unknown level.

    Args:
        num_levels: K; 0 leaves the masks out.

    Raises:
        ValueError: masks are needed and not there, or hold a level that there is not.
    """
    x = 2 * images - 1
    if not num_levels:
        return x
    if masks is None:
        raise UserError(
            f"the batch has no mask, and there are {num_levels} mask_levels: the GAN learns images and masks together. "
            "Remedy: data with masks, or model.mask_levels=[] for images alone."
        )
    if (highest := int(masks.max())) >= num_levels:
        raise UserError(
            f"a mask holds level {highest}, and the mask_levels are 0 to {num_levels - 1}. "
            "Remedy: model.mask_levels=null takes as many as the data have."
        )
    levels = torch.arange(1, num_levels, device=masks.device).view(-1, 1, 1)
    masks = masks[:, None]
    return torch.cat([x, torch.where(masks == levels, 1.0, -1.0).masked_fill(masks < 0, 0.0)], dim=1)


def pairs_of(x: Tensor) -> Pairs:
    """Images and masks of x [B, C, H, W]: a pixel has the level of the largest share, the background has the rest.

    With two levels that is the foreground from a share of one half on.
    """
    images, shares = (x[:, :3] / 2 + 0.5).clamp(0, 1), x[:, 3:] / 2 + 0.5
    if not shares.shape[1]:
        return Pairs(images, None)
    return Pairs(images, torch.cat([1 - shares.sum(1, keepdim=True), shares], dim=1).argmax(1))
