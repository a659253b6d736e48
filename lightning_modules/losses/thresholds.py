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
    total: Tensor | None = None,
) -> Tensor:
    """Mean over the known findings of the batch of their binary cross-entropy, itself a mean over thresholds; a scalar.

    0, with a gradient of 0, where nothing is known.

    Args:
        logits: [B, T].
        targets: in [0, 1], [B, T].
        known: bool [B, T], or of mixed images the share of each that is known, in [0, 1].
        finding: the finding of each threshold, int64 [T].
        amounts: how much each cell counts in the sum, [B, T]: `known` times its weight; None: `known`.
        total: what the sum is divided by, a scalar; None: `known_total` of this batch.
    """
    losses = functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    cells = (known if amounts is None else amounts) * _share(finding)
    return (losses * cells).sum() / (known_total(known, finding) if total is None else total).clamp_min(1e-6)


def known_total(known: Tensor, finding: Tensor) -> Tensor:
    """How many findings of a batch are known, a scalar."""
    return (known * _share(finding)).sum()


def _share(finding: Tensor) -> Tensor:
    """Of each threshold in its finding, so that a grade of four thresholds weighs as one finding."""
    return 1.0 / torch.bincount(finding)[finding]
