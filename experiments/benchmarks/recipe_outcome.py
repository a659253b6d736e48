"""What came of the runs of `job.case=recipe`: read from their folders, as figures, a table and a picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from callbacks.csv_table import CsvTable
from datamodules.errors import UserError
from datamodules.files import read_json, read_yaml
from experiments.benchmarks.common import spread
from experiments.comparison.reading import effective_batch
from experiments.reports.figures import COLOURS, empty_figure, pixels
from experiments.reports.render import markdown_table

ARMS = ("ours", "theirs")
NEEDED = {"unix_time": float, "seconds": float, "epoch": int}  # columns of both tables
RECORD = {"sessions": [{"last_step": int}], "wall_seconds": float, "peak_memory_mib": {"*": float}}
ROWS = (
    ("images_per_second", "training images a second", "{:.1f}"),
    ("minutes", "minutes of the whole run, without measuring", "{:.1f}"),
    ("autoencoder_minutes", "of these, minutes of the autoencoder's training", "{:.1f}"),
    ("evaluation_share", "measuring, share of the process's time", "{:.0%}"),
    ("final_distance", "Fréchet distance at the end", "{:.1f}"),
    ("final_agreement", "agreement at the end", "{:.3f}"),
    ("peak_memory_mib", "peak memory of the process, MiB", "{:.0f}"),
    ("peak_device_memory_mib", "peak memory of tensors on the device, MiB", "{:.0f}"),
)  # key, words, format


@dataclass(frozen=True)
class Outcome:
    """A run, read back.

    Attributes:
        seconds: of the whole run, without measuring.
        images_per_second: of the denoiser's training, without measuring.
        evaluation_share: seconds of measuring over those of the process.
        distances: seconds without measuring at each measured Fréchet distance, and the distance.
        agreements: the same of the mean agreement over findings; empty where it is not measured.
    """

    arm: str
    seed: int
    seconds: float
    images_per_second: float
    autoencoder_seconds: float
    evaluation_share: float
    distances: list[tuple[float, float]]
    agreements: list[tuple[float, float]]
    peak_memory_mib: float
    peak_device_memory_mib: float | None

    @property
    def minutes(self) -> float:
        """Of the whole run, without measuring."""
        return self.seconds / 60

    @property
    def autoencoder_minutes(self) -> float:
        """Of the autoencoder's training."""
        return self.autoencoder_seconds / 60

    @property
    def final_distance(self) -> float:
        """The last that was measured."""
        return self.distances[-1][1]

    @property
    def final_agreement(self) -> float | None:
        """The last that was measured; None where none was."""
        return self.agreements[-1][1] if self.agreements else None


def read_outcome(folder: Path, arm: str, seed: int, started: float, seconds: float) -> Outcome:
    """Read a finished run.

    Args:
        started: Unix time at which its process was started.
        seconds: of its process.

    Raises:
        ValueError: files that are damaged, or tell no times.
    """
    remedy = f"delete {folder}, and it is run again"
    record = read_json(folder / "record.json", RECORD, remedy)
    config = read_yaml(folder / "config.yaml", dict, remedy)
    distances = measurements(folder / "frechet.csv", "fd", remedy)
    agreements = measurements(folder / "agreement.csv", "asked", remedy)
    every = sorted([*distances, *agreements])

    def net(end: float) -> float:
        return end - started - sum(each.seconds for each in every if each.end <= end)

    def curve(measured: Sequence[Measurement]) -> list[tuple[float, float]]:
        return [(net(each.end), each.value) for each in measured if math.isfinite(each.value)]

    if not curve(distances):
        raise UserError(f"{folder / 'frechet.csv'} holds no finite distance. Remedy: {remedy}.")
    own = folder / "autoencoder" / "record.json"
    autoencoder = read_json(own, {"wall_seconds": float}, remedy)["wall_seconds"] if own.is_file() else 0.0
    # The record's clock starts with the training, after a distance of epoch -1 has been measured.
    training = record["wall_seconds"] - sum(each.seconds for each in every if each.epoch >= 0)
    num_images = record["sessions"][-1]["last_step"] * (effective_batch(config, record) or math.nan)
    evaluation = sum(each.seconds for each in every)
    peak = record["peak_memory_mib"]
    return Outcome(
        arm, seed, seconds - evaluation, num_images / training, autoencoder, evaluation / seconds,
        curve(distances), curve(agreements), peak["process"], peak.get("device"),
    )  # fmt: skip


@dataclass(frozen=True, order=True)
class Measurement:
    """What was measured: Unix time of the end, seconds it took, epoch, value."""

    end: float
    seconds: float
    epoch: int
    value: float


def measurements(path: Path, column: str, remedy: str) -> list[Measurement]:
    """The measurements of a table by their time; of several rows at one time, as of findings, the mean of the defined.

    Raises:
        ValueError: a table of an earlier version, which tells no times.
    """
    found: dict[tuple[float, float, int], list[float]] = {}
    for row in CsvTable(path, NEEDED | {column: float}).read():
        if row["unix_time"] == "":
            raise UserError(f"{path} does not tell when each row was measured. Remedy: {remedy}.")
        place = float(row["unix_time"]), float(row["seconds"]), int(row["epoch"])
        found.setdefault(place, []).append(float(row[column] or "nan"))
    means = {place: np.array(values)[np.isfinite(values)] for place, values in found.items()}
    return sorted(
        Measurement(*place, float(values.mean()) if len(values) else math.nan) for place, values in means.items()
    )


def reached(ours: Outcome, theirs: Outcome) -> float | None:
    """Seconds until ours is first measured at most at their final distance; None where it never is."""
    return next((seconds for seconds, value in ours.distances if value <= theirs.final_distance), None)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Spread over seeds of each figure of each arm, and of the share of their time in which ours is as near.

    A figure that no run has is null; of the share, those of the seeds that reach it.
    """
    pairs = list(zip(outcomes[::2], outcomes[1::2], strict=True))
    shares = {ours.seed: seconds / theirs.seconds for ours, theirs in pairs
              if (seconds := reached(ours, theirs)) is not None}  # fmt: skip
    return {
        **{
            arm: {key: _spread([getattr(o, key) for o in outcomes if o.arm == arm]) for key, _, _ in ROWS}
            for arm in ARMS
        },
        "share_of_their_time": _spread(list(shares.values())),
        "num_reached": len(shares),
        "num_pairs": len(pairs),
    }


def _spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return spread(known) if known else None


def rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Each run in plain containers."""
    return [asdict(outcome) for outcome in outcomes]


def table(outcomes: Sequence[Outcome], job: Mapping[str, Any]) -> str:
    """Markdown: a row a figure, a column an arm: median over seeds, and least to greatest."""
    found = summary(outcomes)
    seeds = ", ".join(str(outcome.seed) for outcome in outcomes[::2])
    header = [f"median (least to greatest) over seeds {seeds}", *(f"{arm}: {job[arm]}" for arm in ARMS)]
    rows = [[words, *(_said(found[arm][key], form) for arm in ARMS)] for key, words, form in ROWS
            if any(found[arm][key] for arm in ARMS) or key == "final_agreement"]  # fmt: skip
    share = f"{_said(found['share_of_their_time'], '{:.0%}')}, in {found['num_reached']} of {found['num_pairs']} seeds"
    return markdown_table(
        header, [*rows, ["share of theirs' time until ours reaches theirs' final distance", share, ""]]
    )


def _said(found: Mapping[str, Any] | None, form: str) -> str:
    if found is None:
        return "not measured"
    median, low, high = (form.format(found[key]) for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})" if len(found["turns"]) > 1 else median


def figure(outcomes: Sequence[Outcome], job: Mapping[str, Any]) -> np.ndarray:
    """uint8 [H, W, 3]: distance and agreement over minutes without measuring, a line a run, a colour an arm."""
    drawn = empty_figure(7.0, 3.2)
    left, right = drawn.subplots(1, 2)
    for axes, what, name in (
        (left, "distances", "Fréchet distance"),
        (right, "agreements", "agreement with the labels"),
    ):
        _draw(axes, outcomes, what, job)
        axes.set_ylabel(name, fontsize=8)
        axes.set_xlabel("minutes, without measuring", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.25)
    left.legend(fontsize=7, title="a line a seed", title_fontsize=7)
    return pixels(drawn)


def _draw(axes: Axes, outcomes: Sequence[Outcome], what: str, job: Mapping[str, Any]) -> None:
    for colour, arm in zip(COLOURS, ARMS, strict=False):
        mine = [outcome for outcome in outcomes if outcome.arm == arm]
        for number, outcome in enumerate(mine):
            seconds, values = zip(*(getattr(outcome, what) or [(math.nan, math.nan)]), strict=True)
            label = f"{arm}: {job[arm]}" if number == 0 else None
            axes.plot(
                np.array(seconds) / 60, values, color=colour, marker="o", markersize=2.5, linewidth=1, label=label
            )
