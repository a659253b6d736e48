"""What keys and what kinds of values a configuration may hold, and what is said of others.

What an option admits stands in its own file: `# any keys: a, b.c` for mappings whose keys a user chooses, and
`# any kind: d` for values that may be of another kind than the one in the file.
"""

import importlib
import inspect
import re
from collections.abc import Iterable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from datamodules.errors import nearest
from experiments.option_folders import CommandError
from experiments.typed_text import PATHS, takes_text

OPEN_NODES = ("callbacks",)  # nodes to which a user may add members that have a _target_
INSTANTIATE_KEYS = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_"}
ADMITS = re.compile(r"^# any (keys|kind): (.+)$", re.M)


class Admitted(NamedTuple):
    """Dotted keys of mappings whose keys a user chooses, and of values that may be of any kind."""

    keys: set[str]
    kind: set[str]


def admitted(folders: Iterable[Traversable]) -> Admitted:
    """What the option files of these folders declare to admit; keys are below the group of their file."""
    found = Admitted(set(), set())
    for folder in map(str, folders):
        for file in Path(folder).rglob("*.yaml"):
            group = file.relative_to(folder).parent.parts
            for what, names in ADMITS.findall(file.read_text("utf-8", errors="replace")):
                getattr(found, what).update(".".join([*group, name.strip()]) for name in names.split(","))
    return found


def check_keys(cfg: DictConfig, reference: Any, path: str, admits: Admitted) -> None:
    """Refuse keys that neither the option files nor the constructor of a `_target_` know, and other kinds of values."""
    known = set(reference) if isinstance(reference, DictConfig) else set()
    constructor = _parameters(cfg)
    for key in cfg:
        name = f"{path}{key}"
        node = cfg._get_node(key)
        is_new_part = path.rstrip(".") in OPEN_NODES and isinstance(node, DictConfig) and "_target_" in node
        if key not in known and constructor is not None:
            if key not in constructor | INSTANTIATE_KEYS:
                raise CommandError(unknown_key(name, key, constructor | known))
        elif key not in known and not is_new_part:
            raise CommandError(unknown_key(name, key, known))
        if _is_tree(node) and name not in admits.keys:
            check_keys(node, None if key not in known else reference._get_node(key), f"{name}.", admits)
        elif key in known:
            _check_kind(name, node, reference._get_node(key), is_free=name in admits.kind)


def _check_kind(name: str, node: Any, reference: Any, is_free: bool) -> None:
    """Refuse text where the option file has a number, 16.5 where it has 16, `no` where it has true, and the like."""
    if node._is_none() and reference._is_missing():
        raise CommandError(f"{name}=null: it must be given.")
    if node._is_none() or node._is_interpolation() or node._is_missing():
        return
    given, last = _kind(node), name.rpartition(".")[2]
    if takes_text(name) and given not in ("text", "a list", "a mapping"):
        raise CommandError(
            f"{name}={node}: text is needed here, and this is {given}. Remedy: quotes, {last}: '{node}'."
        )
    if last in PATHS and node._value() == "":
        raise CommandError(f"{name} is empty: give a path, or leave the word out.")
    if reference._is_none() or reference._is_interpolation() or reference._is_missing():
        return
    wanted = _kind(reference)
    fits = given == wanted or (given, wanted) == ("a whole number", "a number")
    if not fits and wanted != "text" and not is_free:
        raise CommandError(f"{name}={node}: {wanted} is needed here, as in {name}={reference}, and this is {given}.")


def _kind(node: Any) -> str:
    if OmegaConf.is_config(node):
        return "a list" if OmegaConf.is_list(node) else "a mapping"
    value = node._value()
    if isinstance(value, bool):
        return "true or false"
    return {int: "a whole number", float: "a number"}.get(type(value), "text")


def missing_keys(cfg: DictConfig, path: str) -> list[str]:
    """Dotted keys whose value is ???."""
    nodes = ((f"{path}{key}", cfg._get_node(key)) for key in cfg)
    return [
        key
        for name, node in nodes
        for key in ([name] if node._is_missing() else missing_keys(node, f"{name}.") if _is_tree(node) else [])
    ]


def _is_tree(node: Any) -> bool:
    return isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation()


def _parameters(cfg: DictConfig) -> set[str] | None:
    """Names of the parameters of a node's `_target_`; None where any or none are admitted by it."""
    target = cfg.get("_target_") if "_target_" in cfg and not OmegaConf.is_missing(cfg, "_target_") else None
    if target is None:
        return None
    parameters = inspect.signature(locate(target)).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def locate(target: str) -> Any:
    """The class or function at a dotted path.

    Raises:
        CommandError: no such module or member; names the nearest members.
    """
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise CommandError(f"_target_ {target!r}: cannot import {module_name!r} ({error}).") from error
    if not hasattr(module, name):
        raise CommandError(f"_target_ {target!r}: {module_name} has no {name!r}{suggestion(name, dir(module))}")
    return getattr(module, name)


def unknown_key(path: str, key: str, known: Iterable[str]) -> str:
    """What is said of the last part `key` of a dotted key that is not among the known ones."""
    names = sorted(str(name) for name in known if not str(name).startswith("_") and name != "self")
    return f"unknown key {path!r}{suggestion(key, names)} Known here: {', '.join(names)}."


def suggestion(name: str, known: Iterable[str], num: int = 2) -> str:
    """`: did you mean …?` of the known names that are like this one, for the end of a sentence; else a full stop."""
    near = nearest(name, known, num, cutoff=0.5)
    return f": did you mean {' or '.join(near)}?" if near else "."
