"""Checkpoints that are whole or not there, on whatever file system the run's folder is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from callbacks.atomic import write_atomically


class WholeFiles(TorchCheckpointIO):
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
            raise TypeError("WholeFiles writes local files, which have no storage_options: leave them out")

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)

        write_atomically(path, write)
