"""From a command line to a configuration: what experiments there are, and what is wrong with the words typed."""

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import yaml
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datamodules.findings import FINDINGS
from experiments.known_keys import Admitted, admitted, check_keys, missing_keys, suggestion, unknown_key
from experiments.option_folders import (
    HOW_TO_QUOTE,
    SEARCH_WORD,
    CommandError,
    option_files,
    own_folders,
    read_arguments,
    searched,
    unreadable,
)
from experiments.typed_text import OPTIONS as CONFIG_MODULE
from experiments.typed_text import as_typed, quoted
from experiments.unions import union_sources

INTERPOLATION = "${…} is the value of another key. Remedy: name one that is there; rename what has ${ in its own name."


def register_resolvers() -> None:
    """Make `${finding_levels:}` (name -> number of levels), `${finding_names:}` and `${union_sources:…}` known."""
    levels = {finding.name: len(finding.levels) for finding in FINDINGS}
    OmegaConf.register_new_resolver("finding_levels", lambda: OmegaConf.create(levels), replace=True)
    OmegaConf.register_new_resolver("finding_names", lambda: OmegaConf.create(list(levels)), replace=True)
    OmegaConf.register_new_resolver("union_sources", union_sources, replace=True)


def experiments(words: Iterable[str] = ()) -> dict[str, str]:
    """Name -> what it does, the first comment line of its file; in alphabetical order.

    With those of the folders of one's own that these words of a command line name.
    """
    found = {}
    for file in option_files([resources.files(CONFIG_MODULE), *own_folders(words)], "exp"):
        text = file.read_text("utf-8", errors="replace")
        comments = [line[1:].strip() for line in text.splitlines() if line.startswith("#")]
        found[file.name[:-5]] = next((line for line in comments if not line.startswith("@package")), "")
    return dict(sorted(found.items()))


def list_experiments(known: Mapping[str, str]) -> str:
    """The experiments, a line each, and how to start one."""
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
    overrides = as_typed(overrides)
    check_experiment(overrides)
    GlobalHydra.instance().clear()
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        try:
            cfg = compose("run", overrides=overrides, return_hydra_config=True)
            choices = OmegaConf.to_container(cfg.hydra.runtime.choices)
            reference = compose("run", overrides=[*_chosen(choices), *_search_path(overrides)])
        except (HydraException, OmegaConfBaseException) as error:
            raise CommandError(_explain(error, overrides)) from error
        except yaml.YAMLError as error:
            raise CommandError(f"an option file is no YAML: {error}") from error
        except UnicodeDecodeError as error:
            file = unreadable(own_folders(overrides))
            raise CommandError(f"option file {file}: {error}. Remedy: save it as UTF-8.") from error
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    OmegaConf.set_struct(cfg, True)
    if "exp" in cfg:
        raise CommandError("the file of this experiment must begin with the line: # @package _global_")
    check_keys(cfg, reference, "", _admitted(overrides))
    missing = missing_keys(cfg, "")
    if missing:
        raise CommandError(f"{', '.join(missing)} must be given: {' '.join(f'{key}=VALUE' for key in missing)}")
    return cfg


def check_resolved(tree: Any, place: str = "") -> None:
    """See that nothing in a resolved configuration holds `${`: checkpoints of such a run would not be read again.

    Raises:
        CommandError: something does; names the key.
    """
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            inner = f"{place}.{key}" if place else str(key)
            check_resolved(str(key), inner)
            check_resolved(value, inner)
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            check_resolved(value, f"{place}[{number}]")
    elif isinstance(tree, str) and "${" in tree:
        raise CommandError(f"{place} is {tree!r}, and ${{ may be in no name. Remedy: rename it, or leave it out.")


def check_command(arguments: list[str]) -> list[str]:
    """Check the words of a command line before Hydra runs it; of a sweep its first combination is checked.

    Returns:
        The same words, paths and names quoted where Hydra would take them for something else.

    Raises:
        CommandError: as `compose_config`.
    """
    given = read_arguments(arguments)
    if given.help or given.hydra_help:
        return arguments
    is_sweep = given.multirun or "hydra.mode=MULTIRUN" in given.overrides
    typed = as_typed(given.overrides, is_sweep)
    words = [word for word in typed if not SEARCH_WORD.match(word)]
    places = ",".join(map(quoted, searched(arguments)))
    try:
        parsed = OverridesParser.create().parse_overrides(words)
    except HydraException as error:
        reason = ": ".join(line.strip() for line in str(error).strip().splitlines()[:2])
        remedy = "" if "missing EQUAL" in reason else f". {HOW_TO_QUOTE}"
        raise CommandError(f"cannot read the command line. {reason}{remedy}") from error
    first = [f"hydra.searchpath=[{places}]"] if places else []
    for word, override in zip(words, parsed, strict=True):
        swept = override.is_sweep_override()
        if swept and not is_sweep:
            key, _, values = word.partition("=")
            raise CommandError(
                f"{word}: for a list write {key}=[{values}]; to run each value add --multirun; for a text with a comma "
                f"in it \"{key}='{values}'\"."
            )
        if any(isinstance(value, Sweep) for value in getattr(override.value(), "list", ())):
            raise CommandError(f"{word}: a sweep is one of its own values. Remedy: values alone, as key=a,b,c.")
        first.append(f"{word.split('=')[0]}={next(iter(override.sweep_string_iterator()))}" if swept else word)
    compose_config(first)
    flags = [argument for argument in arguments if argument not in given.overrides]
    return [*flags, *typed]  # Hydra takes no flag between other words


def check_experiment(overrides: list[str]) -> None:
    """See that one experiment is named, and that it exists.

    Raises:
        CommandError: none or an unknown one; lists them all.
    """
    named = [word.split("=", 1) for word in overrides if re.match(r"\+{0,2}exp=", word)]
    known = experiments(overrides)
    if not named:
        raise CommandError(f"no experiment is named.\n{list_experiments(known)}")
    key, name = named[0][0], named[0][1].strip("'\"")
    if name not in known:
        raise CommandError(f"there is no experiment {name!r}{suggestion(name, known)}\n{list_experiments(known)}")
    if key != "+exp":
        raise CommandError(f"write +exp={name} instead of {key}={name}: an experiment is added to the configuration.")


def _chosen(choices: Mapping[str, Any]) -> list[str]:
    """Overrides that choose the same options of every group, without the experiment's own keys."""
    ours = {group: option for group, option in choices.items() if not group.startswith("hydra/") and group != "exp"}
    return [f"{group}={option}" for group, option in ours.items() if "/" not in group.split("@")[0] or option]


def _search_path(overrides: Iterable[str]) -> list[str]:
    """`hydra.searchpath=…`, which says where a user's own options lie."""
    return [word for word in overrides if SEARCH_WORD.match(word)]


def _admitted(overrides: Iterable[str]) -> Admitted:
    """What our option files and those of the folders of one's own admit."""
    return admitted([resources.files(CONFIG_MODULE), *own_folders(overrides)])


def _explain(error: BaseException, overrides: list[str]) -> str:
    """What Hydra says, with the nearest name where one is misspelt."""
    text = str(error).strip()
    option = re.search(r"Could not find '([\w/]+)/([^'/]+)'", text)
    if option and "Available options" in text:
        listed = text.split("Available options", 1)[1].split("Config search path")[0].splitlines()[1:]
        known = [line.strip() for line in listed if line.strip() and not line.strip().startswith("_")]
        group, name = option.groups()
        if name.startswith("submitit_"):
            return f"{group}={name} is not installed. Remedy: pip install hydra-submitit-launcher."
        return f"{group} has no option {name!r}{suggestion(name, known)} Options: {', '.join(known)}."
    group = re.search(r"Could not override '([\w/@.]+)'", text)
    if group:
        key = group.group(1)
        open_keys = _admitted(overrides).keys
        if key in open_keys:
            return f"{key} is added to name by name: +{key}.NAME=… for a new one, {key}.NAME=… for one that is there."
        parent, _, last = key.replace("/", ".").rpartition(".")
        if parent in open_keys:
            return f"{parent} has no {last!r} yet: +{key}=… adds it."
        choices = [word for word in overrides if "." not in word.split("=")[0] and not word.startswith(f"{key}=")]
        choices += _search_path(overrides)
        while parent and not _members(parent, choices):
            parent, _, last = parent.rpartition(".")
        return unknown_key(key, last, _members(parent, choices)) + _elsewhere(parent, last)
    return f"{text}\n{INTERPOLATION}" if "${" in text else text


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
