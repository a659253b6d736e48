"""Checkpoints: read them safely, and say what differs when one does not fit the module."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datamodules.errors import UserError
from lightning_modules.checkpoint_contents import (
    CONFIG_KEY,
    SHOWN,
    TRAINED_ON_KEY,
    check_contents,
    check_progress,
    check_state_dict,
)
from lightning_modules.checkpoint_shards import REST, Place, read_file, read_rest, read_sharded
from lightning_modules.weights_file import check_finite


def load_state(path: str | Path, place: Place | None = None) -> dict[str, Any]:
    """Checkpoint at `path`, tensors on the CPU; nothing but tensors and plain containers is ever unpickled.

    Args:
        path: a file, or the folder of a checkpoint in shares.
        place: what the tensors of a sharded checkpoint are read into, as `read_sharded` has it.

    Raises:
        FileNotFoundError: no such file; lists the checkpoints that are beside it.
        ValueError: a file that is no checkpoint, or not a whole one; one without a state_dict; parts of other kinds
            than they must be, see checkpoint_contents.py.
    """
    path = Path(path).expanduser()
    checkpoint = read_sharded(path, place) if path.is_dir() else _read_file(path)
    check_contents(checkpoint, str(path))
    check_state_dict(checkpoint, str(path))
    return checkpoint


def best_of_run(path: str | Path) -> Path:
    """The best checkpoint of a run whose folder this is; the path itself where it is a checkpoint's."""
    path = Path(path).expanduser()
    return path / "checkpoints" / "best.ckpt" if path.is_dir() and not (path / REST).is_file() else path


def run_of(path: str | Path) -> Path | None:
    """The folder of the run that wrote a checkpoint; None for one that does not lie where a run puts it.

    A sharded checkpoint is a link into a folder below `checkpoints`: the link's own place counts, then its target's.
    """
    path = Path(path).expanduser()
    folders = (folder for place in (path.absolute(), path.resolve()) for folder in place.parents[:2])
    return next((folder.parent for folder in folders if folder.name == "checkpoints"), None)


def load_progress(path: str | Path) -> dict[str, Any]:
    """As `load_state`, for what is said of the training: tensors of weights and optimisers are not read.

    Raises:
        FileNotFoundError, ValueError: see `load_state`.
    """
    path = Path(path).expanduser()
    progress = read_rest(path) if path.is_dir() else _read_file(path)
    check_contents(progress, str(path))
    return progress


def load_training(path: str | Path) -> dict[str, Any]:
    """As `load_progress`, of a checkpoint that training is to go on from.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `load_state`; or it holds weights alone, without the state of the optimiser and of the loops.
    """
    progress = load_progress(path)
    check_progress(progress, str(path))
    return progress


def _read_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        hint = f"Beside it: {', '.join(beside[:8])}." if beside else "There is no checkpoint in that folder either."
        raise FileNotFoundError(f"checkpoint {str(path)!r} does not exist. {hint}")
    return read_file(path)


def write_facts(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Add to a checkpoint what its module was made by and trained on, as far as that is known.

    `module.config` is the resolved configuration. `module.trained_on` says whose photographs trained it, directly or
    through the weights that it began with: `patients`, codes as int64 [P] (the bits of the uint64 of
    datamodules/synthetic/lineage.py); and what its training images show: `labels` int8 [K, F], rows that differ, -1
    unknown, and `counts` int64 [K], how many images have each. `own_patients` counts those patients whose photographs
    are among these images, without those known through weights alone; older checkpoints lack it. What the training
    began with and does not say whose photographs it saw, `unknown` lists in words.
    """
    for key, facts in ((CONFIG_KEY, module.config), (TRAINED_ON_KEY, module.trained_on)):
        if facts is not None:
            checkpoint[key] = facts


def weights_fingerprint(*networks: nn.Module) -> str:
    """16 hexadecimal digits over the names and values of the networks' weights."""
    digest = hashlib.blake2b(digest_size=8)
    for network in networks:
        for name, tensor in network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_weights(module: nn.Module, checkpoint: Mapping[str, Any], origin: str) -> None:
    """Load the weights of `checkpoint`, all of them, into `module`.

    Args:
        origin: its path, for the message.

    Raises:
        ValueError: the checkpoint is of another architecture, see `check_architecture`; or weights are NaN.
    """
    try:
        check_architecture(module, checkpoint)
    except ValueError as error:
        raise UserError(f"{origin}: {error}") from error
    check_finite(checkpoint["state_dict"], origin)
    module.load_state_dict(checkpoint["state_dict"])


def check_architecture(module: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Compare names and shapes of the weights before they are loaded.

    Raises:
        ValueError: names the first weights that differ, and the options that differ when both configurations are known
            (`module.config` and the checkpoint's).
    """
    own = module.state_dict(keep_vars=True).items()
    ours = {name: tuple(getattr(tensor, "ds_shape", tensor.shape)) for name, tensor in own if torch.is_tensor(tensor)}
    theirs = {name: tuple(t.shape) for name, t in checkpoint["state_dict"].items() if torch.is_tensor(t)}
    shapes = [f"{n} is {ours[n]} here, {theirs[n]} there" for n in ours if n in theirs and ours[n] != theirs[n]]
    missing = [name for name in ours if name not in theirs]
    unexpected = [name for name in theirs if name not in ours]
    if not (shapes or missing or unexpected):
        return
    lines = [f"the checkpoint is of another architecture than this {type(module).__name__}:"]
    for title, names in (
        ("shapes differ", shapes),
        ("only here", missing),
        ("only in the checkpoint", unexpected),
    ):
        if names:
            more = f", … ({len(names)} in all)" if len(names) > SHOWN else ""
            lines.append(f"  {title}: {', '.join(names[:SHOWN])}{more}")
    differences = config_differences(getattr(module, "config", None), checkpoint.get(CONFIG_KEY))
    if differences:
        lines.append("  options that differ: " + "; ".join(differences[: 2 * SHOWN]))
    lines.append("Give the options that the checkpoint was trained with, or a checkpoint of this architecture.")
    raise UserError("\n".join(lines))


def config_differences(ours: Mapping | None, theirs: Mapping | None) -> list[str]:
    """Options under `model` that differ between two configurations, as "name: here, there"; empty if one is unknown."""
    if ours is None or theirs is None:
        return []
    here, there = (_flatten(config.get("model", config)) for config in (ours, theirs))
    absent = "(absent)"
    return [
        f"model.{name}: {here.get(name, absent)} here, {there.get(name, absent)} there"
        for name in dict.fromkeys([*here, *there])
        if here.get(name, absent) != there.get(name, absent)
    ]


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, list | tuple) and any(isinstance(value, Mapping) for value in tree):
        tree = dict(enumerate(tree))
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
