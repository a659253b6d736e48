"""Mirroring: image, mask and eye side together, by draws that are a pure function of (seed, epoch, row).

A mirrored right eye looks like a left one, so `eye_side` changes with the pixels. The draws do not depend on batch
size, rank or the place in the epoch, which is what makes a resumed run equal to an uninterrupted one.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.findings import EYE_SIDE


def draw_flips(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """Which rows are mirrored in an epoch, bool [num_rows], each with probability one half."""
    stream = np.random.default_rng(np.random.SeedSequence((seed, epoch, 0xF11B)))
    return stream.integers(0, 2, size=num_rows, dtype=np.uint8).astype(bool)


def draw_numbers(rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """A number for each row, int64 in [0, 2^63), by which its transforms of an epoch are drawn: SplitMix64 of both."""
    start = np.random.SeedSequence((seed, epoch, 0xD4A3)).generate_state(1, np.uint64)
    mixed = start + np.asarray(rows).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def mirror_labels(labels: Tensor) -> Tensor:
    """The labels [..., F] of the mirrored images: right becomes left, left right, unknown stays unknown."""
    mirrored = labels.clone()
    side = mirrored[..., EYE_SIDE]
    mirrored[..., EYE_SIDE] = torch.where(side >= 0, 1 - side, side)
    return mirrored


def flip_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """Mirror the rows that `flip` (bool [B]) names, left to right, where the tensors lie; `flip` is taken out.

    Mirrors `image` [B, 3, H, W] and `mask` [B, H, W] where they are, and changes `eye_side` in `labels` [B, F].
    """
    flip = batch.pop("flip", None)
    if flip is None:
        return batch
    for name in ("image", "mask"):
        if name in batch:
            tensor = batch[name]
            chosen = flip.view(-1, *[1] * (tensor.ndim - 1))
            batch[name] = torch.where(chosen, tensor.flip(-1), tensor)
    batch["labels"] = torch.where(flip[:, None], mirror_labels(batch["labels"]), batch["labels"])
    return batch


def to_unit_range(image: Tensor) -> Tensor:
    """uint8 0..255 to float32 [0, 1], contiguous [B, 3, H, W]; the only place where pixels change their range."""
    return image.to(torch.float32, memory_format=torch.contiguous_format).div_(255.0)
