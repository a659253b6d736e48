"""Masks out of shards as files: which grey value a level has, and what a set says of its levels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from datamodules.errors import UserError
from datamodules.files import WHOLE_COPY
from datamodules.images import ImageError
from datamodules.masks import NO_MASK, decode_levels
from datamodules.shards import ShardSource
from datamodules.synthetic import SyntheticSet, SyntheticSetError
from datamodules.synthetic.tables import check_parquet


@dataclass(frozen=True)
class MaskValues:
    """How the levels of masks are written: the grey value of each, and that of unknown pixels, None for a refusal."""

    levels: tuple[str, ...]
    greys: tuple[int, ...]
    unknown: int | None = NO_MASK

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.zeros(256, dtype=np.uint8)
        table[: len(self.greys)] = self.greys
        table[NO_MASK] = 0 if self.unknown is None else self.unknown
        return table

    def __call__(self, mask: np.ndarray, origin: str) -> np.ndarray:
        """Levels uint8 [H, W], NO_MASK for unknown, as grey values uint8 [H, W].

        Args:
            origin: whose mask it is, for messages.

        Raises:
            ValueError: an unknown pixel where there is no value for it.
        """
        if self.unknown is None and (mask == NO_MASK).any():
            raise UserError(
                f"{origin}: the mask has unknown pixels, for which the values 0 and 255 leave none. Remedy: "
                "job.binary_masks=false, which writes them as 255."
            )
        return self._table[mask]

    def decoded(self, file: bytes, origin: str) -> np.ndarray:
        """The grey values uint8 [H, W] of a mask as shards hold it.

        Raises:
            SyntheticSetError: it cannot be read, or has a level without a name.
            ValueError: as `__call__`.
        """
        try:
            mask = decode_levels(file, len(self.levels))
        except ImageError as error:
            raise SyntheticSetError(f"{origin}: the mask cannot be used: {error}. Remedy: {WHOLE_COPY}.") from error
        return self(mask, origin)

    def facts(self) -> dict[str, Any]:
        """The value of each level by its name, and that of unknown pixels where they may occur."""
        unknown = {} if self.unknown is None else {"unknown": self.unknown}
        return {"levels": dict(zip(self.levels, self.greys, strict=True)), **unknown}


def pair_values(levels: Sequence[str], binary: bool) -> MaskValues:
    """The values of `job.format=pairs`: 0, 1, 2 …, 255 for unknown; or, where that is asked for, 0 and 255.

    Raises:
        ValueError: 0 and 255 for more than two levels.
    """
    if not binary:
        return MaskValues(tuple(levels), tuple(range(len(levels))))
    if len(levels) != 2:
        raise UserError(
            f"job.binary_masks=true, and the masks have {len(levels)} levels: {', '.join(levels)}. Leave it out, and "
            "levels are written as 0, 1, 2."
        )
    return MaskValues(tuple(levels), (0, 255), None)


def levels_of_set(dataset: SyntheticSet, format: str) -> tuple[str, ...]:
    """Names of the levels of a set's masks, background first.

    Raises:
        ValueError: the set has no masks, or shards whose columns or levels are not those of the others.
    """
    levels = ShardSource(dataset.root).mask_levels
    if not levels:
        raise UserError(
            f"{str(dataset.root)!r} has no masks, and job.format={format} writes images with their masks. Remedy: "
            "job.format=folder, or a set of a generator of pairs (+exp=ddpm_train_pairs)."
        )
    for name, size in dataset.sizes.items():
        check_parquet(dataset.shard(name), size, ("mask", "seed"))
    return levels
