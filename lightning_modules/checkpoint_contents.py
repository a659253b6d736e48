"""What the parts of a checkpoint are: checked once, where it is read, so that whoever uses them need not.

Anybody may have written the file. It holds tensors and plain containers (checkpoint_shards.py); here they are seen to
be those that are expected.
"""

from collections.abc import Mapping
from typing import Any

import torch
from packaging.version import InvalidVersion, Version

from datamodules.errors import UserError
from lightning_modules.weights_file import PLAIN, is_plain

CONFIG_KEY = "synfundus_config"  # of a checkpoint: the resolved configuration of the run that wrote it
TRAINED_ON_KEY = "synfundus_trained_on"  # of a checkpoint: `trained_on` of its module
INTERPOLATION = "${"  # what follows is resolved by OmegaConf: it may read the environment, or point at another part
DEEPEST, MOST_NODES = 64, 100_000  # of a configuration: more is no configuration
VERSION_KEY = "pytorch-lightning_version"
OLDEST = Version("2.0")  # what is older Lightning would change into what it writes today
COUNTED = ("epoch", "global_step")
GROUPS = (
    ("data",),
    ("autoencoder",),
    ("model",),
    ("model", "init"),
)  # of a configuration: mappings where there are any
LOOP = ("epoch_progress", "epoch_loop.batch_progress")  # of the state of a Trainer's loop: counters
SHOWN = 4
REMEDY = "Remedy: another checkpoint of the run, checkpoints/last.ckpt or best.ckpt in its folder."


class ContentsError(UserError):
    """A part of a checkpoint that a run of ours writes is not as one writes it."""


def check_contents(checkpoint: Any, origin: str) -> None:
    """See that a checkpoint is a mapping, and that the parts of it that are ours are of their kinds.

    Args:
        origin: its path, for the message.

    Raises:
        ValueError: it is something else; names the part.
    """
    if not isinstance(checkpoint, Mapping):
        raise UserError(
            f"checkpoint {origin!r} holds a {type(checkpoint).__name__} and no 'state_dict': it was not written by a "
            f"Trainer. {REMEDY}"
        )
    for key in COUNTED if CONFIG_KEY in checkpoint else ():
        if key in checkpoint and (not isinstance(checkpoint[key], int) or checkpoint[key] < 0):
            raise ContentsError(
                f"checkpoint {origin!r}: its {key} is {_short(checkpoint[key])}, and must count. {REMEDY}"
            )
    if CONFIG_KEY in checkpoint:
        check_config(checkpoint[CONFIG_KEY], origin)
    if TRAINED_ON_KEY in checkpoint:
        _check_trained_on(checkpoint[TRAINED_ON_KEY], origin)


def check_state_dict(checkpoint: Mapping[str, Any], origin: str) -> None:
    """See that a checkpoint's `state_dict` gives tensors by their names.

    Raises:
        ValueError: there is none, or it gives something else.
    """
    if "state_dict" not in checkpoint:
        raise UserError(f"checkpoint {origin!r} holds no 'state_dict': it was not written by a Trainer. {REMEDY}")
    state, found = checkpoint["state_dict"], None
    if not isinstance(state, Mapping):
        found = f"is a {type(state).__name__}"
    for name, value in state.items() if found is None else ():
        if not isinstance(name, str) or not torch.is_tensor(value):
            found = f"gives a {type(value).__name__} by the name {_short(name)}"
        elif not is_plain(value):
            found = f"gives a tensor by the name {_short(name)} that is not {PLAIN}"
    if found is not None:
        raise UserError(f"checkpoint {origin!r}: its 'state_dict' {found}, and must give tensors by name. {REMEDY}")


def check_progress(checkpoint: Mapping[str, Any], origin: str) -> None:
    """See that a checkpoint says how far its training is, and holds what it needs to go on.

    Raises:
        ValueError: it does not; names what is not there, or of another kind.
    """
    loop = checkpoint["loops"].get("fit_loop") if isinstance(checkpoint.get("loops"), Mapping) else None
    kinds = {"epoch": int, "global_step": int, "optimizer_states": list, "lr_schedulers": list, "callbacks": Mapping}
    lacking = [key for key, kind in kinds.items() if not isinstance(checkpoint.get(key), kind)]
    if "callbacks" not in lacking and not all(isinstance(state, Mapping) for state in checkpoint["callbacks"].values()):
        lacking.append("callbacks")
    lacking += [] if _says_how_far(loop) else ["loops"]
    lacking += [] if _is_of_today(checkpoint.get(VERSION_KEY)) else [VERSION_KEY]
    if lacking:
        raise UserError(
            f"checkpoint {origin!r}: no training goes on from it: it does not hold {', '.join(lacking)} as a Trainer "
            f"writes them. Remedy: resume=<another checkpoint of the run>, or begin with its weights: ckpt={origin}."
        )


def _is_of_today(version: Any) -> bool:
    """Whether a Trainer that says that it is of this version writes checkpoints as today's does."""
    try:
        return isinstance(version, str) and Version(version) >= OLDEST
    except InvalidVersion:
        return False


def _says_how_far(loop: Any) -> bool:
    """Whether this is the state of a Trainer's loop: mappings of counters."""
    progress = [loop.get(key) for key in LOOP] if isinstance(loop, Mapping) else [None]
    counters = [
        part.get(key) if isinstance(part, Mapping) else None for part in progress for key in ("total", "current")
    ]
    return all(
        isinstance(counter, Mapping) and all(isinstance(counter.get(key), int) for key in ("ready", "completed"))
        for counter in counters
    )


def check_config(config: Any, origin: str) -> None:
    """See that a checkpoint's configuration is a mapping of plain containers, resolved: nothing of it is looked up.

    Raises:
        ValueError: it is something else, or holds an interpolation; names the place.
    """

    def refuse(what: str, remedy: str = REMEDY) -> None:
        raise ContentsError(f"checkpoint {origin!r}: its configuration ({CONFIG_KEY}) {what}. {remedy}")

    if not isinstance(config, Mapping):
        refuse(f"is a {type(config).__name__}, and must be a mapping")
    for *above, last in GROUPS:
        group = (config.get(above[0]) or {} if above else config).get(last)
        if not (group is None or isinstance(group, Mapping)):
            refuse(f"has a {type(group).__name__} at {'.'.join([*above, last])}, where a mapping must be")
    nodes, number = [(config, "", 0)], 0
    while nodes:
        node, place, depth = nodes.pop()
        number += 1
        if depth > DEEPEST or number > MOST_NODES:
            refuse("is nested too deeply, or has no end")
        if isinstance(node, str) and INTERPOLATION in node:
            refuse(
                f"holds the interpolation {_short(node)} ({place}), which no run writes, and which may read what is on "
                "this machine",
                "Remedy: if you trust the file, write there what it stands for.",
            )
        if isinstance(node, Mapping):
            for key in node:
                if not isinstance(key, str | int | float) or INTERPOLATION in str(key):
                    refuse(f"has the key {_short(key)} ({place}), which no run writes")
        elif not (node is None or isinstance(node, str | bool | int | float | list | tuple)):
            refuse(f"holds a {type(node).__name__} ({place}), and must hold text, numbers and plain containers")
        children = (
            node.items() if isinstance(node, Mapping) else enumerate(node if isinstance(node, list | tuple) else ())
        )
        nodes += [(child, f"{place}.{key}" if place else str(key), depth + 1) for key, child in children]


def _check_trained_on(facts: Any, origin: str) -> None:
    """See that what is said of the training is as `write_facts` has it."""

    def is_tensor(name: str, dtype: torch.dtype, dims: int) -> bool:
        value = facts.get(name)
        return is_plain(value) and value.dtype == dtype and value.ndim == dims

    known = isinstance(facts, Mapping) and is_tensor("patients", torch.int64, 1)
    if known and ("labels" in facts or "counts" in facts):
        known = is_tensor("labels", torch.int8, 2) and is_tensor("counts", torch.int64, 1)
        known = known and len(facts["labels"]) == len(facts["counts"]) > 0 and bool((facts["counts"] > 0).all())
    if known:
        own, unknown = facts.get("own_patients"), facts.get("unknown", [])
        known = (own is None or isinstance(own, int)) and isinstance(unknown, list | tuple)
        known = known and all(isinstance(line, str) for line in unknown)
    if not known:
        raise ContentsError(
            f"checkpoint {origin!r}: what it says of its training data ({TRAINED_ON_KEY}) is not what a run writes "
            f"(patients int64 [P], labels int8 [K, F], counts int64 [K], K and each count at least 1). {REMEDY}"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
