"""What strategies that share out weights have in common: checkpoints in shares, which any of them can read."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.tensor as dtensor
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from lightning_modules.checkpoint import load_state
from lightning_modules.checkpoint_shards import ShardedState, close_folder, new_folder, prune


class ShardedCheckpoints:
    """Mixin of a strategy: each process writes its share, and reads its share of whatever another strategy wrote.

    In memory a checkpoint's tensors are DTensors, cut along their first dimension over `mesh`. What is saved under one
    strategy or number of processes goes on under another, a single file included.
    """

    restore_checkpoint_after_setup = True
    lightning_restore_optimizer = True
    _writers: dist.ProcessGroup | None = None

    @property
    def mesh(self) -> DeviceMesh:
        """All processes in a row."""
        raise NotImplementedError

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Write shares, then name them by `filepath`; a crash leaves the checkpoint that was there before."""
        path, later = Path(filepath), getattr(self.checkpoint_io, "later", None)
        self.finish_writing()
        if self._writers is None:  # processes that talk of this alone, so that a thread of theirs may do it
            self._writers = dist.new_group(backend="gloo")
        folder = self.broadcast(new_folder(path, checkpoint.get("global_step", 0)))
        folder.mkdir(parents=True, exist_ok=True)
        shares = ShardedState(checkpoint)
        if later:
            later(self._write, shares, folder, path)
        else:
            self._write(shares, folder, path)

    def _write(self, shares: ShardedState, folder: Path, path: Path) -> None:
        sizes, seen = shares.write(folder, self._writers), [{}] * self.world_size
        dist.all_gather_object(seen, sizes, self._writers)
        if self.is_global_zero:
            close_folder(shares.rest, seen, folder, path)
        dist.barrier(self._writers)

    def finish_writing(self) -> None:
        """Return once this process's part of the last checkpoint is on the disk, where a thread writes it."""
        getattr(self.checkpoint_io, "wait", lambda: None)()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """This process's shares, of a checkpoint in shares or in one file."""
        self.finish_writing()
        return load_state(checkpoint_path, self._place)

    def remove_checkpoint(self, filepath: str | Path) -> None:
        """Delete a checkpoint with its shares."""
        self.finish_writing()
        if self.is_global_zero:
            Path(filepath).unlink(missing_ok=True)
            prune(Path(filepath).parent)

    def _place(self, name: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
        if len(size):
            return dtensor.empty(size, dtype=dtype, device_mesh=self.mesh, placements=[Shard(0)])
        return torch.empty(size, dtype=dtype)

    def share(self, tensor: Tensor) -> Tensor:
        """A whole tensor, or one in shares, in shares; a number as it is."""
        if isinstance(tensor, DTensor) or not tensor.ndim:
            return tensor
        tensor = tensor.to(self.root_device)
        shares = distribute_tensor(tensor, self.mesh, [Shard(0)], src_data_rank=None)  # all have it: nothing is sent
        return shares.clone()  # no view, which would keep all of it in memory


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together from its shares; every process calls it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
