"""Work that processes share out, without any of them waiting for another before the end: by files that all can see."""

import json
import os
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm

from callbacks.files import open_own, own_folder, read_json, refuse_link, write_text
from callbacks.locks import lock
from datamodules.errors import UserError

STANDS = {"images": int, "is_done": bool, "process?": str}  # what a process leaves of itself, as misfit reads it
SILENCE = 600.0  # seconds without an image, after which the first process says whom it waits for


class SharedWork(Callback):
    """The first process hands out; each leaves its count; the first shows their sum, and waits for all at the end.

    Processes have unequal shares, some none, and no collective among them, which would not hear SIGTERM either: a
    file is what they can have in common. Put it behind the callbacks that write: a process is done when they are.

    Args:
        root: the set's folder, which all processes see; what is kept there lies in `FOLDER`.
        what: is being done, for the bar.
        every_seconds: between two looks at the others.
    """

    FOLDER = ".progress"

    def __init__(self, root: str | Path, what: str, every_seconds: float = 2.0) -> None:
        self.root, self.folder, self.what = Path(root), Path(root) / self.FOLDER, what
        self.every_seconds = every_seconds
        self.num_images = 0  # that all processes together are to see to
        self.num_done = 0  # by this process
        self.seconds = 0.0  # until this process was done
        self._bar: tqdm | None = None
        self._seen: IO | None = None
        self._clock = self._last = 0.0

    # -- before the Trainer, on the first process

    def begin(self) -> None:
        """Take away what a killed run has left of its shares.

        Raises:
            ValueError: some of its processes are still at work: where the first is killed alone, the others live on.
                Or the folder is a link.
        """
        refuse_link(self.folder)
        if self.folder.is_dir():
            with open_own(self.folder / "at_work", "a+") as file:
                if not lock(file):
                    left = [
                        read_json(path, STANDS).get("process", "?") for path in sorted(self.folder.glob("[0-9]*.json"))
                    ]
                    raise UserError(
                        "processes of an earlier run, whose first has ended, are still at work on the set in "
                        f"{str(self.root)!r}: {', '.join(left)}. Remedy: stop those that live, by kill and their "
                        "number."
                    )
            self.clear()

    def hand_out(self, items: Sequence[Any], num_images: int) -> None:
        """Say what all processes together are to do, and of how many images."""
        self.num_images = num_images
        write_text(own_folder(self.root, self.FOLDER) / "items.json", json.dumps(list(items)))

    def clear(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- within the Trainer, on all

    def items(self) -> list[Any]:
        """What was handed out; the Trainer has made all processes meet since."""
        return read_json(self.folder / "items.json", list, "the same command again")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Be seen to be at work, also when the first process has been killed."""
        if not trainer.is_global_zero:
            self._seen = open_own(self.folder / "at_work", "a+")
            lock(self._seen, shared=True)
            self._leave(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin at nothing."""
        self._clock, self._last, self.num_done = time.perf_counter(), 0.0, 0
        if trainer.is_global_zero:
            processes = f" on {trainer.world_size} processes" if trainer.world_size > 1 else ""
            self._bar = tqdm(total=self.num_images, unit=" images", desc=f"{self.what}{processes}", smoothing=0.05,
                             dynamic_ncols=True)  # fmt: skip

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Mapping[str, Any], batch: Any, *rest: Any
    ) -> None:
        """Count a batch."""
        self.num_done += len(next(iter(outputs.values())))
        if time.perf_counter() - self._last >= self.every_seconds:
            self._leave(trainer)
            self._show(trainer)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that this process is done; the first waits for the others, and says so when it takes long."""
        self.seconds = time.perf_counter() - self._clock
        self._leave(trainer, is_done=True)
        if trainer.is_global_zero:
            self._wait(trainer)
        self._show(trainer)
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A process without a share is done too: Lightning skips what else there is."""
        if self._clock == 0:
            self._leave(trainer, is_done=True)
            self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the bar where it is."""
        self._close()

    def speed(self, trainer: Trainer) -> dict[str, float]:
        """When all are done: what they have made, and how many a second since the first began."""
        total = self._total(trainer)
        return {"images": total, "images_per_second": total / (time.perf_counter() - self._clock)}

    def _wait(self, trainer: Trainer) -> None:
        since, total = time.perf_counter(), -1
        while behind := [rank for rank in _others(trainer) if not self._of(rank)["is_done"]]:
            self._show(trainer)
            if self._total(trainer) != total:
                since, total = time.perf_counter(), self._total(trainer)
            elif time.perf_counter() - since > SILENCE:
                tqdm.write(f"still waiting for process {', '.join(map(str, behind))}, silent for {SILENCE:.0f} seconds")
                since = time.perf_counter()
            time.sleep(min(0.2, self.every_seconds))

    def _close(self) -> None:
        for held in (self._bar, self._seen):
            if held is not None:
                held.close()
        self._bar = self._seen = None

    def _total(self, trainer: Trainer) -> int:
        return self.num_done + sum(self._of(rank)["images"] for rank in _others(trainer))

    def _of(self, rank: int) -> dict[str, Any]:
        """Where another process stands; at nothing before it has said so."""
        try:
            return read_json(self.folder / f"{rank}.json", STANDS)
        except (OSError, ValueError):
            return {"images": 0, "is_done": False}

    def _leave(self, trainer: Trainer, is_done: bool = False) -> None:
        if trainer.world_size > 1:
            process = f"{os.getpid()} on {socket.gethostname()}"
            told = {"images": self.num_done, "is_done": is_done, "process": process}
            write_text(self.folder / f"{trainer.global_rank}.json", json.dumps(told))

    def _show(self, trainer: Trainer) -> None:
        self._last = time.perf_counter()
        if self._bar is not None:
            self._bar.update(self._total(trainer) - self._bar.n)


def _others(trainer: Trainer) -> list[int]:
    return [rank for rank in range(trainer.world_size) if rank != trainer.global_rank]
