"""The cached squares of an index: its images and, of a source that has them, their masks."""

from pathlib import Path

import numpy as np

from datamodules.cache import ImageCache
from datamodules.manifest import Manifest
from datamodules.masks import masks_of
from datamodules.sources.base import Source


class ImageMaskCache:
    """`images` and `masks` (None where the source has none) of the same rows; `rejected` row -> reason, of either."""

    def __init__(self, images: ImageCache, masks: ImageCache | None) -> None:
        self.images, self.masks = images, masks
        of_masks = {} if masks is None else {row: f"its mask: {reason}" for row, reason in masks.rejected.items()}
        self.rejected = dict(sorted((of_masks | images.rejected).items()))

    @classmethod
    def build(
        cls, source: Source, index: Manifest, image_size: int, cache_dir: str | Path, num_workers: int
    ) -> "ImageMaskCache":
        """Open them, reading every image and mask that is not cached yet, in up to `num_workers` processes."""
        masks = masks_of(source, index)
        images = ImageCache.build(source, index.paths, image_size, cache_dir, num_workers)
        if masks is None:
            return cls(images, None)
        return cls(images, ImageCache.build(masks, index.paths, image_size, cache_dir, num_workers))

    @classmethod
    def open(cls, source: Source, index: Manifest, image_size: int, cache_dir: str | Path) -> "ImageMaskCache":
        """Open what `build` made. Raises CacheError when it was not."""
        masks = masks_of(source, index)
        images = ImageCache.open(source, index.paths, image_size, cache_dir)
        return cls(images, None if masks is None else ImageCache.open(masks, index.paths, image_size, cache_dir))

    def digest(self, rows: np.ndarray) -> bytes:
        """The digests of the pixels of some rows."""
        caches = (self.images,) if self.masks is None else (self.images, self.masks)
        return b"".join(cache.digests[rows].tobytes() for cache in caches)
