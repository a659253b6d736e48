"""`+exp=compare_runs`: any set of runs of any experiment as one table and one figure of a metric."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from callbacks.files import write_atomically, write_text
from datamodules.errors import UserError
from experiments.comparison.figure import curves_figure
from experiments.comparison.folders import find_groups, find_runs
from experiments.comparison.groups import Group, differences, group_by_configuration, group_by_name
from experiments.comparison.page import FIGURE, OF_SEEDS, cautions, page, settings, tables
from experiments.comparison.reading import LoggedRun, read_runs
from experiments.comparison.results import Comparison, compare
from experiments.comparison.tables import group_table, pair_table, run_table
from experiments.known_keys import suggestion
from experiments.metric_directions import direction_of
from experiments.report import heading, say
from experiments.reports.figures import DPI, pixels
from experiments.session import Run

MODES = ("max", "min")


class Gathered(NamedTuple):
    """The groups of runs that log the metric, and what is to be said of those that were left out."""

    groups: list[Group]
    warnings: list[str]


def compare_runs(run: Run) -> dict[str, float]:
    """Compare the runs of `cfg.job.runs` or `cfg.job.groups` by `cfg.job.metric`; returns what the record keeps.

    Raises:
        ValueError: weights are given; folders that hold no run; a metric that no run logs; a mode or a threshold that
            is none; no mode for a metric that declares none.
    """
    run.refuse_weights()
    job, output_dir = run.job, run.output_dir
    mode, threshold = check_mode(job["mode"]), check_threshold(job["threshold"])
    gathered = gather(job, output_dir)
    mode_used = mode or direction_of(job["metric"], "job.metric", "job.mode=max or job.mode=min")
    found = compare(gathered.groups, job["metric"], mode_used, mode is not None, threshold)
    with run.recorded() as record:
        record.record["runs"] = [str(result.run.folder) for result in found.runs]
        write(found, gathered, output_dir)
        metrics = numbers(found)
        record.finish("finished", metrics)
    say(summary(found, gathered, output_dir))
    run.end()
    return metrics


def check_mode(mode: Any) -> Any:
    """`max`, `min`, or None for what the metric declares.

    Raises:
        ValueError: anything else.
    """
    if mode is not None and mode not in MODES:
        raise UserError(f"job.mode={mode}: must be max (more is better), min (less is better) or null (as declared).")
    return mode


def check_threshold(threshold: Any) -> float | None:
    """A finite number, or None for the rule to find one.

    Raises:
        ValueError: anything else.
    """
    is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool) and math.isfinite(threshold)
    if threshold is not None and not is_number:
        raise UserError(f"job.threshold={threshold}: a level of the metric is needed, as in 0.9, or null.")
    return None if threshold is None else float(threshold)


def gather(job: dict[str, Any], output_dir: Path) -> Gathered:
    """Find and read the runs, and form their groups.

    Raises:
        ValueError: as `compare_runs`; with job.strict also a run that does not log the metric.
    """
    if not job["runs"] and not job["groups"]:
        raise UserError("job.runs is empty: name folders of runs, or patterns, as in job.runs=[runs/a,runs/ddpm_*/*].")
    named = find_groups(job["groups"], output_dir)
    found = find_runs(job["runs"], "job.runs", output_dir)
    folders = {os.path.realpath(folder): folder for part in [*named.values(), found] for folder in part.folders}
    group_of = {os.path.realpath(folder): name for name, part in named.items() for folder in part.folders}
    if named and (outside := [str(folder) for key, folder in folders.items() if key not in group_of]):
        raise UserError(
            f"in no group of job.groups: {', '.join(outside)}. Put them into one, or leave job.runs out: the runs of "
            "all groups are compared."
        )
    runs = read_runs(list(folders.values()), job["metric"])
    skipped = [folder for part in [*named.values(), found] for folder in part.without_metrics]
    warnings = left_out(runs, skipped, job["metric"], job["strict"])
    kept = [run for run in runs if run.curve is not None]
    if not named:
        return Gathered(group_by_configuration(kept), warnings)
    members = {name: [run for run in kept if group_of[os.path.realpath(run.folder)] == name] for name in named}
    warnings += [f"No run is left in job.groups.{name}." for name, of_group in members.items() if not of_group]
    return Gathered(group_by_name(members), warnings)


def left_out(runs: Sequence[LoggedRun], skipped: Sequence[Path], metric: str | None, strict: bool) -> list[str]:
    """What is to be said of runs that are not compared.

    Raises:
        ValueError: no metric is given, or no run logs it; with `strict` where there is anything to say.
    """
    check_metric(runs, metric)
    lacking = [run.name for run in runs if run.curve is None]
    notes = []
    if lacking:
        notes.append(f"Left out, for they log no finite {metric}: {', '.join(lacking)}.")
    if skipped:
        listed = ", ".join(dict.fromkeys(map(str, skipped)))
        notes.append(f"Left out, for they have no metrics.csv: {listed}.")
    if notes and strict:
        raise UserError(f"{' '.join(notes)} job.strict=false compares the others.")
    return notes


def check_metric(runs: Sequence[LoggedRun], metric: str | None) -> None:
    """See that a run logs it.

    Raises:
        ValueError: none is given, or no run logs it; names the nearest, and lists those that there are.
    """
    known = sorted({name for run in runs for name in run.metrics})
    listed = f"Logged: {', '.join(known) or 'nothing'}."
    if not metric:
        raise UserError(f"job.metric must be given: job.metric=NAME. {listed}")
    if any(run.curve is not None for run in runs):
        return
    if metric in known:
        raise UserError(f"job.metric={metric}: no run has a finite value of it. {listed}")
    raise UserError(f"job.metric={metric}: no run logs it{suggestion(metric, known, num=3)} {listed}")


def write(found: Comparison, gathered: Gathered, output_dir: Path) -> None:
    """Tables, the page, the figure, and the same for TensorBoard."""
    run_table(found, whole=True).write_csv(output_dir / "comparison.csv")
    group_table(found, whole=True).write_csv(output_dir / "groups.csv")
    pair_table(found, whole=True).write_csv(output_dir / "tests.csv")
    write_text(output_dir / "comparison.md", page(found, differences(gathered.groups), gathered.warnings))
    picture = pixels(curves_figure(found))
    write_atomically(output_dir / FIGURE, lambda path: Image.fromarray(picture).save(path, dpi=(DPI, DPI)))
    with SummaryWriter(str(output_dir / "tensorboard")) as board:
        board.add_image("comparison/curves", picture, dataformats="HWC")
        for table in tables(found):
            board.add_text(f"comparison/{table.title.lower().replace(' ', '_')}", table.markdown())


def numbers(found: Comparison) -> dict[str, float]:
    """What the record keeps: how much was compared, the threshold, and the mean of each group."""
    counted = {"num_runs": len(found.runs), "num_groups": len(found.groups), "threshold": found.threshold}
    means = {f"final/{result.group.label}": result.final.value for result in found.groups}
    kept = {name: value for name, value in {**counted, **means}.items() if value is not None}
    return {f"comparison/{name}": float(value) for name, value in kept.items()}


def summary(found: Comparison, gathered: Gathered, output_dir: Path) -> str:
    """The tables, the cautions, and where the files are."""
    lines = [heading("comparison"), *(f"  {name + ':':<11}{text}" for name, text in settings(found).items())]
    for table in tables(found):
        lines += [heading(table.title.lower()), table.text()]
    notes = [*gathered.warnings, *cautions(found)]
    lines += [heading("cautions"), *(f"  {note}" for note in [*notes, OF_SEEDS])]
    lines += [
        heading("where it is"),
        f"  {'figure:':<11}{output_dir / FIGURE}",
        f"  {'report:':<11}{output_dir / 'comparison.md'}",
        f"  {'tables:':<11}" + " ".join(str(path) for path in sorted(output_dir.glob("*.csv"))),
    ]
    return "\n".join(lines)
