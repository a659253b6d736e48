"""A progress bar over all processes that make images, without any of them waiting for another."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm

from callbacks.atomic import write_text


class SynthesisProgress(Callback):
    """Each process leaves its count in a file of the set's folder; the first shows their sum, with rate and time left.

    Processes have unequal shares and no collective among them, so a count in a file is what they can have in common.

    Args:
        root: the set's folder, which all processes see.
        num_images: that all processes together are to make.
        every_seconds: between two looks at the others.
        unit: what is counted.
    """

    FOLDER = ".progress"

    def __init__(self, root: str | Path, num_images: int, every_seconds: float = 2.0, unit: str = "images") -> None:
        self.folder, self.num_images, self.every_seconds = Path(root) / self.FOLDER, num_images, every_seconds
        self.unit = unit
        self.num_done = 0  # by this process
        self.seconds = 0.0
        self._bar: tqdm | None = None
        self._clock = self._last = 0.0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin at nothing."""
        self._clock, self._last, self.num_done = time.perf_counter(), 0.0, 0
        self._leave(trainer)
        if trainer.is_global_zero:
            processes = f" on {trainer.world_size} processes" if trainer.world_size > 1 else ""
            self._bar = tqdm(total=self.num_images, unit=f" {self.unit}", desc=f"synthesis{processes}", smoothing=0.05,
                             dynamic_ncols=True)  # fmt: skip

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Mapping[str, Any],
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Count a batch."""
        self.num_done += len(batch["labels"])
        if time.perf_counter() - self._last >= self.every_seconds:
            self._leave(trainer)
            self._show(trainer)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that this process is done; the bar stays until the others are."""
        self.seconds = time.perf_counter() - self._clock
        self._leave(trainer)
        self._show(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the bar where it is."""
        self._close()

    def finish(self, trainer: Trainer) -> tuple[int, float]:
        """When all are done: end the bar; returns what they all have made, and the seconds since this one began."""
        self._show(trainer)
        self._close()
        return self._total(trainer), time.perf_counter() - self._clock

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _total(self, trainer: Trainer) -> int:
        return self.num_done + sum(self._of(rank) for rank in range(trainer.world_size) if rank != trainer.global_rank)

    def _of(self, rank: int) -> int:
        """Another process's count; 0 before it has left one."""
        try:
            return json.loads((self.folder / f"{rank}.json").read_text("utf-8"))["images"]
        except (OSError, ValueError):
            return 0

    def _leave(self, trainer: Trainer) -> None:
        if trainer.world_size > 1:
            write_text(self.folder / f"{trainer.global_rank}.json", json.dumps({"images": self.num_done}))

    def _show(self, trainer: Trainer) -> None:
        self._last = time.perf_counter()
        if self._bar is not None:
            self._bar.update(self._total(trainer) - self._bar.n)
