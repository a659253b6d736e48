"""Evaluate without disturbing the training: random streams, modes and gradients are as before on leaving."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from datamodules.errors import UserError


@contextmanager
def isolated(module: nn.Module) -> Iterator[None]:
    """Put module in eval mode, without gradients; restore every submodule's mode and all global random streams."""
    modes = {part: part.training for part in module.modules()}
    try:
        with isolate_rng(), torch.no_grad():
            module.eval()
            yield
    finally:
        for part, training in modes.items():
            part.training = training


def demand(asker: str, what: str, thing: Any, *attributes: str) -> None:
    """Check that thing has the attributes that asker uses.

    Raises:
        ValueError: what is missing, and where.
    """
    missing = [name for name in attributes if not hasattr(thing, name)]
    if missing:
        raise UserError(
            f"{asker} needs {what}.{{{', '.join(attributes)}}}, but {what} is {type(thing).__name__} "
            f"without {', '.join(missing)}: give one that has them, or leave {asker} out of the callbacks"
        )


def to_uint8(images: Tensor) -> Tensor:
    """Round images float [B, 3, H, W] in [0, 1] to what a saved file holds, uint8 [B, 3, H, W].

    Raises:
        ValueError: an image holds values that are not finite, which no rounding mends.
    """
    finite = images.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        bad = finite.logical_not().nonzero().flatten().tolist()
        raise UserError(
            f"images {bad} of a batch of {len(images)} hold values that are not finite: the network has diverged, "
            "go back to an earlier checkpoint with a lower learning rate"
        )
    return (images.float().clamp(0, 1) * 255).round().to(torch.uint8)
