"""The folder of a run: a new one, or the one to go on with."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callbacks.files import remove_unfinished
from callbacks.locks import HeldError, alone
from callbacks.run_record import earlier_sessions
from datamodules.errors import UserError
from datamodules.files import read_json, read_yaml
from lightning_modules.checkpoint import load_progress, load_training

FOLDER_VARIABLE = "SYNFUNDUS_OUTPUT_DIR"  # tells the processes that a run starts which folder it has
RESUME_VARIABLE = "SYNFUNDUS_RESUME_FROM"
SHARED = ("autoencoders", "features")  # below cache_dir, of whole files
LONG_AGO = 86_400.0  # seconds
NOT_COMPARED = ("output_dir", "resume", "wait_minutes")
NOT_OF_THE_RESULT = (
    "checkpoint_keep_last",
    "checkpoint_keep_best",
    "checkpoint_async",
    "activation_checkpointing",
    "compile",
    "compile_blocks",
    "cache_dir",
)  # but for rounding


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes, which checkpoint it goes on from ("" for none), and a line that says why."""

    output_dir: Path
    checkpoint: str
    note: str


@contextmanager
def resolve_run_folder(config: Mapping[str, Any], output_dir_given: bool) -> Iterator[RunFolder]:
    """Decide on the folder of a run with this resolved configuration, and hold it: a folder is one run's.

    `resume=auto` takes `output_dir` if it was given, else the newest unfinished run of the same experiment with the
    same configuration; with nothing to go on from it starts afresh, and says so. A path goes on from that checkpoint.
    What a run that was killed there has left half written is taken away, and in what runs share after a day.

    Raises:
        ValueError: the folder already holds a run and `resume` was not given; another run is at work in it; or the
            checkpoint is not whole.
        FileNotFoundError: `resume` is a path that does not exist.
    """
    folder = _decide(config, output_dir_given)
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(alone(folder.output_dir, "wait for it, stop it, or give another output_dir"))
                break
            except HeldError:
                refused, folder = folder.output_dir, _decide(config, output_dir_given)
                if folder.output_dir == refused:
                    raise  # else another run, which began in the same second, was faster
        for name in SHARED:
            remove_unfinished(Path(config.get("cache_dir") or "cache", name), LONG_AGO)
        yield hand_down(folder)


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
        _check_whole(path)
        return RunFolder(_unused(wanted), str(path), f"going on from {path}")
    if output_dir_given and (wanted / "record.json").exists():
        raise UserError(f"output_dir={wanted} already holds a run ({status_of(wanted)}). {_remedy(wanted)}")
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
        try:
            differences = differing_keys(config, _config(folder))
        except (ValueError, OSError) as error:  # of another run, it may be
            notes.append(f"{error} Until then {folder} is passed over")
            continue
        if not differences:
            return _go_on(folder, config)
        notes.append(
            f"{folder} is unfinished, but differs in {', '.join(differences[:3])}: "
            f"output_dir={folder} goes on with it all the same"
        )
    note = f"nothing to go on with in {wanted.parent}, starting afresh"
    return RunFolder(_unused(wanted), "", f"{note} ({notes[0]})" if notes else note)


def _go_on(folder: Path, config: Mapping[str, Any]) -> RunFolder:
    checkpoint, note = newest_whole(folder)
    earlier_sessions(folder)  # which the run will add to: what is wrong with them is said now
    differences = differing_keys(config, _config(folder)) if (folder / "config.yaml").is_file() else []
    changed = f" (changed since: {', '.join(differences)})" if differences else ""
    if checkpoint:
        return RunFolder(folder, checkpoint, f"{note}going on from {checkpoint}{changed}")
    return RunFolder(folder, "", f"going on in {folder}, which has no checkpoint, with what is finished there{changed}")


def newest_whole(folder: Path) -> tuple[str, str]:
    """The checkpoint to go on from in a run's folder, "" for none; and what is to be said first of others.

    That is `last.ckpt`; where it is damaged or gone, the newest of those kept beside it that are whole.

    Raises:
        ValueError: there are checkpoints, and none is whole.
    """
    last = folder / "checkpoints" / "last.ckpt"
    fault = None if last.exists() else f"{last} is not there"
    try:
        if fault is None:
            load_progress(last)
            return str(last), ""
    except ValueError as error:
        fault = str(error)
    beside = _whole_beside(last)
    if beside:
        newest = max(beside, key=lambda path: (beside[path], path.stat().st_mtime))
        return str(newest), f"{fault.rstrip('.')}. The newest whole one is of step {beside[newest]}: "
    if os.path.lexists(last):
        raise UserError(
            f"{fault} None beside it is whole. Remedy: put back a copy of {last}, or begin anew in another output_dir."
        )
    return "", ""


def _check_whole(path: Path) -> None:
    try:
        load_progress(path)
    except ValueError as error:
        beside = _whole_beside(path)
        if not beside:
            raise
        whole = ", ".join(f"resume={other} (step {beside[other]})" for other in sorted(beside, key=beside.__getitem__))
        raise UserError(f"{error} Remedy: {whole}.") from error


def _whole_beside(path: Path) -> dict[Path, int]:
    """The other checkpoints of a folder that training can go on from, and their steps."""
    found = {}
    for other in sorted(path.parent.glob("*.ckpt")):
        if other != path:
            with suppress(ValueError, FileNotFoundError):
                found[other] = load_training(other)["global_step"]
    return found


def _unused(folder: Path) -> Path:
    """`folder`, or with the first free number behind it where it exists."""
    candidate, number = folder, 2
    while candidate.exists():
        candidate, number = folder.with_name(f"{folder.name}_{number}"), number + 1
    return candidate


def _config(folder: Path) -> dict[str, Any]:
    remedy = "put back a whole copy; or delete it, and give output_dir, which then goes on without being compared"
    return read_yaml(folder / "config.yaml", remedy=remedy)


def status_of(folder: Path) -> str:
    """Of the run in this folder: running, finished, interrupted, failed; unknown where no record tells it."""
    try:
        return read_json(folder / "record.json", {"status": str})["status"]
    except (OSError, ValueError):
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
            leaves[f"{prefix}{key}"] = _within(value, folder)
    return leaves


def _within(value: Any, folder: str) -> Any:
    """A path in the run's folder, as it is called from there; everything else as it is."""
    inside = isinstance(value, str) and f"{value}/".startswith(f"{folder}/")
    return f"<output_dir>{value[len(folder) :]}" if inside else value
