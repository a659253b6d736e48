"""Checkpoints in shares: each process writes its own part of every tensor, and any number of processes reads them.

`checkpoints/last.ckpt` is a link to a folder below `checkpoints/shards/`, put there once the folder is whole and on the
disk. The folder holds the tensors in safetensors files with the places of their parts, as torch.distributed.checkpoint
writes them, and `checkpoint.pt` with everything else and the sizes of those files. Nothing in it is unpickled but
tensors and plain containers.
"""

import copy
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from datamodules.errors import UserError
from lightning_modules.weights_file import not_of_the_file, reason_of

FOLDER = "shards"
REST = "checkpoint.pt"  # of a folder: what is not a tensor, and the sizes of the files
TENSOR = "__tensor__"  # stands for a tensor in it that lies in the other files, with its name
SHARED_OUT = ("state_dict", "optimizer_states")  # keys of a checkpoint whose tensors lie in them

Place = Callable[[str, torch.Size, torch.dtype], Tensor]  # name, shape and type -> what the tensor is read into


def new_folder(path: Path, step: int) -> Path:
    """A name for the folder of a checkpoint at `path`: beside those of earlier ones, and new."""
    return path.parent / FOLDER / f"{path.stem}-{step:08d}-{secrets.token_hex(3)}"


class ShardedState:
    """This process's shares of a checkpoint, as they are when this is made: a copy in the processor's memory.

    Args:
        checkpoint: nested plain containers; of a DTensor each process has its part, of another tensor one writes all.

    Attributes:
        rest: what is not a tensor, for `close_folder`.
    """

    def __init__(self, checkpoint: Mapping[str, Any]) -> None:
        self._tensors: dict[str, Tensor] = {}
        self.rest = {
            key: _taken_apart(part, key, self._tensors) if key in SHARED_OUT else copy.deepcopy(part)
            for key, part in checkpoint.items()
        }

    def write(self, folder: Path, group: ProcessGroup | None = None) -> dict[str, int]:
        """Write them to `folder`; every process of `group` calls it. Returns the sizes of the files that it sees.

        Raises:
            Exception: what the first of the processes that failed has raised, on all.
        """
        try:
            dcp.save(
                self._tensors,
                storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
                process_group=group,
            )
        except CheckpointException as error:  # no Exception, and all that each process says at length
            raise next(iter(error.failures.values()))[0] from error
        return {file.name: file.stat().st_size for file in folder.glob("*.safetensors")}


def close_folder(rest: Any, sizes: Sequence[Mapping[str, int]], folder: Path, path: Path) -> None:
    """Once all shares are written, and on one process: put the folder on the disk and let `path` name it.

    Args:
        sizes: of the files, as each process sees them: over a network one may not see another's yet, or not whole.
    """
    largest = {name: max(seen.get(name, 0) for seen in sizes) for name in sorted(set().union(*sizes))}
    with open(folder / REST, "wb") as file:  # by which an error of the disk keeps its number
        torch.save({"rest": rest, "sizes": largest}, file)
    for part in (*folder.iterdir(), folder):
        _sync(part)
    link = path.with_name(f".{path.name}.{folder.name[-6:]}")
    link.symlink_to(folder.relative_to(path.parent), target_is_directory=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    os.replace(link, path)
    _sync(path.parent)
    prune(path.parent)


def prune(checkpoints: Path) -> None:
    """Delete the folders of shares that no checkpoint names: of earlier checkpoints, and of crashes."""
    links = [entry for entry in checkpoints.iterdir() if entry.is_symlink()]
    for link in links:
        if link.name.startswith("."):  # of a crash just before it took the place of another
            link.unlink()
    named = {link.resolve() for link in links if not link.name.startswith(".")}
    for folder in (checkpoints / FOLDER).glob("*"):
        if folder.resolve() not in named:
            shutil.rmtree(folder, ignore_errors=True)  # NFS keeps what somebody reads; the next time it goes


def read_rest(path: Path, folder: Path | None = None) -> Any:
    """What a checkpoint in shares holds besides tensors, which are named in their places.

    Args:
        folder: what `path` is a link to, where that has been found out already.

    Raises:
        ValueError: a folder that is none, or of which a file is not whole.
    """
    folder = folder or path.resolve()
    if not (folder / REST).is_file():
        if (folder / "checkpoints").is_dir():
            raise UserError(f"{path} is the folder of a run: name its checkpoint, {path}/checkpoints/best.ckpt.")
        raise UserError(f"{path} is a folder without {REST}: no checkpoint in shares, or one that was never finished.")
    saved = read_file(folder / REST, mapped=False)
    parts = [saved.get(key) for key in ("rest", "sizes")] if isinstance(saved, Mapping) else [None]
    if not all(isinstance(part, Mapping) for part in parts):
        raise UserError(f"{path}: its file {REST} is not what a run writes. Give another checkpoint of the run.")
    for name, size in saved["sizes"].items():
        if not (isinstance(name, str) and re.fullmatch(r"[\w.-]{1,240}\.safetensors", name, re.ASCII)):
            raise UserError(
                f"{path}: its {REST} names the file {name!r:.100}, and must name files of the folder that end in "
                ".safetensors. Give another checkpoint of the run."
            )
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found} bytes and was written with {size}"
            raise UserError(f"{path}: its file {name} {what}. Give another checkpoint of the run.")
    return saved["rest"]


def read_file(path: Path, mapped: bool = True) -> Any:
    """What a file holds: tensors and plain containers.

    Args:
        mapped: tensors are read from the file when they are used, which has to be there as long.

    Raises:
        ValueError: it is cut short, or something else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # of what kind depends on where the file is cut, or on what it is instead
        if not_of_the_file(error):
            raise
        raise UserError(
            f"checkpoint {str(path)!r} is no whole checkpoint of tensors and plain containers: {reason_of(error)}. "
            "Give another checkpoint of the run, checkpoints/last.ckpt or best.ckpt in its folder."
        ) from error


def read_sharded(path: Path, place: Place | None = None) -> dict[str, Any]:
    """A checkpoint in shares, each tensor put together on the CPU, or read into what `place` makes for it.

    A run that saves meanwhile takes away the one that was begun; then the new one is read.

    Raises:
        ValueError: see `read_rest`; or parts of a tensor are in none of the files.
    """
    folder = path.resolve()
    try:
        return _read_folder(path, folder, place)
    except (OSError, ValueError, CheckpointException):
        if path.resolve() == folder:
            raise
        return _read_folder(path, path.resolve(), place)


def _read_folder(path: Path, folder: Path, place: Place | None) -> dict[str, Any]:
    rest = read_rest(path, folder)
    try:
        tensors = _read_tensors(path, folder, place)
        return {key: _put_together(part, tensors) if key in SHARED_OUT else part for key, part in rest.items()}
    except (Exception, CheckpointException) as error:  # of what kind depends on which byte of which file is wrong
        if str(path) in str(error) or not_of_the_file(error):
            raise
        raise UserError(
            f"{path}: its files are not whole ({type(error).__name__}: {error!s:.200}). Give "
            "another checkpoint of the run."
        ) from error


def _read_tensors(path: Path, folder: Path, place: Place | None) -> dict[str, Tensor]:
    reader = HuggingFaceStorageReader(str(folder))
    described = reader.read_metadata().state_dict_metadata
    for name, about in described.items():
        if sum(chunk.sizes.numel() for chunk in about.chunks) != about.size.numel():
            raise UserError(f"{path}: parts of {name} are in no file. Give another checkpoint of the run.")
    make = place or (lambda name, size, dtype: torch.empty(size, dtype=dtype))
    tensors = {name: make(name, about.size, about.properties.dtype) for name, about in described.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it may be
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def _taken_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` with tensors replaced by their names, under which they are put into `tensors`."""
    if isinstance(value, Tensor):
        # On the CPU: no second copy on the device. Copies: safetensors takes no views, and no two of one memory.
        tensors[name] = value.detach().contiguous().to("cpu", copy=True)
        return {TENSOR: name}
    if isinstance(value, Mapping):
        return {key: _taken_apart(part, f"{name}/{key}", tensors) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_taken_apart(part, f"{name}/{place}", tensors) for place, part in enumerate(value))
    return value


def _put_together(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, Mapping):
        if TENSOR in value:
            return tensors[value[TENSOR]]
        return {key: _put_together(part, tensors) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_put_together(part, tensors) for part in value)
    return value


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
