"""A run as its folder tells it: what was logged, with which configuration, and how it ended."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from callbacks.csv_table import CsvTable, Row
from datamodules.errors import UserError
from datamodules.files import read_json, read_yaml
from experiments.comparison.curves import NO_EPOCH, Curve
from experiments.comparison.folders import METRICS, short_names

NOT_METRICS = ("step", "epoch")
FINISHED = "finished"


@dataclass(frozen=True)
class LoggedRun:
    """One run.

    Attributes:
        name: what tables call it.
        status: running, finished, interrupted, failed, or unknown where there is no record.
        seed: None where neither the configuration nor the record has one.
        config: the resolved configuration.
        record: record.json; empty where there is none.
        metrics: names of all that it logged.
        curve: of the metric that is compared; None where it was not logged.
    """

    folder: Path
    name: str
    status: str
    seed: int | None
    config: Mapping[str, Any]
    record: Mapping[str, Any]
    metrics: tuple[str, ...]
    curve: Curve | None

    @property
    def images_per_step(self) -> int | None:
        """Images of an optimiser step: batch x accumulated batches x processes; None where it cannot be told."""
        return effective_batch(self.config, self.record)


def read_runs(folders: Sequence[Path], metric: str | None) -> list[LoggedRun]:
    """Read the folders, with the curve of a metric.

    Raises:
        ValueError: a configuration that is missing or unreadable, a table that is not one of metrics.
    """
    return [_read_run(folder, name, metric) for folder, name in zip(folders, short_names(folders), strict=True)]


def _read_run(folder: Path, name: str, metric: str | None) -> LoggedRun:
    config, record = _config(folder / "config.yaml"), _record(folder / "record.json")
    path = folder / METRICS
    rows = CsvTable(path).read()
    if rows and "step" not in rows[0]:
        raise UserError(
            f"{path} has no column step, but {', '.join(rows[0])}: no run of this framework wrote it. "
            "Give the folder of one that did."
        )
    seed = config.get("seed", record.get("seed"))
    metrics = tuple(column for column in (rows[0] if rows else ()) if column not in NOT_METRICS)
    return LoggedRun(
        folder=folder,
        name=name,
        status=str(record.get("status", "unknown")),
        seed=seed if isinstance(seed, int) else None,
        config=config,
        record=record,
        metrics=metrics,
        curve=read_curve(rows, metric, path) if metric in metrics else None,
    )


def read_curve(rows: Sequence[Row], metric: str, path: Path) -> Curve | None:
    """The values of a metric by step, of several rows of a step the last that has one; None if there is no finite one.

    Raises:
        ValueError: a cell that is no number.
    """
    values: dict[int, float] = {}
    epochs: dict[int, int] = {}
    for row in rows:
        if row["step"] == "":
            continue
        step = _number(int, row, "step", path)
        if row.get("epoch", "") != "":
            epochs[step] = _number(int, row, "epoch", path)
        if row[metric] != "":
            values[step] = _number(float, row, metric, path)
    if not np.isfinite(list(values.values())).any():
        return None
    steps = sorted(values)
    return Curve(
        np.array(steps, dtype=np.int64),
        np.array([values[step] for step in steps], dtype=np.float64),
        np.array([epochs.get(step, NO_EPOCH) for step in steps], dtype=np.int64),
    )


def effective_batch(config: Mapping[str, Any], record: Mapping[str, Any]) -> int | None:
    """data.batch_size x trainer.accumulate_grad_batches x processes, or None where one of them cannot be told.

    Processes are trainer.devices x trainer.num_nodes; where devices is `auto`, -1 or text, the record has their number.
    """
    data, trainer = config.get("data"), config.get("trainer")
    if not isinstance(data, Mapping) or not isinstance(trainer, Mapping):
        return None
    devices = trainer.get("devices")
    if isinstance(devices, list):
        devices = len(devices)
    nodes = trainer.get("num_nodes", 1)
    processes = devices * nodes if _is_count(devices) and _is_count(nodes) else record.get("num_processes")
    factors = (data.get("batch_size"), trainer.get("accumulate_grad_batches") or 1, processes)
    return int(np.prod(factors)) if all(map(_is_count, factors)) else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _config(path: Path) -> dict[str, Any]:
    try:
        return read_yaml(path, remedy="leave the run out of job.runs, or mend the file")
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: without it nobody can tell the run's seed, batch and group. Leave the run out of "
            "job.runs, or put its configuration back."
        ) from None


def _record(path: Path) -> dict[str, Any]:
    """What the record says; nothing where it is not there or not whole."""
    try:
        return read_json(path)
    except (FileNotFoundError, ValueError):
        return {}


def _number(kind: Callable[[str], Any], row: Row, column: str, path: Path) -> Any:
    try:
        return kind(row[column])
    except ValueError:
        raise UserError(
            f"{path}, step {row['step']}, column {column!r}: {row[column]!r} is no number. Leave the run out of "
            "job.runs, or mend the file."
        ) from None
