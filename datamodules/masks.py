"""Masks beside the images: cropped as they are, cached as they are, 255 where nobody drew one."""

import io
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.errors import UserError
from datamodules.image_files import ImageError, opened, without_metadata
from datamodules.manifest import Manifest
from datamodules.sources.base import Source

NO_MASK = 255  # in the cache and on the way to the device; -1 in a batch


class MasksOf:
    """The masks of a source, as a source of pictures with one channel, for the image cache.

    Args:
        source: has `read_mask(path, mask, image_size) -> uint8 [S, S]`, 255 for unknown, and `mask_levels`.
        masks: the manifest's `mask` cell of each path, "" where there is none.
    """

    depth = 1

    def __init__(self, source: Source, masks: Mapping[str, str]) -> None:
        self.source, self.masks = source, dict(masks)
        self.name = f"{source.name}-masks"

    def identity(self) -> str:
        """That of the source, which covers its masks' files."""
        return f"masks-{self.source.identity()}"

    def read(self, path: str, image_size: int) -> np.ndarray:
        """Levels uint8 [S, S, 1]."""
        mask = self.masks[path]
        if not mask:
            return np.full((image_size, image_size, 1), NO_MASK, dtype=np.uint8)
        levels = self.source.read_mask(path, mask, image_size)
        top = len(self.source.mask_levels)
        highest = levels.max(initial=0, where=levels != NO_MASK)
        if highest >= top:
            raise UserError(
                f"{self.name}: {mask!r} has level {highest}, and there are only {top} levels. Remedy: name each "
                "in the source's mask_levels, background first, or map the values of the files to them in read_mask."
            )
        return levels[:, :, None]


def masks_of(source: Source, manifest: Manifest) -> MasksOf | None:
    """The masks of the images of a manifest; None where the source has none, or names no levels."""
    if not getattr(source, "mask_levels", ()) or "mask" not in manifest.table.column_names:
        return None
    masks = manifest.table.column("mask").to_pylist()
    return MasksOf(source, dict(zip(manifest.paths, masks, strict=True))) if any(masks) else None


def encode_mask(mask: np.ndarray) -> bytes:
    """Levels uint8 [H, W], NO_MASK for unknown, as PNG."""
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()


def decode_mask(file: bytes) -> np.ndarray:
    """The levels uint8 [H, W] of `encode_mask`.

    Raises:
        ImageError: no picture of one channel of 8 bits.
    """
    try:
        with opened(without_metadata(file)) as picture:
            if picture.mode != "L":
                raise ImageError(f"a mask has one channel of 8 bits (mode 'L'), and this one has mode {picture.mode!r}")
            return np.array(picture)
    except (OSError, ValueError) as error:
        raise error if isinstance(error, ImageError) else ImageError(f"the mask cannot be read: {error}") from error


def decode_levels(file: bytes, num_levels: int) -> np.ndarray:
    """The levels uint8 [H, W] of `encode_mask`, NO_MASK for unknown, all of them below `num_levels`.

    Raises:
        ImageError: a level without a name; or as `decode_mask`.
    """
    mask = decode_mask(file)
    wrong = mask[(mask >= num_levels) & (mask != NO_MASK)]
    if len(wrong):
        raise ImageError(f"it has level {wrong[0]}, and the levels are 0 to {num_levels - 1}")
    return mask


def to_levels(mask: Tensor) -> Tensor:
    """uint8 [B, H, W] with 255 for unknown to int64 with -1."""
    levels = mask.long()
    return torch.where(levels == NO_MASK, -1, levels)
