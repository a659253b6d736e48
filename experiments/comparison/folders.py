"""Which folders of runs are meant by the names and patterns that a user types."""

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.errors import UserError

METRICS = "metrics.csv"
MOST_NAMED = 5  # folders that a message lists


class Found(NamedTuple):
    """Folders of runs, each once and in the order of the patterns, and folders that a pattern met with no metrics."""

    folders: list[Path]
    without_metrics: list[Path]


def find_runs(patterns: Sequence[str], key: str, own_folder: Path) -> Found:
    """The folders that hold metrics.csv among those that the patterns match.

    Args:
        key: the key of the command line that the patterns are of, for messages.
        own_folder: the folder of the comparison itself, which is no run to compare.

    Raises:
        ValueError: a pattern that no folder matches; a folder, given by its name, or all of a pattern, without metrics.
    """
    folders: dict[str, Path] = {}
    without: dict[str, Path] = {}
    for pattern in map(str, patterns):
        matched = [path for path in _matches(pattern) if not _same(path, own_folder)]
        if not matched:
            raise UserError(f"{key}={pattern}: {_why_none(pattern)}")
        logged = [path for path in matched if (path / METRICS).is_file()]
        if not logged:
            raise UserError(f"{key}={pattern}: {_why_no_metrics(matched)}")
        folders |= {os.path.realpath(path): path for path in logged if os.path.realpath(path) not in folders}
        without |= {os.path.realpath(path): path for path in matched if path not in logged}
    return Found(list(folders.values()), list(without.values()))


def find_groups(groups: Mapping[str, Sequence[str]], own_folder: Path) -> dict[str, Found]:
    """The folders of each group.

    Raises:
        ValueError: as `find_runs`; a group that is no list of patterns; a run in two groups.
    """
    found: dict[str, Found] = {}
    owner: dict[str, str] = {}
    for name, patterns in groups.items():
        key = f"job.groups.{name}"
        if isinstance(patterns, str) or not isinstance(patterns, Sequence) or not patterns:
            raise UserError(f"{key}={patterns}: a list of folders or patterns is needed, as in [runs/{name}_*].")
        found[name] = find_runs(patterns, key, own_folder)
        for folder in found[name].folders:
            other = owner.setdefault(os.path.realpath(folder), name)
            if other != name:
                raise UserError(f"{folder} is in two groups, job.groups.{other} and {key}: it may be in one.")
    return found


def short_names(folders: Sequence[Path]) -> list[str]:
    """Each folder as it is called below the folder that they all share."""
    whole = [os.path.abspath(folder) for folder in folders]
    shared = os.path.commonpath([os.path.dirname(path) for path in whole]) if whole else ""
    return [Path(os.path.relpath(path, shared)).as_posix() for path in whole]


def _matches(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():  # also one whose name has brackets
        return [path]
    return [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if os.path.isdir(name)]


def _same(path: Path, other: Path) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)


def _why_none(pattern: str) -> str:
    path = Path(pattern).expanduser()
    if path.is_file():
        return f"that is a file. Give the folder of the run: {path.parent}."
    there = path
    while not there.is_dir() and there != there.parent:
        there = there.parent
    inside = sorted(entry.name for entry in there.iterdir() if entry.is_dir())
    return f"no folder of that name, or that matches it. Folders in {there}: {_listed(inside)}."


def _why_no_metrics(folders: Sequence[Path]) -> str:
    if len(folders) > 1:
        which = _listed([str(folder) for folder in folders])
        return f"none of the {len(folders)} folders that match has a {METRICS}: {which}. Give folders of training runs."
    below = sorted(str(path.parent) for path in folders[0].glob(f"*/{METRICS}"))
    below += sorted(str(path.parent) for path in folders[0].glob(f"*/*/{METRICS}"))
    nearby = f"Runs below it: {_listed(below)}." if below else "Give the folder of a training run."
    return f"{folders[0]} has no {METRICS}: no run logged anything there. {nearby}"


def _listed(names: Sequence[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more if names else "none"
