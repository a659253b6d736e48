"""The classifier's loss: cross-entropy of the thresholds of findings, over those that are known."""

import torch
from torch import Tensor
from torch.nn import functional


def threshold_loss(
    logits: Tensor,
    targets: Tensor,
    known: Tensor,
    finding: Tensor,
    amounts: Tensor | None = None,
) -> Tensor:
    """Mean over the known findings of the batch of their binary cross-entropy, itself a mean over thresholds; a scalar.

    0, with a gradient of 0, where nothing is known.

    Args:
        logits: [B, T].
        targets: in [0, 1], [B, T].
        known: bool [B, T], or of mixed images the share of each that is known, in [0, 1].
        finding: the finding of each threshold, int64 [T].
        amounts: how much each cell counts in the sum, [B, T]: `known` times its weight; None: `known`.
    """
    losses = functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    share = 1.0 / torch.bincount(finding)[finding]  # so that a grade of four thresholds weighs as one finding
    cells = (known if amounts is None else amounts) * share
    return (losses * cells).sum() / (known * share).sum().clamp_min(1e-6)
