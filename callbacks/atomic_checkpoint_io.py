"""Checkpoints that are whole or not there, on whatever file system the run's folder is."""

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from torch.utils._pytree import tree_leaves

from callbacks.files import write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint beside its place and move it there once it is on the disk; a plugin of the Trainer.

    Lightning writes into the system's folder for temporary files and moves from there, which between two file systems
    is a copy: a kill meanwhile leaves half a checkpoint in the place of the whole one. Paths are local.

    Args:
        read: a checkpoint's path -> what it holds, with tensors on the CPU; one that another strategy wrote included.
    """

    def __init__(self, read: Callable[[str | Path], dict[str, Any]]) -> None:
        self.read = read

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Read it; nothing but tensors and plain containers is ever unpickled, whatever `weights_only` says."""
        return self.read(path)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write checkpoint to path.

        Raises:
            TypeError: storage_options are given, of which a local file has none.
            OSError: whatever the disk says; path is then as it was before.
        """
        if storage_options is not None:
            raise TypeError("AtomicCheckpointIO writes local files, which have no storage_options: leave them out")

        write_atomically(path, lambda temporary: to_file(checkpoint, temporary))


class AsyncAtomicCheckpointIO(AtomicCheckpointIO):
    """AtomicCheckpointIO that writes in a thread while the training goes on.

    What is written is a copy in the processor's memory, taken before `save_checkpoint` returns. One is written at a
    time: the next save waits for it, and raises what its writing raised. So does `teardown`, at the end of a training;
    after it nothing goes on that would be held up, and files are written at once.

    Lightning's AsyncCheckpointIO copies on the device, lets copies pile up, and loses errors after `teardown`.
    """

    def __init__(self, read: Callable[[str | Path], dict[str, Any]]) -> None:
        super().__init__(read)
        self._thread: ThreadPoolExecutor | None = ThreadPoolExecutor(1)
        self._written: Future | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """As AtomicCheckpointIO, later; raises what the save before it should have."""
        self.wait()
        copied = checkpoint if self._thread is None else snapshot(checkpoint)
        self.later(super().save_checkpoint, copied, path, storage_options)

    def later(self, write: Callable[..., None], *arguments: Any) -> None:
        """Call `write` in the thread, after what it writes already; here and at once where nothing goes on."""
        self.wait()
        if self._thread is None:
            write(*arguments)
        else:
            self._written = self._thread.submit(write, *arguments)

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """As AtomicCheckpointIO."""
        self.wait()
        return super().load_checkpoint(path, map_location, weights_only)

    def remove_checkpoint(self, path: str | Path) -> None:
        """As AtomicCheckpointIO."""
        self.wait()
        super().remove_checkpoint(path)

    def wait(self) -> None:
        """Return once the last checkpoint is on the disk.

        Raises:
            OSError: whatever the disk said; the file is then as it was before.
        """
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def teardown(self) -> None:
        """Wait, and write at once from now on."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        self.wait()


def to_file(value: Any, path: Path) -> None:
    """As torch.save, which opens a file in a way that loses the number of an error of the disk."""
    with path.open("wb") as file:
        torch.save(value, file)


def snapshot(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A copy that nothing changes any more, its tensors in the processor's memory."""
    tensors = (leaf for leaf in tree_leaves(checkpoint) if isinstance(leaf, torch.Tensor))
    return copy.deepcopy(checkpoint, {id(tensor): tensor.detach().to("cpu", copy=True) for tensor in tensors})


def finish_writing(trainer: Trainer) -> None:
    """Return once what the Trainer has saved is on the disk; see AsyncAtomicCheckpointIO."""
    if isinstance(trainer.strategy.checkpoint_io, AsyncAtomicCheckpointIO):
        trainer.strategy.checkpoint_io.wait()
