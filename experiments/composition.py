"""From a command line to a configuration: what experiments there are, and what is wrong with the words typed."""

import difflib
import importlib
import inspect
import os
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from hydra import compose, initialize_config_module
from hydra._internal.utils import get_args
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datamodules.findings import FINDINGS
from experiments.unions import union_sources

CONFIG_MODULE = "experiments.conf"
OPEN_KEYS = (
    "data.grid.conditions",
    "data.grid.defaults",
    "data.fractions",
    "data.roots",
    "data.own",
    "job.groups",
    "job.init_paths",
    "job.thresholds",
)  # mappings whose keys a user chooses
OPEN_NODES = ("callbacks",)  # nodes to which a user may add members that have a _target_
OF_ANY_KIND = (
    "trainer.devices",
    "model.classifier.num_frozen",
    "job.thresholds",
)  # a number, a list of devices, or auto; a number or all; a number or a mapping
INSTANTIATE_KEYS = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_"}


class CommandError(ValueError):
    """The command line asks for something that is not there; the message says what is."""


def register_resolvers() -> None:
    """Make `${finding_levels:}` (name -> number of levels), `${finding_names:}` and `${union_sources:…}` known."""
    levels = {finding.name: len(finding.levels) for finding in FINDINGS}
    OmegaConf.register_new_resolver("finding_levels", lambda: OmegaConf.create(levels), replace=True)
    OmegaConf.register_new_resolver("finding_names", lambda: OmegaConf.create(list(levels)), replace=True)
    OmegaConf.register_new_resolver("union_sources", union_sources, replace=True)


def experiments() -> dict[str, str]:
    """Name -> what it does, the first comment line of its file; in alphabetical order."""
    folder = resources.files(CONFIG_MODULE) / "exp"
    found = {}
    for file in folder.iterdir():
        if file.name.endswith(".yaml"):
            comments = [line[1:].strip() for line in file.read_text("utf-8").splitlines() if line.startswith("#")]
            found[file.name[:-5]] = next((line for line in comments if not line.startswith("@package")), "")
    return dict(sorted(found.items()))


def list_experiments() -> str:
    """The experiments, a line each, and how to start one."""
    known = experiments()
    width = max(map(len, known))
    lines = [f"  {name:<{width}}  {line}" for name, line in known.items()]
    usage = "Start one with: python -m experiments.run +exp=NAME [group=option] [key=value]"
    return "\n".join(["Experiments:", *lines, usage])


def compose_config(overrides: Iterable[str]) -> DictConfig:
    """Compose a configuration from overrides as they are typed, and check every name in it.

    Raises:
        CommandError: an experiment, group, option or key that does not exist; names the nearest.
    """
    register_resolvers()
    overrides = list(overrides)
    check_experiment(overrides)
    GlobalHydra.instance().clear()
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        try:
            cfg = compose("run", overrides=overrides, return_hydra_config=True)
            choices = OmegaConf.to_container(cfg.hydra.runtime.choices)
            reference = compose("run", overrides=[*_chosen(choices), *_search_path(overrides)])
        except (HydraException, OmegaConfBaseException) as error:
            raise CommandError(_explain(error, overrides)) from error
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    OmegaConf.set_struct(cfg, True)
    if "exp" in cfg:
        raise CommandError("the file of this experiment must begin with the line: # @package _global_")
    _check_keys(cfg, reference, "")
    missing = _missing_keys(cfg, "")
    if missing:
        raise CommandError(f"{', '.join(missing)} must be given: {' '.join(f'{key}=VALUE' for key in missing)}")
    return cfg


def check_command(arguments: list[str]) -> None:
    """Check the words of a command line before Hydra runs it; of a sweep its first combination is checked.

    Raises:
        CommandError: as `compose_config`.
    """
    parsed_arguments = get_args(arguments)
    if parsed_arguments.help or parsed_arguments.hydra_help:
        return
    words = list(parsed_arguments.overrides)
    if parsed_arguments.config_dir:
        words.append(f"hydra.searchpath=[file://{os.path.abspath(parsed_arguments.config_dir)}]")
    try:
        parsed = OverridesParser.create().parse_overrides(words)
    except HydraException as error:
        reason = ": ".join(line.strip() for line in str(error).strip().splitlines()[:2])
        raise CommandError(f"cannot read the command line. {reason}") from error
    first = []
    for word, override in zip(words, parsed, strict=True):
        swept = override.is_sweep_override()
        if swept and not parsed_arguments.multirun:
            key, _, values = word.partition("=")
            raise CommandError(f"{word}: for a list write {key}=[{values}]; to run each value add --multirun.")
        first.append(f"{word.split('=')[0]}={next(iter(override.sweep_string_iterator()))}" if swept else word)
    compose_config(first)


def check_experiment(overrides: list[str]) -> None:
    """See that one experiment is named, and that it exists.

    Raises:
        CommandError: none or an unknown one; lists them all.
    """
    named = [word.split("=", 1) for word in overrides if re.match(r"\+{0,2}exp=", word)]
    if not named:
        raise CommandError(f"no experiment is named.\n{list_experiments()}")
    key, name = named[0]
    if name not in experiments():
        raise CommandError(f"there is no experiment {name!r}{_nearest(name, experiments())}\n{list_experiments()}")
    if key != "+exp":
        raise CommandError(f"write +exp={name} instead of {key}={name}: an experiment is added to the configuration.")


def _chosen(choices: Mapping[str, Any]) -> list[str]:
    """Overrides that choose the same options of every group, without the experiment's own keys."""
    ours = {group: option for group, option in choices.items() if not group.startswith("hydra/") and group != "exp"}
    return [f"{group}={option}" for group, option in ours.items() if "/" not in group.split("@")[0] or option]


def _search_path(overrides: Iterable[str]) -> list[str]:
    """`hydra.searchpath=…`, which says where a user's own options lie."""
    return [word for word in overrides if word.startswith("hydra.searchpath=")]


def _check_keys(cfg: DictConfig, reference: Any, path: str) -> None:
    """Refuse keys that neither the option files nor the constructor of a `_target_` know."""
    known = set(reference) if isinstance(reference, DictConfig) else set()
    constructor = _parameters(cfg)
    for key in cfg:
        name = f"{path}{key}"
        node = cfg._get_node(key)
        is_new_part = path.rstrip(".") in OPEN_NODES and isinstance(node, DictConfig) and "_target_" in node
        if key not in known and constructor is not None:
            if key not in constructor | INSTANTIATE_KEYS:
                raise CommandError(_unknown_key(name, key, constructor | known))
        elif key not in known and not is_new_part:
            raise CommandError(_unknown_key(name, key, known))
        if _is_tree(node) and name not in OPEN_KEYS:
            _check_keys(node, None if key not in known else reference._get_node(key), f"{name}.")
        elif key in known:
            _check_kind(name, node, reference._get_node(key))


def _check_kind(name: str, node: Any, reference: Any) -> None:
    """Refuse text where the option file has a number, 16.5 where it has 16, `no` where it has true, and the like."""
    if any(other._is_none() or other._is_interpolation() or other._is_missing() for other in (node, reference)):
        return
    given, wanted = (_kind(other) for other in (node, reference))
    fits = given == wanted or (given, wanted) == ("a whole number", "a number")
    if not fits and wanted != "text" and name not in OF_ANY_KIND:
        raise CommandError(f"{name}={node}: {wanted} is needed here, as in {name}={reference}, and this is {given}.")


def _kind(node: Any) -> str:
    if OmegaConf.is_config(node):
        return "a list" if OmegaConf.is_list(node) else "a mapping"
    value = node._value()
    if isinstance(value, bool):
        return "true or false"
    return {int: "a whole number", float: "a number"}.get(type(value), "text")


def _missing_keys(cfg: DictConfig, path: str) -> list[str]:
    """Dotted keys whose value is ???."""
    nodes = ((f"{path}{key}", cfg._get_node(key)) for key in cfg)
    return [
        key
        for name, node in nodes
        for key in ([name] if node._is_missing() else _missing_keys(node, f"{name}.") if _is_tree(node) else [])
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
        raise CommandError(f"_target_ {target!r}: {module_name} has no {name!r}{_nearest(name, dir(module))}")
    return getattr(module, name)


def _unknown_key(path: str, key: str, known: Iterable[str]) -> str:
    names = sorted(str(name) for name in known if not str(name).startswith("_") and name != "self")
    return f"unknown key {path!r}{_nearest(key, names)} Known here: {', '.join(names)}."


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), [str(other) for other in known], n=2, cutoff=0.5)
    return f": did you mean {' or '.join(near)}?" if near else "."


def _explain(error: BaseException, overrides: list[str]) -> str:
    """What Hydra says, with the nearest name where one is misspelt."""
    text = str(error).strip()
    option = re.search(r"Could not find '([\w/]+?)/?([\w-]+)'", text)
    if option and "Available options" in text:
        listed = text.split("Available options", 1)[1].split("Config search path")[0].splitlines()[1:]
        known = [line.strip() for line in listed if line.strip() and not line.strip().startswith("_")]
        group, name = option.groups()
        if name.startswith("submitit_"):
            return f"{group}={name} is not installed. Remedy: pip install hydra-submitit-launcher."
        return f"{group} has no option {name!r}{_nearest(name, known)} Options: {', '.join(known)}."
    group = re.search(r"Could not override '([\w/@.]+)'", text)
    if group:
        key = group.group(1)
        if key in OPEN_KEYS:
            return f"{key} is added to name by name: +{key}.NAME=… for a new one, {key}.NAME=… for one that is there."
        parent, _, last = key.replace("/", ".").rpartition(".")
        if parent in OPEN_KEYS:
            return f"{parent} has no {last!r} yet: +{key}=… adds it."
        choices = [word for word in overrides if "." not in word.split("=")[0] and not word.startswith(f"{key}=")]
        while parent and not _members(parent, choices):
            parent, _, last = parent.rpartition(".")
        return _unknown_key(key, last, _members(parent, choices)) + _elsewhere(parent, last)
    return text


def _elsewhere(group: str, key: str) -> str:
    """Which options of a group have a key that the chosen one lacks."""
    folder = resources.files(CONFIG_MODULE) / group.replace(".", "/")
    files = [file for file in folder.iterdir() if file.name.endswith(".yaml")] if group and folder.is_dir() else []
    having = sorted(
        file.name[:-5] for file in files if re.search(rf"^{re.escape(key)}:", file.read_text("utf-8"), re.M)
    )
    having = [f"{group}={name}" for name in having if not name.startswith("_")]
    return f" It is a key of {', '.join(having)}." if having else ""


def _members(parent: str, choices: list[str]) -> list[str]:
    """Names below `parent` in the configuration that these words choose."""
    node = compose("run", overrides=choices)
    for part in parent.split(".") if parent else []:
        node = node.get(part) if isinstance(node, DictConfig) and part in node else None
    return [str(key) for key in node] if isinstance(node, DictConfig) else []
