"""What a run was and what came of it: config.yaml, record.json, and its line in TensorBoard's table of hparams."""

import math
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.files import read_json, write_json, write_text
from datamodules.errors import UserError

RECORD = {"sessions?": [{"wall_seconds?": float, "fingerprints?": {}}], "fingerprints?": {}}  # what is read of it again
PACKAGES = ("torch", "lightning", "diffusers", "timm", "torchmetrics", "numpy", "synfundus")


class RunRecord(Callback):
    """Write `<output_dir>/config.yaml` at the start and `<output_dir>/record.json` at the start and the end.

    record.json holds versions, code revision, seed, fingerprints of the data and its split, machines, times and final
    metrics; `status` is running, finished, interrupted or failed. A resumed run adds to `sessions`, one entry a start,
    each with the fingerprints that it had; `wall_seconds` is their sum, `peak_memory_mib` is of the last. Jobs without
    a Trainer call `start` and `finish` themselves.

    Args:
        output_dir: folder of the run.
        config: the resolved config, in plain containers.
        fingerprints: name -> fingerprint, beside those that the datamodule tells (data, split).
        ends_with_training: False for a job that goes on after the training, and calls `finish_after` at its end.
        environment: the machines, and how the processes work together.

    Raises:
        ValueError: config holds something that is not plain.
    """

    def __init__(
        self,
        output_dir: str,
        config: Mapping[str, Any],
        fingerprints: Mapping[str, str] | None = None,
        ends_with_training: bool = True,
        environment: Mapping[str, Any] | None = None,
    ) -> None:
        self.output_dir = output_dir
        self.ends_with_training = ends_with_training
        try:
            self.config_text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        except yaml.YAMLError as error:
            raise UserError(f"config is not made of plain containers: {error}; resolve and convert it first") from error
        self.record: dict[str, Any] = {
            "status": "running",
            "seed": config.get("seed"),
            "fingerprints": dict(fingerprints or {}),
            "code": code_revision(),
            "versions": package_versions(),
            **({} if environment is None else {"environment": dict(environment)}),
            "sessions": [],
        }

    def start(self, device: str | None = None, num_processes: int = 1, step: int = 0) -> None:
        """Open a session and write both files."""
        folder = Path(self.output_dir)
        self.record |= {"device": device or _device_name(), "num_processes": num_processes}
        session = {"start": _now(), "first_step": step, "fingerprints": dict(self.record["fingerprints"])}
        self.record["sessions"] = [*earlier_sessions(folder), session]
        self._clock = time.monotonic()
        write_text(folder / "config.yaml", self.config_text)
        self._write()

    def finish(self, status: str, metrics: Mapping[str, Any] | None = None, step: int | None = None) -> None:
        """Close the session: status finished, interrupted or failed, and the final metrics."""
        session = self.record["sessions"][-1]
        session |= {"end": _now(), "status": status, "wall_seconds": round(time.monotonic() - self._clock, 3)}
        if step is not None:
            session["last_step"] = step
        self.record["status"] = status
        self.record["wall_seconds"] = round(sum(s.get("wall_seconds", 0) for s in self.record["sessions"]), 3)
        self.record["peak_memory_mib"] = peak_memory_mib()
        self.record["metrics"] = {name: _number(value) for name, value in sorted((metrics or {}).items())}
        self._write()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what only the trainer knows, and write."""
        self._begin(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the end."""
        if self.ends_with_training:
            self._end(trainer, "finished", reduced_metrics(trainer))

    def finish_after(self, trainer: Trainer, metrics: Mapping[str, Any]) -> None:
        """Write the end of a job that has gone on after the training, with its metrics."""
        self._end(trainer, "finished", metrics)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write that the run was stopped or broke."""
        stopped = isinstance(exception, KeyboardInterrupt | SystemExit)
        if not stopped:
            self.record["error"] = f"{type(exception).__name__}: {exception}"
        self._end(trainer, "interrupted" if stopped else "failed", reduced_metrics(trainer))

    def _begin(self, trainer: Trainer) -> None:
        self.record["fingerprints"] |= data_fingerprints(trainer.datamodule)
        if trainer.is_global_zero:
            device = _device_name(trainer.strategy.root_device)
            self.start(device, trainer.world_size, trainer.global_step)

    def _end(self, trainer: Trainer, status: str, metrics: Mapping[str, Any]) -> None:
        if not trainer.is_global_zero:
            return
        if not self.record["sessions"]:
            # It broke before the first step, or no step was left: the folder is to say so.
            self._begin(trainer)
        self.finish(status, metrics, trainer.global_step)

    def _write(self) -> None:
        write_json(Path(self.output_dir) / "record.json", self.record)


class HParams(Callback):
    """Show the run in TensorBoard's hparams table, under tags that are the same for every backbone.

    Args:
        hparams: the settings that tell runs apart, name -> number, text or truth value.
        metrics: log keys whose last values are shown, as `hp/<key>` with / replaced by _.
    """

    def __init__(self, hparams: Mapping[str, Any], metrics: Sequence[str]) -> None:
        self.hparams = {name: _plain(value) for name, value in hparams.items()}
        self.metrics = list(metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line."""
        self._write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the line of a run that was stopped, with what it had reached."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        metrics = reduced_metrics(trainer)
        values = {f"hp/{key.replace('/', '_')}": float(metrics.get(key, math.nan)) for key in self.metrics}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self.hparams, values, trainer.global_step)


def reduced_metrics(trainer: Trainer) -> dict[str, Any]:
    """Return the metrics as they stood at the end of the last batch or epoch, without asking the other processes.

    `trainer.callback_metrics` averages over all processes: one that has failed alone would wait for the others.
    """
    return trainer._logger_connector._callback_metrics


ROOMS = tuple(
    f":/{room}" for room in ("callbacks", "datamodules", "experiments", "lightning_modules")
)  # of the checkout


def code_revision(folder: Path = Path(__file__).parent) -> dict[str, Any] | None:
    """Return the git commit of the checkout that folder is in and whether it has changes; None if it is in none."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # An installed package may lie inside a checkout that is not its own: it is not tracked there.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return {"commit": git("rev-parse", "HEAD"), "changed": git("status", "--porcelain", "--", *ROOMS) != ""}
    except (OSError, subprocess.SubprocessError):
        return None


def code_words(code: Mapping[str, Any] | None) -> str:
    """What `code_revision` found, for people."""
    return "not a checkout" if code is None else code["commit"] + (" with changes" if code["changed"] else "")


def package_versions() -> dict[str, str | None]:
    """Return the versions of Python and of what a figure depends on; None for a package that is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def peak_memory_mib() -> dict[str, float]:
    """Return the most memory that this process has held so far, in MiB, and that of its tensors on CUDA devices if any.

    Linux tells it of the process alone; its `ru_maxrss`, taken elsewhere, begins at what the parent held.
    """
    try:
        told = Path("/proc/self/status").read_text()
        peak = int(told.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
    on_device = {"device": torch.cuda.max_memory_allocated() / 2**20} if torch.cuda.is_initialized() else {}
    return {name: round(value, 1) for name, value in ({"process": peak} | on_device).items()}


def data_fingerprints(datamodule: Any) -> dict[str, str]:
    """Return the fingerprints that a datamodule tells: of its images and labels, and of who is on which side."""
    told = {"data": "fingerprint", "split": "split_fingerprint"}
    found = {name: getattr(datamodule, attribute, None) for name, attribute in told.items()}
    return {name: str(value) for name, value in found.items() if value is not None}


def changed_data(folder: Path, datamodule: Any) -> dict[str, tuple[str, str]]:
    """Return the fingerprints that were others when the run in folder was last at work: name -> then, now."""
    kept = [session["fingerprints"] for session in earlier_sessions(folder) if session.get("fingerprints")]
    before = {name: str(value) for name, value in kept[-1].items()} if kept else {}
    now = data_fingerprints(datamodule)
    return {name: (before[name], now[name]) for name in now if before.get(name, now[name]) != now[name]}


def earlier_sessions(folder: Path) -> list[dict[str, Any]]:
    """Return the sessions of the run in folder so far; what was running then was killed.

    Raises:
        ValueError: record.json is damaged.
    """
    path = folder / "record.json"
    if not path.is_file():
        return []
    record = read_json(path, RECORD, "put back a whole copy; or delete it, which forgets the run's earlier sessions")
    sessions = [{"status": "killed", **session} for session in record.get("sessions") or ()]
    if sessions:  # earlier versions kept those of the last session alone
        sessions[-1].setdefault("fingerprints", record.get("fingerprints") or {})
    return sessions


def _device_name(device: torch.device | None = None) -> str:
    if device is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _number(value: Any) -> float | None:
    """Return a number JSON can hold: what is not finite becomes null."""
    value = float(value)
    return value if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else str(value)
