"""One split's images and labels, read by single index or by a whole batch of rows at once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.errors import UserError
from datamodules.masks import to_levels


class Picks(NamedTuple):
    """The rows of a batch, int64 [B], which of them are mirrored, bool [B], and what their transforms are drawn by."""

    rows: np.ndarray
    flips: np.ndarray
    draws: np.ndarray | None = None  # int64 [B]


class RowsOf:
    """Some rows of an array-like, in some order, without copying it: indexing reads only what is asked for."""

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self.array = array
        self.rows = np.asarray(rows, dtype=np.int64)
        self.shape = (len(self.rows), *array.shape[1:])
        self.dtype = array.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Rows of the array for an int, a slice, or an array of ints or bools."""
        return np.asarray(self.array[self.rows[index]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)


class Conditions:
    """Labels int64 [N, F] and masks uint8 [N, S, S, 1] of some images, of which rows are read when they are asked for.

    `conditions[rows]` is {labels int64 [B, F], mask int64 [B, S, S] with -1 for unknown}.
    """

    def __init__(self, labels: Tensor, masks: RowsOf) -> None:
        self.labels, self.masks = labels, masks

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Sequence[int] | np.ndarray | Tensor | slice) -> dict[str, Tensor]:
        rows = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        return {
            "labels": self.labels[torch.from_numpy(rows)],
            "mask": to_levels(torch.from_numpy(self.masks[rows][..., 0])),
        }


class FundusDataset(Dataset):
    """Rows of an image array [N, S, S, 3] uint8 with their labels and ids, and of masks [N, S, S, 1] where there are.

    `dataset[i]` is a sample: image uint8 [3, S, S], labels int64 [F], id, mask uint8 [S, S]. `dataset[Picks]` is a
    batch of them: one read for the whole batch, with `flip` bool [B], which `augment.flip_batch` carries out and takes
    away, and `draw` int64 [B], which `transforms.Augmentation` does.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: Tensor,
        ids: Sequence[str],
        rows: np.ndarray,
        masks: np.ndarray | None = None,
    ) -> None:
        if not len(labels) == len(ids) == len(rows):
            raise UserError(f"labels, ids and rows have lengths {len(labels)}, {len(ids)}, {len(rows)}: one a sample.")
        self.images = RowsOf(images, rows)
        self.masks = None if masks is None else RowsOf(masks, rows)
        self.labels = labels
        self.ids = list(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int | Picks) -> dict[str, Any]:
        if not isinstance(index, Picks):
            batch = self[Picks(np.array([index]), np.zeros(1, dtype=bool))]
            return {name: value[0] for name, value in batch.items() if name != "flip"}
        batch = {
            "image": torch.from_numpy(self.images[index.rows]).permute(0, 3, 1, 2),
            "labels": self.labels[torch.from_numpy(index.rows)],
            "id": [self.ids[row] for row in index.rows],
            "flip": torch.from_numpy(index.flips),
        }
        if index.draws is not None:
            batch["draw"] = torch.from_numpy(index.draws)
        if self.masks is not None:
            batch["mask"] = torch.from_numpy(self.masks[index.rows][..., 0])
        return batch
