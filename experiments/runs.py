"""The folder of a run: a new one, or the one to go on with."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER_VARIABLE = "SYNFUNDUS_OUTPUT_DIR"  # tells the processes that a run starts which folder it has
RESUME_VARIABLE = "SYNFUNDUS_RESUME_FROM"
NOT_COMPARED = ("output_dir", "resume", "wait_minutes")
NOT_OF_THE_RESULT = (
    "checkpoint_keep_last",
    "checkpoint_keep_best",
    "checkpoint_async",
    "activation_checkpointing",
    "compile",
    "compile_blocks",
)  # but for rounding


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes, which checkpoint it goes on from ("" for none), and a line that says why."""

    output_dir: Path
    checkpoint: str
    note: str


def settle(config: Mapping[str, Any], output_dir_given: bool) -> RunFolder:
    """Decide on the folder of a run with this resolved configuration.

    `resume=auto` takes `output_dir` if it was given, else the newest unfinished run of the same experiment with the
    same configuration; with nothing to go on from it starts afresh, and says so. A path goes on from that checkpoint.

    Raises:
        ValueError: the folder already holds a run and `resume` was not given.
        FileNotFoundError: `resume` is a path that does not exist.
    """
    return hand_down(_decide(config, output_dir_given))


def hand_down(folder: RunFolder) -> RunFolder:
    """Tell the processes that this one starts."""
    os.environ[FOLDER_VARIABLE], os.environ[RESUME_VARIABLE] = str(folder.output_dir), folder.checkpoint
    return folder


def _decide(config: Mapping[str, Any], output_dir_given: bool) -> RunFolder:
    wanted, resume = Path(config["output_dir"]), config["resume"]
    if resume == "auto":
        return _go_on(wanted, config) if output_dir_given else _newest(config, wanted)
    if resume is not None:
        path = named_checkpoint("resume", resume)
        return RunFolder(_unused(wanted), str(path), f"going on from {path}")
    if output_dir_given and (wanted / "record.json").exists():
        raise ValueError(f"output_dir={wanted} already holds a run ({status_of(wanted)}). {_remedy(wanted)}")
    return RunFolder(wanted if output_dir_given else _unused(wanted), "", "")


def _remedy(folder: Path) -> str:
    """What to do where a folder holds a run."""
    if status_of(folder) == "finished":
        return "Give another. Or, where something is left to do in it: resume=auto."
    return "Go on with it: resume=auto. Or give another."


def named_checkpoint(key: str, value: str) -> Path:
    """The checkpoint that a key of the command line names.

    Raises:
        FileNotFoundError: there is none; lists those in that folder.
    """
    path = Path(value).expanduser()
    if not path.exists():
        beside = ", ".join(sorted(other.name for other in path.parent.glob("*.ckpt"))) or "none"
        raise FileNotFoundError(f"{key}={value}: no such checkpoint. Checkpoints in that folder: {beside}.")
    return path


def _newest(config: Mapping[str, Any], wanted: Path) -> RunFolder:
    """The newest unfinished run beside `wanted` that has the same configuration."""
    notes = []
    known = (folder for folder in wanted.parent.glob("*") if (folder / "config.yaml").is_file())
    for folder in sorted(known, key=lambda folder: folder.stat().st_mtime, reverse=True):
        if status_of(folder) == "finished":
            continue
        differences = differing_keys(config, _config(folder))
        if not differences:
            return _go_on(folder, config)
        notes.append(
            f"{folder} is unfinished, but differs in {', '.join(differences[:3])}: "
            f"output_dir={folder} goes on with it all the same"
        )
    note = f"nothing to go on with in {wanted.parent}, starting afresh"
    return RunFolder(_unused(wanted), "", f"{note} ({notes[0]})" if notes else note)


def _go_on(folder: Path, config: Mapping[str, Any]) -> RunFolder:
    last = folder / "checkpoints" / "last.ckpt"
    differences = differing_keys(config, _config(folder)) if (folder / "config.yaml").is_file() else []
    changed = f" (changed since: {', '.join(differences)})" if differences else ""
    if last.exists():
        return RunFolder(folder, str(last), f"going on from {last}{changed}")
    return RunFolder(folder, "", f"going on in {folder}, which has no checkpoint, with what is finished there{changed}")


def _unused(folder: Path) -> Path:
    """`folder`, or with the first free number behind it where it exists."""
    candidate, number = folder, 2
    while candidate.exists():
        candidate, number = folder.with_name(f"{folder.name}_{number}"), number + 1
    return candidate


def _config(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text("utf-8"))


def status_of(folder: Path) -> str:
    """Of the run in this folder: running, finished, interrupted, failed; unknown where no record tells it."""
    try:
        return str(json.loads((folder / "record.json").read_text("utf-8")).get("status", "unknown"))
    except (OSError, json.JSONDecodeError):
        return "unknown"


def differing_keys(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Dotted keys whose values differ between two resolved configurations, but for where and how the run is written."""
    here, there = _leaves(ours, str(ours.get("output_dir"))), _leaves(theirs, str(theirs.get("output_dir")))
    keys = dict.fromkeys([*here, *there])
    compared = (key for key in keys if key not in NOT_COMPARED and key.rpartition(".")[2] not in NOT_OF_THE_RESULT)
    return [key for key in compared if here.get(key) != there.get(key)]


def _leaves(config: Mapping[str, Any], folder: str, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of everything that is not a mapping; paths within the run's folder without the folder."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            leaves |= _leaves(value, folder, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value.replace(folder, "<output_dir>") if isinstance(value, str) else value
    return leaves
