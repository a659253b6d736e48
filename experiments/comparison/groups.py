"""Which runs are the same but for their seed, and by which settings groups differ."""

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.comparison.reading import LoggedRun

# Last parts of keys that say where files are, not what is computed.
PLACES = ("output_dir", "cache_dir", "cache_workers", "resume")
START = "ckpt"  # that training started from a checkpoint counts, its path does not
CHECKPOINT, FOLDER = "<checkpoint>", "<output_dir>"
ABSENT, SEVERAL = "absent", "several"
CLASS = "_target_"  # the key of the class of a node
MOST_KEYS = 3  # settings of a label; more only where it takes them to tell groups apart
LONGEST_VALUE, LONGEST_TAG = 40, 28

Facts = dict[str, str]


@dataclass(frozen=True)
class Group:
    """Runs that are compared as one: what figures call it, what tables call it, and its runs."""

    label: str
    tag: str
    runs: tuple[LoggedRun, ...]


def group_by_name(named: Mapping[str, Sequence[LoggedRun]]) -> list[Group]:
    """The groups that a user named, those without a run left out."""
    return _groups([(name, runs) for name, runs in named.items() if runs])


def group_by_configuration(runs: Sequence[LoggedRun]) -> list[Group]:
    """Runs whose configurations are equal but for the seed form a group; in the order of their first runs."""
    clusters = list(_clusters(runs).values())
    if len(clusters) == 1:
        name = runs[0].config.get("name")
        return _groups([(str(name) if name else "all runs", runs)])
    facts = _comparable(runs)
    shown = _differences([[facts[run.folder] for run in cluster] for cluster in clusters])
    return _groups(list(zip(_labels(shown, len(clusters)), clusters, strict=True)))


def differences(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Dotted key -> its value in each group, for the keys in which runs of the groups differ but for their seeds."""
    facts = _comparable([run for group in groups for run in group.runs])
    return _differences([[facts[run.folder] for run in group.runs] for group in groups])


def leaves(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of everything that is not a mapping, or is an empty one."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _groups(named: Sequence[tuple[str, Sequence[LoggedRun]]]) -> list[Group]:
    short = all(len(label) <= LONGEST_TAG for label, _ in named)
    return [Group(label, label if short else _letters(place), tuple(runs)) for place, (label, runs) in enumerate(named)]


def _letters(place: int) -> str:
    """A, B, … Z, AA, AB, …"""
    letters = string.ascii_uppercase
    return (_letters(place // 26 - 1) if place >= 26 else "") + letters[place % 26]


def _clusters(runs: Sequence[LoggedRun]) -> dict[tuple, list[LoggedRun]]:
    """Runs of equal facts."""
    facts = _comparable(runs)
    found: dict[tuple, list[LoggedRun]] = {}
    for run in runs:
        found.setdefault(tuple(sorted(facts[run.folder].items())), []).append(run)
    return found


def _comparable(runs: Sequence[LoggedRun]) -> dict[Any, Facts]:
    """Folder -> the facts of its run that count, of `…seed` keys those that tell apart runs otherwise equal.

    A resolved configuration holds the run's seed in many places. Such a key does not count where, among runs that are
    equal otherwise, it follows the seed of the run or is the same in all.
    """
    facts = {run.folder: _facts(run) for run in runs}
    equal: dict[tuple, list[LoggedRun]] = {}
    for run in runs:
        known = tuple(sorted((key, value) for key, value in facts[run.folder].items() if not _is_seed(key)))
        equal.setdefault(known, []).append(run)
    telling: set[str] = set()
    for same in equal.values():
        for key in {key for run in same for key in facts[run.folder] if _is_seed(key)}:
            values = [facts[run.folder].get(key, ABSENT) for run in same]
            follows = all(value == _frozen(run.seed) for value, run in zip(values, same, strict=True))
            if not follows and len(set(values)) > 1:
                telling.add(key)
    return {folder: _without_seeds(known, telling) for folder, known in facts.items()}


def _without_seeds(facts: Facts, telling: set[str]) -> Facts:
    return {key: value for key, value in facts.items() if not _is_seed(key) or key in telling}


def _is_seed(key: str) -> bool:
    return key.rpartition(".")[2] == "seed"


def _facts(run: LoggedRun) -> Facts:
    """Dotted key -> value as text, but for places of files."""
    found = {}
    for key, value in leaves(run.config).items():
        if key.rpartition(".")[2] in PLACES:
            continue
        given = key == START and value is not None
        found[key] = CHECKPOINT if given else _frozen(_elsewhere(value, str(run.config.get("output_dir"))))
    return found


def _elsewhere(value: Any, folder: str) -> Any:
    """The value without the run's folder."""
    if isinstance(value, list):
        return [_elsewhere(item, folder) for item in value]
    if isinstance(value, Mapping):
        return {key: _elsewhere(item, folder) for key, item in value.items() if key not in PLACES}
    if not isinstance(value, str):
        return value
    return FOLDER + value[len(folder) :] if value == folder or value.startswith(f"{folder}/") else value


def _frozen(value: Any) -> str:
    """A value as text, 1.0 as 1."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _differences(groups: Sequence[Sequence[Facts]]) -> dict[str, list[str]]:
    """Key -> value of each group where it is not the same everywhere, without copies of a setting further down."""
    keys = dict.fromkeys(key for group in groups for facts in group for key in facts)
    found: dict[str, list[str]] = {}
    for key in keys:
        values = [sorted({facts.get(key, ABSENT) for facts in group}) for group in groups]
        if len({value for several in values for value in several}) > 1:
            found[key] = [several[0] if len(several) == 1 else SEVERAL for several in values]
    return {key: values for key, values in found.items() if not _is_copy(key, values, found)}


def _is_copy(key: str, values: list[str], found: Mapping[str, list[str]]) -> bool:
    """Whether a shorter key ends alike and has the same values: `data.module.batch_size` after `data.batch_size`."""
    last = key.rpartition(".")[2]
    return any(
        other.rpartition(".")[2] == last and other.count(".") < key.count(".") and values == theirs
        for other, theirs in found.items()
    )


def _labels(shown: Mapping[str, list[str]], num_groups: int) -> list[str]:
    """The settings of each group as `key=value …`: those that tell groups apart, and a few of the others."""
    own = {key for key, values in shown.items() if ABSENT in values and _is_of_a_class(key, shown)}
    candidates = sorted(shown, key=lambda key: (key in own, key.endswith(CLASS)))  # names of classes after the others
    chosen: list[str] = []
    for key in candidates:
        if _num_told(shown, [*chosen, key]) > _num_told(shown, chosen):
            chosen.append(key)
    others = [key for key in candidates if key not in chosen and key not in own]
    num_filled = max(0, MOST_KEYS - len(chosen))
    chosen = sorted([*chosen, *others[:num_filled]], key=list(shown).index)
    more = [f"(+{len(others) - num_filled} more)"] if len(others) > num_filled else []
    labels = [" ".join([*(_setting(key, shown[key][i]) for key in chosen), *more]) for i in range(num_groups)]
    alike = len(set(labels)) < num_groups  # values that begin alike and are cut
    return [f"{label} [{_letters(place)}]" for place, label in enumerate(labels)] if alike else labels


def _is_of_a_class(key: str, shown: Mapping[str, list[str]]) -> bool:
    """Whether a setting is below a node whose class differs, so that one class may have it and another not."""
    parts = key.split(".")
    classes = {".".join([*parts[:depth], CLASS]) for depth in range(1, len(parts))} - {key}
    return any(name in shown for name in classes)


def _setting(key: str, value: str) -> str:
    """`key=value`; of a class its name: `model.init=RandomInit`."""
    if key.endswith(f".{CLASS}"):
        key, value = key.removesuffix(f".{CLASS}"), value.rpartition(".")[2]
    return f"{key}={_cut(value)}"


def _num_told(shown: Mapping[str, list[str]], keys: Sequence[str]) -> int:
    """How many groups these settings tell apart."""
    return len(set(zip(*(map(_cut, shown[key]) for key in keys), strict=True))) if keys else 1


def _cut(value: str) -> str:
    return value if len(value) <= LONGEST_VALUE else f"{value[: LONGEST_VALUE - 1]}…"
