"""The tables of a comparison: of runs, of groups, of tests; as CSV, as Markdown and for the terminal."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from callbacks.metrics.estimate import UNDEFINED, Estimate
from datamodules.files import write_csv
from experiments.comparison.reading import FINISHED
from experiments.comparison.results import Comparison, GroupResult, PairResult, Point, RunResult
from experiments.reports.render import markdown_table

UNKNOWN, NOT_REACHED, NO_THRESHOLD = "unknown", "not reached", "no threshold"
LEAST_P = 0.0001  # smaller ones are shown as such
Cell = float | int | str


@dataclass(frozen=True)
class Table:
    """A header and rows of cells; words stand where there is no number."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def write_csv(self, path: Path) -> None:
        """Write it with all digits of every number; names of columns in small letters, words joined by _."""
        header = [re.sub(r"\W+", "_", name.lower()) for name in self.header]
        write_csv(path, [header, *([_exact(cell) for cell in row] for row in self.rows)])

    def markdown(self) -> str:
        """The table in Markdown, numbers at the right."""
        numbers = [place for place, kind in enumerate(self._numeric()) if kind]
        return markdown_table(self.header, self.rows, numbers, lambda cell: escaped(shown(cell)))

    def text(self) -> str:
        """The table for the terminal, in columns."""
        lines = [self.header, *(tuple(map(shown, row)) for row in self.rows)]
        widths = [max(len(line[place]) for line in lines) for place in range(len(self.header))]
        numeric = self._numeric()
        aligned = (
            "  ".join(cell.rjust(width) if kind else cell.ljust(width)
                      for cell, width, kind in zip(line, widths, numeric, strict=True))
            for line in lines
        )  # fmt: skip
        return "\n".join(f"  {line}".rstrip() for line in aligned)

    def _numeric(self) -> list[bool]:
        """Which columns hold a number."""
        return [any(not isinstance(row[place], str) for row in self.rows) for place in range(len(self.header))]


def run_table(found: Comparison, whole: bool = False) -> Table:
    """A row a run; `whole` is for files: the group's label, all of where the threshold was reached, and the folder."""
    header = ["run", "group", "seed", "status", "final", "best", "best step", "best epoch", "threshold epoch"]
    header += ["threshold step", "threshold images", "area", "folder"] if whole else [f"threshold {found.axis}", "area"]
    return Table("Runs", tuple(header), tuple(_run_row(found, result, whole) for result in found.runs))


def _run_row(found: Comparison, result: RunResult, whole: bool) -> tuple[Cell, ...]:
    run, point = result.run, result.reached
    group = result.group.label if whole else result.group.tag
    where = {name: _reached(found, point, name) for name in ("epoch", "step", "images")}
    row = [run.name, group, _seed(run.seed), run.status if whole else _marked(run.status), _defined(result.final),
           result.best, result.best_at.step, _known(result.best_at.epoch), where["epoch"]]  # fmt: skip
    if whole:
        return (*row, where["step"], where["images"], _defined(result.area), str(run.folder))
    return (*row, where["step" if found.axis == "steps" else "images"], _defined(result.area))


def group_table(found: Comparison, whole: bool = False) -> Table:
    """A row a group; `whole` is for files: bounds of intervals in columns of their own, and medians of both kinds."""
    if whole:
        header = ["group", "runs", "seeds"]
        for what in ("final", "best"):
            header += [f"{what} mean", f"{what} deviation", f"{what} low", f"{what} high"]
        header += ["reached", "median threshold step", "median threshold images"]
        return Table("Groups", tuple(header), tuple(_whole_group_row(found, group) for group in found.groups))
    header = ["group", "seeds"]
    for what in ("final", "best"):
        header += [f"{what} mean ± deviation", f"{what} 95 % interval"]
    header += ["reached", f"median threshold {found.axis}"]
    return Table("Groups", tuple(header), tuple(_group_row(found, group) for group in found.groups))


def _whole_group_row(found: Comparison, group: GroupResult) -> tuple[Cell, ...]:
    values = [_defined(number) for mean in (group.final, group.best)
              for number in (mean.value, mean.deviation, mean.low, mean.high)]  # fmt: skip
    num_runs = len(group.group.runs)
    medians = (_median(found, group.median_step), _median(found, group.median_images))
    return (group.group.label, num_runs, group.final.num_seeds, *values, _num_reached(found, group), *medians)


def _group_row(found: Comparison, group: GroupResult) -> tuple[Cell, ...]:
    median = group.median_images if found.axis == "images" else group.median_step
    cells = [cell for what in (group.final, group.best) for cell in (_mean(what), what.interval(shown))]
    reached = _num_reached(found, group)
    count = reached if isinstance(reached, str) else f"{reached} of {len(group.group.runs)}"
    return (group.group.tag, group.final.num_seeds, *cells, count, _median(found, median))


def pair_table(found: Comparison, whole: bool = False) -> Table:
    """A row a pair of groups and kind of value; corrected p-values where there are more than two groups."""
    header = ["value", "first group", "second group", "pairs", "mean difference"]
    header += ["low", "high", "t", "p"] if whole else ["95 % interval", "t", "p"]
    header += ["p, Holm"] if found.corrected else []
    return Table("Paired tests", tuple(header), tuple(_pair_row(found, pair, whole) for pair in found.pairs))


def _pair_row(found: Comparison, pair: PairResult, whole: bool) -> tuple[Cell, ...]:
    test, mean = pair.test, pair.test.difference
    groups = (pair.first.label, pair.second.label) if whole else (pair.first.tag, pair.second.tag)
    bounds = (_defined(mean.low), _defined(mean.high)) if whole else (mean.interval(shown),)
    p_values = (test.p, pair.corrected) if found.corrected else (test.p,)
    shown_p = [_defined(p) if whole else _probability(p) for p in p_values]
    return (pair.what, *groups, mean.num_seeds, _defined(mean.value), *bounds, _defined(test.statistic), *shown_p)


def label_table(found: Comparison) -> Table | None:
    """What the letters of groups stand for; None where groups are called by their labels."""
    groups = [result.group for result in found.groups]
    if all(group.tag == group.label for group in groups):
        return None
    return Table("What the letters stand for", ("group", "configuration"), tuple((g.tag, g.label) for g in groups))


def difference_table(found: Comparison, differences: dict[str, list[str]]) -> Table:
    """Each setting in which groups differ, with its value in each of them."""
    tags = [result.group.tag for result in found.groups]
    rows = tuple((key, *values) for key, values in differences.items())
    return Table("What the groups differ in", ("setting", *tags), rows)


def shown(cell: Cell) -> str:
    """A cell as it is read: four digits of a fraction, thousands apart in whole numbers."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:#.4g}".rstrip(".") if abs(cell) < 10_000 else f"{cell:,.0f}"


def _exact(cell: Cell) -> str:
    return repr(cell) if isinstance(cell, float) else str(cell)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is within a cell or a line."""
    for character, instead in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("\n", " ")):
        text = text.replace(character, instead)
    return text


def _seed(seed: int | None) -> str:
    return UNKNOWN if seed is None else str(seed)  # a name, no quantity


def _marked(status: str) -> str:
    return status if status == FINISHED else status.upper()


def _defined(value: float) -> Cell:
    return value if math.isfinite(value) else UNDEFINED


def _known(value: int | None) -> Cell:
    return UNKNOWN if value is None else value


def _reached(found: Comparison, point: Point | None, what: str) -> Cell:
    if found.threshold is None:
        return NO_THRESHOLD
    return NOT_REACHED if point is None else _known(getattr(point, what))


def _num_reached(found: Comparison, group: GroupResult) -> Cell:
    return NO_THRESHOLD if found.threshold is None else group.num_reached


def _median(found: Comparison, value: float | None) -> Cell:
    if found.threshold is None:
        return NO_THRESHOLD
    if value is None:
        return UNKNOWN
    return NOT_REACHED if math.isinf(value) else int(value) if value == int(value) else value


def _mean(mean: Estimate) -> str:
    if math.isnan(mean.value):
        return UNDEFINED
    return f"{shown(mean.value)} ± {shown(_defined(mean.deviation))}"


def _probability(p: float) -> str:
    if math.isnan(p):
        return UNDEFINED
    return f"< {LEAST_P}" if p < LEAST_P else f"{p:.2g}"
