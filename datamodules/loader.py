"""The order of the data: a function of (seed, epoch) alone, disjoint over ranks, resumable at any batch.

`EpochBatches` says which rows make batch b of epoch e on rank r. `ResumableLoader` runs a DataLoader over them and
knows how many batches it has handed out: Lightning saves its `state_dict` in every checkpoint and restores it when a
run resumes within an epoch. It is not a DataLoader itself, so that no Trainer flag makes Lightning take it apart to
put another sampler in.
"""

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from torch.utils.data import DataLoader

from datamodules.augment import draw_flips, draw_numbers
from datamodules.dataset import Picks
from datamodules.errors import UserError

KEYS = {  # what decides on the order, as people set it
    "seed": "seed",
    "num_rows": "the number of training images",
    "epoch_size": "data.epoch_size",
    "global_batch_size": "the batch of all processes (data.batch_size x trainer.devices x trainer.num_nodes)",
}


class Epochs:
    """Where a loader stands: the epoch, the batch that its next run begins with, and how many it has handed out."""

    epoch = 0
    start = 0
    num_given = 0

    @property
    def sampler(self) -> "Epochs":
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; the batch to start at is kept only when the epoch stays the same."""
        if epoch != self.epoch:
            self.epoch, self.start, self.num_given = epoch, 0, 0


class EpochBatches(Epochs):
    """The batches of an epoch on one rank: an iterable of Picks, for a DataLoader with `batch_size=None`.

    For training (`drop_last`), batch b takes places [b·W·B, (b + 1)·W·B) of the epoch's order, and rank r the r-th
    part of them: the same images in each step for any W with the same W·B. Otherwise every row comes exactly once,
    rank r takes places r, r + W, …, and all ranks have the same number of batches.

    `epoch_size` makes a training epoch of that many images, however many rows there are: the epochs then cut one
    endless sequence of passes over the rows, so that each row comes as often as the next.

    With `draw`, the picks have numbers by which the transforms of each image are drawn (transforms.py).

    With `weights` [num_rows], each row of an epoch is drawn by these chances instead, the same row perhaps twice.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = False,
        flip: bool = False,
        drop_last: bool = False,
        epoch_size: int | None = None,
        weights: np.ndarray | None = None,
        draw: bool = False,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            raise UserError(f"batch_size is {batch_size} (at least 1), rank {rank} of {world_size} (0 <= rank < W).")
        if drop_last and num_rows < batch_size * world_size:
            raise UserError(
                f"batch_size is {batch_size} on {world_size} process(es), but there are only {num_rows} training "
                f"images: not one batch. Set data.batch_size to {max(1, num_rows // world_size)} or less."
            )
        if epoch_size is not None and (not drop_last or epoch_size < batch_size * world_size):
            raise UserError(
                f"data.epoch_size is {epoch_size}: it is for training, and at least one batch of {batch_size} on each "
                f"of {world_size} process(es)."
            )
        if num_rows < world_size:
            raise UserError(f"there are {num_rows} images for {world_size} processes: run with fewer devices.")
        self.num_rows, self.batch_size, self.seed = num_rows, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.shuffle, self.flip, self.drop_last = shuffle, flip, drop_last
        self.epoch_size = num_rows if epoch_size is None else epoch_size
        self.weights, self.draw = weights, draw
        self.is_endless = epoch_size is not None

    def _pass(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows in the order of a pass over all of them, which are mirrored in it, and the numbers of their draws.

        The same on all ranks.
        """
        rows = np.arange(self.num_rows)
        if self.shuffle:
            rows = np.random.default_rng(np.random.SeedSequence((self.seed, number, 0x0DE5))).permutation(rows)
        flips = draw_flips(self.num_rows, self.seed, number) if self.flip else np.zeros(self.num_rows, dtype=bool)
        return rows, flips[rows], draw_numbers(rows, self.seed, number)

    def order(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """This epoch's rows in their order, which are mirrored, and the numbers of their draws: [epoch_size] each."""
        if self.weights is not None:
            return self._drawn()
        if not self.is_endless:
            return self._pass(self.epoch)
        size = len(self) * self.batch_size * self.world_size
        first = self.epoch * size
        passes = range(first // self.num_rows, (first + size - 1) // self.num_rows + 1)
        columns = map(np.concatenate, zip(*map(self._pass, passes), strict=True))
        begin = first - passes[0] * self.num_rows
        return tuple(column[begin : begin + size] for column in columns)

    def _drawn(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An epoch of rows drawn by weight, each mirrored or not by a draw of its own; the same on all ranks."""
        stream = np.random.default_rng(np.random.SeedSequence((self.seed, self.epoch, 0xBA1A)))
        rows = stream.choice(self.num_rows, size=self.epoch_size, p=self.weights)
        flips = stream.integers(0, 2, size=self.epoch_size, dtype=np.uint8).astype(bool)
        return rows, flips & self.flip, draw_numbers(np.arange(self.epoch_size), self.seed, self.epoch)

    def __len__(self) -> int:
        if self.drop_last:
            return self.epoch_size // (self.batch_size * self.world_size)
        largest = -(-self.num_rows // self.world_size)
        return min(-(-largest // self.batch_size), self.num_rows // self.world_size)

    def __iter__(self) -> Iterator[Picks]:
        rows, flips, draws = self.order()
        for batch in range(self.start, len(self)):
            places = self._places(len(rows), batch)
            yield Picks(rows[places], flips[places], draws[places] if self.draw else None)

    def _places(self, num_places: int, batch: int) -> np.ndarray:
        if self.drop_last:
            first = (batch * self.world_size + self.rank) * self.batch_size
            return np.arange(first, first + self.batch_size)
        share = np.arange(self.rank, num_places, self.world_size)
        if -(-len(share) // self.batch_size) == len(self):
            return share[batch * self.batch_size : (batch + 1) * self.batch_size]
        return np.array_split(share, len(self))[batch]  # one more or fewer than other ranks: spread evenly


class ResumableLoader:
    """A DataLoader over `EpochBatches` that can say and restore how far it has come.

    Pass the same `batches` to the DataLoader as its `sampler`, with `batch_size=None`. `images` says what the batches
    show, for a state to be refused within an epoch of other images. The order is fixed when the
    first batch is asked for, not by `iter`, because Lightning calls `iter` before it sets the epoch.
    """

    def __init__(self, loader: DataLoader, batches: EpochBatches, images: str = "") -> None:
        if loader.sampler is not batches or loader.batch_size is not None:
            raise UserError("loader must be a DataLoader with batch_size=None and sampler=batches.")
        self.loader = loader
        self.batch_sampler = batches
        self.images = images
        self.has_begun = False  # whether a batch was asked for

    @property
    def dataset(self) -> Any:
        """What the batches are read from."""
        return self.loader.dataset

    @property
    def batch_size(self) -> int:
        """Images in a batch on one rank."""
        return self.batch_sampler.batch_size

    @property
    def _iterator(self) -> Any:
        """The DataLoader's iterator, where Lightning looks for workers to shut down."""
        return self.loader._iterator

    @_iterator.setter
    def _iterator(self, value: Any) -> None:
        self.loader._iterator = value

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning does so itself."""
        self.batch_sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches = self.batch_sampler
        self.has_begun = True
        batches.num_given = batches.start
        for batch in self.loader:
            batches.num_given += 1
            batches.start = 0  # the next pass begins at the beginning
            yield batch

    def state_dict(self) -> dict[str, int | str]:
        """Epoch, batches handed out in it, and what their order and their images depend on."""
        given = {"epoch": self.batch_sampler.epoch, "batch": self.batch_sampler.num_given}
        return {**given, **self._order(), "images": self.images}

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Go on behind the batches that were handed out, in the epoch that they were handed out in.

        Raises ValueError when the images, the global batch size or the seed changed within an epoch: the order would be
        another.
        """
        now = self._order()
        changed = {name: (state.get(name), now[name]) for name in now if state.get(name) != now[name]}
        finished = (state["batch"] + 1) * state["global_batch_size"] > state["epoch_size"]
        if changed and state["batch"] and not finished:
            what = ", ".join(f"{KEYS.get(name, name)} was {old} and is {new}" for name, (old, new) in changed.items())
            raise UserError(
                f"the checkpoint was saved within an epoch, after batch {state['batch']}, and the order of the data "
                f"has changed since: {what}. Resume with what it was, or from a checkpoint of an epoch's end."
            )
        if self.images != state.get("images", self.images) and state["batch"] and not finished:
            raise UserError(
                "the checkpoint was saved within an epoch of other training images (other photographs, labels, "
                "data.image_size, data.fractions, seed, data.balance, job.repeat_threshold, data.flip or "
                "data.augment). Resume with those, or from an epoch's end."
            )
        self.batch_sampler.epoch = state["epoch"]
        self.batch_sampler.start = 0 if changed else min(state["batch"], len(self))
        self.batch_sampler.num_given = self.batch_sampler.start

    def _order(self) -> dict[str, int]:
        batches = self.batch_sampler
        return {
            "seed": batches.seed,
            "num_rows": batches.num_rows,
            "epoch_size": batches.epoch_size,
            "global_batch_size": batches.batch_size * batches.world_size,
        }


def as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch that the dataset made whole, for a DataLoader that would collate it."""
    return batch


def begin_worker(worker: int) -> None:
    """In a worker of a loader: no threads of OpenCV, which do not survive a fork; signals are left to its parent.

    A queue or a terminal sends them to all. The workers are needed until that process has finished its batch and saved.
    """
    cv2.setNumThreads(0)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_parent_says_so, args=(os.getppid(),), daemon=True).start()


def _end_when_the_parent_says_so(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
