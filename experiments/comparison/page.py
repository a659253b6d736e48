"""comparison.md and what the terminal shows: the tables, the settings, and the cautions."""

from collections.abc import Sequence

import numpy as np

from callbacks.metrics.estimate import UNDEFINED
from experiments.comparison.curves import SHARE_OF_THE_WAY
from experiments.comparison.groups import START
from experiments.comparison.reading import FINISHED, LoggedRun
from experiments.comparison.results import Comparison
from experiments.comparison.tables import (
    Table,
    difference_table,
    escaped,
    group_table,
    label_table,
    pair_table,
    run_table,
    shown,
)
from experiments.reports.render import render

FIGURE = "comparison.png"
FEW_GROUPS = 3  # of more, tests that are all undefined are not shown
OF_SEEDS = (
    "Intervals and tests are over seeds: they say how far another seed would come out elsewhere. Runs that are "
    "evaluated on the same images share the chance of which patients are in them; no number of seeds measures that."
)


def tables(found: Comparison) -> list[Table]:
    """The tables that are shown: of a single group no tests, and none of many that are all undefined."""
    labels = label_table(found)
    shown_tables = [run_table(found), *([labels] if labels else []), group_table(found)]
    return [*shown_tables, pair_table(found)] if found.pairs and not _only_undefined(found) else shown_tables


def settings(found: Comparison) -> dict[str, str]:
    """Metric, direction, threshold and range, each with how it was chosen."""
    better = "greatest" if found.mode == "max" else "least"
    other = "min" if found.mode == "max" else "max"
    why = "as given" if found.mode_given else f"as the metric declares; job.mode={other} takes the other"
    return {
        "metric": found.metric,
        "best": f"the {better} value ({why})",
        "threshold": _threshold(found),
        "area": _area(found),
    }


def cautions(found: Comparison) -> list[str]:
    """What makes the numbers mean less than they seem to."""
    runs = [result.run for result in found.runs]
    unfinished = [f"{run.name} ({run.status})" for run in runs if run.status != FINISHED]
    notes = []
    if unfinished:
        notes.append(f"Not finished: {', '.join(unfinished)}. Final is their latest value; they count all the same.")
    if all(len(run.curve.values) == 1 for run in runs):
        notes.append(
            f"{found.metric} was logged once in each run: it has no learning curve, and steps and epochs say when it "
            "was measured, not with which weights."
        )
    endings = [result.run.name for result in found.runs if not np.isfinite(result.final)]
    if endings:
        notes.append(f"The last value is no finite number: {', '.join(endings)}. What it enters is {UNDEFINED}.")
    unknown = [run.name for run in runs if run.images_per_step is None]
    if unknown:
        notes.append(f"Images of a step cannot be told: {', '.join(unknown)}. Curves and areas are over steps.")
    notes += [note for group in found.groups for note in _of_group(group.group.tag, group.group.runs)]
    if _only_undefined(found):
        notes.append(f"No two groups share 2 seeds, so that every test is {UNDEFINED}; tests.csv has the differences.")
    return [*notes, *_of_provenance(runs)]


def page(found: Comparison, differing: dict[str, list[str]], warnings: Sequence[str]) -> str:
    """comparison.md."""
    return render(
        "comparison.md.j2",
        found=found,
        metric=escaped(found.metric),
        settings={name: escaped(text) for name, text in settings(found).items()},
        cautions=[escaped(note) for note in [*warnings, *cautions(found)]],
        tables=[*tables(found), *([difference_table(found, differing)] if differing else [])],
        FIGURE=FIGURE, OF_SEEDS=OF_SEEDS, UNDEFINED=UNDEFINED,
    )  # fmt: skip


def _only_undefined(found: Comparison) -> bool:
    return len(found.groups) > FEW_GROUPS and all(pair.test.difference.num_seeds < 2 for pair in found.pairs)


def _threshold(found: Comparison) -> str:
    if found.threshold is None:
        return "none: no final value is better than the worst start. job.threshold gives one"
    if found.threshold_given:
        return f"{found.threshold:.6g} (as given)"
    share = f"{SHARE_OF_THE_WAY:.0%}".replace("%", " %")
    return f"{found.threshold:.6g} ({share} of the way from the worst first value to the best final one, over all runs)"


def _area(found: Comparison) -> str:
    if found.shared is None:
        return f"{UNDEFINED}: the curves of all runs have no range in common"
    start, end = (shown(int(place)) for place in found.shared)
    first = min(found.runs, key=lambda result: found.place(result)[-1])
    return f"over the {found.axis} {start} to {end}, which the curves of all runs cover; {first.run.name} ends first"


def _of_group(tag: str, runs: Sequence[LoggedRun]) -> list[str]:
    notes = []
    seeds = [run.seed for run in runs if run.seed is not None]
    repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if repeated:
        notes.append(
            f"{tag}: several runs of seed {', '.join(map(str, repeated))}; they count as one, with the mean of their "
            "values. Groups can be named: +job.groups.NAME=[…]."
        )
    without = [run.name for run in runs if run.seed is None]
    if without:
        notes.append(f"{tag}: without a seed, and so in no pair: {', '.join(without)}.")
    starts = {str(run.config.get(START)) for run in runs}
    if len(starts) > 1:
        notes.append(f"{tag}: its runs start from {len(starts)} checkpoints by ckpt, which are not told apart.")
    return notes


def _of_provenance(runs: Sequence[LoggedRun]) -> list[str]:
    notes = []
    codes = {(run.record.get("code") or {}).get("commit", "unknown") for run in runs}
    if len(codes) > 1:
        notes.append(f"The runs are of {len(codes)} revisions of the code: {', '.join(sorted(c[:8] for c in codes))}.")
    splits: dict[int, set[str]] = {}
    for run in runs:
        fingerprint = (run.record.get("fingerprints") or {}).get("split")
        if fingerprint and run.seed is not None:
            splits.setdefault(run.seed, set()).add(fingerprint)
    several = sorted(seed for seed, fingerprints in splits.items() if len(fingerprints) > 1)
    if several:
        notes.append(
            f"Runs of seed {', '.join(map(str, several))} are of several splits of the data: pairs do not share their "
            "images."
        )
    return notes
