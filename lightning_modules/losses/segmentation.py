"""Losses of a segmentation: of each image first, then the mean over images, so that each weighs the same.

Letters: B images, K levels of a mask, background first, H and W pixels. Pixels of level -1 are unknown: left out.

A Dice that is summed over a batch lets an image with a large structure outweigh the others. That of an image whose
mask is empty is punished here for every pixel that is found, by the smoothing and by the cross-entropy.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTHING = 1.0  # pixels added to both sides of the Dice: its value is then defined where nothing is drawn or found


def dice_losses(logits: Tensor, mask: Tensor, smoothing: float = SMOOTHING) -> Tensor:
    """1 - Dice of each image, the mean over the levels but the background; float32 [B], 0 to 1.

    Source: Milletari et al. 2016 (arXiv 1606.04797), with the sums themselves in the denominator, not their squares.

    Args:
        logits: [B, K, H, W].
        mask: int64 [B, H, W].
        smoothing: pixels.
    """
    known = (mask >= 0).unsqueeze(1)
    found = logits.float().softmax(dim=1)[:, 1:] * known
    drawn = F.one_hot(mask.clamp_min(0), logits.shape[1]).movedim(-1, 1)[:, 1:] * known
    shared, total = (found * drawn).sum(dim=(2, 3)), (found + drawn).sum(dim=(2, 3))
    return 1 - ((2 * shared + smoothing) / (total + smoothing)).mean(dim=1)


def cross_entropies(logits: Tensor, mask: Tensor, gamma: float = 0.0) -> Tensor:
    """Cross-entropy of each image, the mean over its known pixels; float32 [B], 0 where none is known.

    With `gamma` above 0 the focal loss: pixels that are told well count less, by (1 - p)^gamma.

    Source: Lin et al. 2017 (arXiv 1708.02002), without its weights of classes.

    Args:
        logits: [B, K, H, W].
        mask: int64 [B, H, W].
    """
    known = mask >= 0
    losses = F.cross_entropy(logits.float(), mask.clamp_min(0), reduction="none")
    if gamma > 0:
        losses = losses * (1 - torch.exp(-losses)).clamp_min(1e-6) ** gamma
    return (losses * known).sum(dim=(1, 2)) / known.sum(dim=(1, 2)).clamp_min(1)
