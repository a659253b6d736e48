"""Batches of Parquet shards in an order that is a pure function of where it is: nothing to replay, nothing to store.

The number of a batch is all that says which images it holds: `StreamOrder` computes their places from (seed, pass,
batch). The DataLoader hands its workers numbers of batches; a worker keeps the windows that its batches come from, and
reads each row group once a pass. So the state of a run is one number, whatever the number of workers.

Words: a *pass* is once through the training rows. A *lane* is one of `num_lanes` streams of a rank that take turns,
batch by batch: with a number of workers that divides it, each lane is read by one worker. A *window* is what a lane
holds at a time: the rows of about `window_groups` row groups, shuffled.

torchdata's StatefulDataLoader is not used: it keeps the state of each worker where one number is enough, refuses to
resume with another number of workers, and cannot tell persistent workers the epoch.

Letters: B images a batch on a rank, W ranks, N training rows, G row groups, F findings, S side in pixels.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from datamodules.augment import draw_numbers
from datamodules.errors import UserError
from datamodules.findings import NAMES
from datamodules.loader import Epochs, ResumableLoader, as_it_is, begin_worker
from datamodules.shards import ShardSource, labels_of

GROUPS, ROWS, MIXING, FLIPS = range(4)  # what a random stream is for


class StreamOrder:
    """Which rows make a batch: a function of (seed, pass, rank, batch), disjoint over ranks, every row once a pass.

    Row groups are permuted over all shards and cut into W `num_lanes` stretches of whole batches; the N mod (B W)
    rows at the end are left out, others in each pass. Along its stretch a lane takes windows of about `window_groups`
    row groups and permutes the rows of each. A row group that a cut goes through is shared out at random.

    It is no uniform permutation of all rows. The images of a batch come from one window, about `window_groups` row
    groups of anywhere: in shards that were written at random that is as good as any; in shards that were written
    condition by condition a batch holds about so many conditions and no more. In each pass row groups meet others,
    and batches that follow each other come from different lanes.

    With few row groups there are fewer lanes, so that each has a window's worth. For another W the steps hold other
    rows, also with the same B W.

    Args:
        sizes: training rows of each row group, int64 [G].

    Raises:
        ValueError: not one batch.
    """

    def __init__(
        self, sizes: np.ndarray, batch_size: int, *, seed: int = 0, rank: int = 0, world_size: int = 1,
        num_lanes: int = 8, window_groups: int = 8,
    ) -> None:  # fmt: skip
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.batch_size, self.seed = batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.num_rows = int(self.sizes.sum())
        self.num_batches = self.num_rows // (batch_size * world_size)  # of a pass, on each rank
        if self.num_batches == 0:
            raise UserError(
                f"batch_size is {batch_size} on {world_size} process(es), but there are only {self.num_rows} training "
                f"images: not one batch. Set data.batch_size to {max(1, self.num_rows // world_size)} or less."
            )
        num_groups = int(np.count_nonzero(self.sizes))
        self.num_lanes = num_lanes_for(num_groups, num_lanes, window_groups * world_size)
        self.window_batches = max(1, round(window_groups * self.num_rows / num_groups / batch_size))
        self._permuted: tuple[int, np.ndarray, np.ndarray] | None = None

    def place(self, batch: int) -> tuple[int, int, int]:
        """Lane, window of the lane, and batch of the window that batch 0 .. num_batches - 1 of a pass is."""
        lane, turn = batch % self.num_lanes, batch // self.num_lanes
        length, num_windows = self._length(lane)
        window = ((turn + 1) * num_windows - 1) // length
        return lane, window, turn - window * length // num_windows

    def window(self, number: int, lane: int, window: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a window in the order of pass `number`: their row groups, and places in each one's training rows.

        int64 [B x batches of the window] each.
        """
        groups, ends = self._groups(number)
        length, num_windows = self._length(lane)
        first = self.rank * self.num_batches + sum(self._length(other)[0] for other in range(lane))
        begin, end = (
            (first + cut * length // num_windows) * self.batch_size for cut in (window, window + 1)
        )  # places in the order of the pass
        found = []
        for index in range(np.searchsorted(ends, begin, "right"), np.searchsorted(ends, end - 1, "right") + 1):
            group, size = int(groups[index]), int(self.sizes[groups[index]])
            start = int(ends[index]) - size
            places = self._stream(ROWS, number, group).permutation(size)[max(begin - start, 0) : end - start]
            found.append((np.full(len(places), group), places))
        chosen, places = map(np.concatenate, zip(*found, strict=True))
        mixed = self._stream(MIXING, number, begin).permutation(len(places))
        return chosen[mixed], places[mixed]

    def flips(self, number: int, group: int) -> np.ndarray:
        """Which training rows of a row group are mirrored in a pass, bool, each with probability one half."""
        draws = self._stream(FLIPS, number, group).integers(0, 2, size=self.sizes[group], dtype=np.uint8)
        return draws.astype(bool)

    def _stream(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence((self.seed, 0x57EA, *key)))

    def _length(self, lane: int) -> tuple[int, int]:
        """Batches and windows of a lane in a pass; its windows are equally long, but for a batch."""
        length = len(range(lane, self.num_batches, self.num_lanes))
        return length, -(-length // self.window_batches)

    def _groups(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The row groups in the order of a pass, and for each the place behind its last row."""
        if self._permuted is None or self._permuted[0] != number:
            order = self._stream(GROUPS, number).permutation(len(self.sizes))
            self._permuted = number, order, np.cumsum(self.sizes[order])
        return self._permuted[1:]


def num_lanes_for(num_groups: int, num_lanes: int, window_groups: int) -> int:
    """Lanes of a rank: `num_lanes`, halved until each has a window of row groups."""
    while num_lanes > 1 and num_groups < num_lanes * window_groups:
        num_lanes //= 2
    return num_lanes


class StreamBatches(Epochs):
    """The numbers of an epoch's batches, for a DataLoader with `batch_size=None`: what EpochBatches is to a stream.

    Epochs of `epoch_size` images, None all training rows once, cut one endless sequence of passes. Without `vary` each
    epoch is the first pass again, as for overfitting a few batches.
    """

    def __init__(self, order: StreamOrder, epoch_size: int | None = None, vary: bool = True) -> None:
        self.order, self.vary, self.seed = order, vary, order.seed
        self.batch_size, self.world_size, self.num_rows = order.batch_size, order.world_size, order.num_rows
        if epoch_size is not None and epoch_size < self.batch_size * self.world_size:
            raise UserError(
                f"data.epoch_size is {epoch_size}, and must be at least one batch of {self.batch_size} on each of "
                f"{self.world_size} process(es)."
            )
        self.epoch_size = order.num_rows if epoch_size is None else epoch_size

    def __len__(self) -> int:
        return self.epoch_size // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[int]:
        for batch in range(self.start, len(self)):
            yield self.epoch * len(self) + batch if self.vary else batch % self.order.num_batches


class StreamLoader(ResumableLoader):
    """A ResumableLoader whose order depends on the number of ranks, on lanes and on windows too."""

    def _order(self) -> dict[str, int]:
        order = self.batch_sampler.order
        more = {"world_size": order.world_size, "num_lanes": order.num_lanes, "window_batches": order.window_batches}
        return super()._order() | more


class _Window(NamedTuple):
    """What a lane holds: which window of which pass, its rows in their order, its row groups undecoded."""

    key: tuple[int, int]
    groups: np.ndarray
    places: np.ndarray
    tables: dict[int, pa.Table]


class StreamDataset(Dataset):
    """`dataset[n]` is batch n: image uint8 [B, 3, S, S], labels int64 [B, F], id list[str], flip bool [B].

    With mask uint8 [B, S, S] where the shards have masks. With `draw`, also draw int64 [B], by which transforms are
    drawn (transforms.py).

    `is_train`, bool, says of every row of the shards whether it is for training. In memory are the row groups of one
    window a lane, as they are compressed in the images: of all lanes in one process, of its share in a worker. Raises
    ShardError for an image that cannot be used, or a file that has changed.
    """

    def __init__(
        self, source: ShardSource, order: StreamOrder, is_train: np.ndarray, image_size: int, flip: bool,
        draw: bool = False,
    ) -> None:  # fmt: skip
        self.source, self.order = source, order
        self.is_train, self.image_size, self.flip, self.draw = is_train, image_size, flip, draw
        self._lanes: OrderedDict[int, _Window] = OrderedDict()

    def __getitem__(self, number: int) -> dict[str, Any]:
        order, size = self.order, self.image_size
        number, batch = divmod(number, order.num_batches)
        lane, window, turn = order.place(batch)
        held = self._window(number, lane, window)
        chosen = slice(turn * order.batch_size, (turn + 1) * order.batch_size)
        groups, places, count = held.groups[chosen], held.places[chosen], order.batch_size
        images = np.empty((count, size, size, 3), dtype=np.uint8)
        labels = np.empty((count, len(NAMES)), dtype=np.int64)
        masks = np.empty((count, size, size), dtype=np.uint8) if self.source.mask_levels else None
        ids, flips = np.empty(count, dtype=object), np.zeros(count, dtype=bool)
        draws, groups_of = np.empty(count, dtype=np.int64), self.source.footers.groups
        for group in np.unique(groups).tolist():
            at = np.flatnonzero(groups == group)
            table, rows = held.tables[group], self._train_rows(group)[places[at]]
            labels[at] = labels_of(table, rows)
            draws[at] = draw_numbers(groups_of.first_row[group] + rows, order.seed, number)
            flips[at] = self.flip & order.flips(number, group)[places[at]]
            for image, row in zip(at.tolist(), rows.tolist(), strict=True):
                ids[image] = table.column("id")[row].as_py()
                images[image] = self.source.decode(group, table, row, size)
                if masks is not None:
                    masks[image] = self.source.decode_mask(group, table, row, size)
        batch = {
            "image": torch.from_numpy(images).permute(0, 3, 1, 2),
            "labels": torch.from_numpy(labels),
            "id": ids.tolist(),
            "flip": torch.from_numpy(flips),
        }
        if masks is not None:
            batch["mask"] = torch.from_numpy(masks)
        return batch | {"draw": torch.from_numpy(draws)} if self.draw else batch

    def _train_rows(self, group: int) -> np.ndarray:
        """The training rows of a row group, counted from its first."""
        groups = self.source.footers.groups
        first = groups.first_row[group]
        return np.flatnonzero(self.is_train[first : first + groups.num_rows[group]])

    def _window(self, number: int, lane: int, window: int) -> _Window:
        """What a lane holds now; what it held before is let go first, but for row groups of both."""
        held = self._lanes.pop(lane, None)
        if held is None or held.key != (number, window):
            groups, places = self.order.window(number, lane, window)
            needed = np.unique(groups).tolist()
            tables = {group: held.tables[group] for group in needed if held is not None and group in held.tables}
            held = None
            while len(self._lanes) >= self._num_held():
                self._lanes.popitem(last=False)
            tables |= {group: self.source.read_group(group) for group in needed if group not in tables}
            held = _Window((number, window), groups, places, tables)
        self._lanes[lane] = held
        return held

    def _num_held(self) -> int:
        """Lanes that this process reads."""
        worker, num_lanes = get_worker_info(), self.order.num_lanes
        return num_lanes if worker is None or num_lanes % worker.num_workers else num_lanes // worker.num_workers


def stream_loader(dataset: StreamDataset, batches: StreamBatches, num_workers: int, images: str = "") -> StreamLoader:
    """The loader of a stream, `images` as in ResumableLoader; its workers persist over the epochs."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=batches,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        collate_fn=as_it_is,
        worker_init_fn=begin_worker,
    )
    return StreamLoader(loader, batches, images)
