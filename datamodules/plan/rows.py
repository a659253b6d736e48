"""PlanDataModule: the rows of a plan to the rank that is to make them, shard by shard."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from datamodules.errors import UserError
from datamodules.loader import as_it_is
from datamodules.masks import decode_mask, to_levels
from datamodules.synthetic.plan import Plan


class PlanRowsDataset(IterableDataset):
    """Batches of the rows of shards, one shard after the other; no batch holds rows of two.

    So what is in a batch depends on nothing but the plan, the size of the shards and that of the batches: not on which
    shards are there already, nor on the number of processes.

    Args:
        bounds: of each shard that is to be made its number, first row and the row behind its last.
    """

    def __init__(self, plan: Plan, bounds: Sequence[tuple[int, int, int]], batch_size: int) -> None:
        self.plan, self.bounds, self.batch_size = plan, list(bounds), batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for shard, first, end in self.bounds:
            rows = self.plan.rows(first, end)
            for start in range(0, end - first, self.batch_size):
                part = slice(start, start + self.batch_size)
                masks = () if rows.masks is None else [decode_mask(mask) for mask in rows.masks[part]]
                yield {
                    **({"mask": to_levels(torch.from_numpy(np.stack(masks)))} if len(masks) else {}),
                    "index": torch.from_numpy(rows.index[part].copy()),
                    "seed": torch.from_numpy(rows.seed[part].copy()),
                    "labels": torch.from_numpy(rows.labels[part].astype("int64")),
                    "shard": shard,
                    "is_last": start + self.batch_size >= end - first,
                }


class PlanDataModule(lightning.LightningDataModule):
    """Deals the shards of a plan that are wanted out to the processes, one to each in turn.

    Args:
        plan: what is to be made.
        bounds: of every shard its first row and the row behind its last, in order.
        wanted: tells the numbers of the shards that are to be made, the same on all processes; asked when the Trainer
            has seen them all begin.
        batch_size: images that are made at once.
    """

    def __init__(
        self, plan: Plan, bounds: Sequence[tuple[int, int]], wanted: Callable[[], Sequence[int]], batch_size: int
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} must be at least 1.")
        self.plan, self.bounds, self.wanted, self.batch_size = plan, list(bounds), wanted, batch_size

    def share(self, rank: int, num_ranks: int) -> list[int]:
        """Numbers of the shards that a process is to make."""
        return list(self.wanted())[rank::num_ranks]

    def predict_dataloader(self) -> DataLoader:
        """Batches of this process's shards; none for a process that has no shard to make."""
        place = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        bounds = [(shard, *self.bounds[shard]) for shard in self.share(*place)]
        rows = PlanRowsDataset(self.plan, bounds, self.batch_size)
        return DataLoader(rows, batch_size=None, collate_fn=as_it_is)
