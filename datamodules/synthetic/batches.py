"""Batches of the shards of a synthetic set in the order of their rows: what an annotator reads.

Letters: B images a batch, S side in pixels, W ranks.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.errors import UserError
from datamodules.loader import as_it_is, begin_worker
from datamodules.shards import ShardSource


class ShardBatches(L.LightningDataModule):
    """Every image of the shards that are asked for, once, in order; rank r of W reads the shards r, r + W, ….

    A batch is `image` float32 [B, 3, S, S] in [0, 1] on the device, `id` list[str], and where it stands: `shard`, the
    file's name; `row_group` of `num_row_groups`; `row`, its first one in the row group, of `num_rows`. No batch goes
    over the end of a row group: at most so many images are decoded ahead in each process, and what is said of a row
    group can be written when its last batch is there. Ranks may have different numbers of batches, or none.

    Args:
        source: the shards of a set, all of them.
        image_size: S, the set's own.
        shards: tells the names of the files to read, in the order they are read in, the same on all processes; asked
            when the Trainer has seen them all begin. None for all.
        num_workers: processes that decode, of each rank.

    Raises:
        ValueError: a batch_size or num_workers out of range; when they are read, a shard that the source does not have.
    """

    def __init__(
        self,
        source: ShardSource,
        image_size: int,
        shards: Callable[[], Sequence[str]] | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise UserError(f"batch_size={batch_size} must be at least 1, num_workers={num_workers} at least 0.")
        self.source, self.image_size, self.shards = source, image_size, shards
        self.batch_size, self.num_workers = batch_size, num_workers
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a rank may have no shard

    def of_rank(self, rank: int, world_size: int) -> "BatchesInOrder":
        """The batches of a rank."""
        there = [file.name for file in self.source.footers.files]
        shards = there if self.shards is None else list(self.shards())
        for name in shards:
            if name not in there:
                raise UserError(
                    f"there is no shard {name!r} in {self.source.root}; there are: {', '.join(there[:4])}, …."
                )
        return BatchesInOrder(self.source, self.image_size, shards[rank::world_size], self.batch_size)

    def predict_dataloader(self) -> DataLoader:
        """The batches of this rank."""
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        return DataLoader(
            self.of_rank(rank, world_size),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            collate_fn=as_it_is,
            worker_init_fn=begin_worker,
        )

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """uint8 to float32 in [0, 1], on the device."""
        return batch | {"image": batch["image"].float() / 255}


class BatchesInOrder(Dataset):
    """`dataset[n]` is batch n of some shards, images uint8 [B, 3, S, S]; a row group is read once for all its batches.

    Raises ShardError for an image that cannot be decoded, or a file that has changed.
    """

    def __init__(self, source: ShardSource, image_size: int, shards: Sequence[str], batch_size: int) -> None:
        self.source, self.image_size, self.batch_size = source, image_size, batch_size
        files = [file.name for file in source.footers.files]
        groups = source.footers.groups
        chosen = [np.flatnonzero(groups.shard == files.index(name)) for name in shards]
        self.groups = np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int64)
        self.num_images = int(groups.num_rows[self.groups].sum())
        counts = -(-groups.num_rows[self.groups] // batch_size)
        self._ends = np.cumsum(counts)  # batches up to the end of each row group
        self._held: tuple[int, pa.Table] | None = None  # the row group that was read last

    def __getstate__(self) -> dict[str, Any]:
        """Without what was read, which a worker does not need."""
        return {**self.__dict__, "_held": None}

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, number: int) -> dict[str, Any]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        place = int(np.searchsorted(self._ends, number, side="right"))
        group = int(self.groups[place])
        turn = number - (int(self._ends[place - 1]) if place else 0)
        table = self._table(group)
        rows = range(turn * self.batch_size, min((turn + 1) * self.batch_size, table.num_rows))
        images = np.stack([self.source.decode(group, table, row, self.image_size) for row in rows])
        groups = self.source.footers.groups
        shard = int(groups.shard[group])
        return {
            "image": torch.from_numpy(images).permute(0, 3, 1, 2),
            "id": table.column("id").slice(rows.start, len(rows)).to_pylist(),
            "shard": Path(self.source.footers.files[shard]).name,
            "row_group": group - int(np.searchsorted(groups.shard, shard)),
            "num_row_groups": int((groups.shard == shard).sum()),
            "row": rows.start,
            "num_rows": table.num_rows,
        }

    def _table(self, group: int) -> pa.Table:
        if self._held is None or self._held[0] != group:
            self._held = None  # let go first
            self._held = group, self.source.read_group(group)
        return self._held[1]
