"""What came of the cells: the table, the figure, and the differences between starts."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from callbacks.metrics.estimate import NUMBERS, SHAPE, Estimate
from callbacks.metrics.evaluation import MACRO
from datamodules.errors import UserError
from datamodules.files import misfit, read_json
from experiments.comparison.inference import paired
from experiments.reports.figures import empty_figure, pixels
from experiments.reports.render import markdown_table
from experiments.transfer.cells import FineTuning

COLOURS = {"random": "#999999", "imagenet": "#0072B2", "synthetic": "#D55E00", "checkpoint": "#009E73"}


class Outcome(NamedTuple):
    """A figure of a cell with its interval over patients; undefined also where the cell is not there."""

    backbone: str
    init: str
    budget: float
    seed: int
    status: str
    figure: Estimate

    @property
    def value(self) -> float:
        """The figure without its interval."""
        return self.figure.value


def outcomes(fine_tunings: Sequence[FineTuning], unavailable: Mapping[str, str], metric: str) -> list[Outcome]:
    """The figure `split/finding/name`, such as `test/dr_grade/qwk` or `test/macro/auroc`, of every cell.

    Raises:
        ValueError: means over findings of which cells tell different ones.
    """
    split, finding, name = metric.split("/")
    found, told = [], {}
    for each in fine_tunings:
        missing = Outcome(*_place(each), "unavailable", Estimate(math.nan))
        if f"{each.backbone}/{each.init}" in unavailable:
            found.append(missing)
            continue
        path = each.cell.folder / "evaluation.json"
        content: dict = {}
        if each.cell.status == "finished" and path.is_file():
            scores = _evaluation(path).get(split, {})
            content = scores.get(finding, {}).get(name) or {}
            fault = misfit(content, SHAPE, f"{split}.{finding}.{name}")
            if fault is not None:
                raise UserError(f"{path}: {fault}. Remedy: delete {path.parent}, and the cell is run again.")
            told.setdefault(tuple(sorted(key for key in scores if key != MACRO)), each.cell.name)
        found.append(Outcome(*_place(each), each.cell.status, Estimate.from_json(content, name=name)))
    if finding == MACRO and len(told) > 1:
        (first, one), (second, other) = list(told.items())[:2]
        raise UserError(
            f"job.metric={metric} is a mean over findings, and {one} tells {', '.join(first)}, but {other} "
            f"{', '.join(second)}. Remedy: name them, 'model.findings=[…]' in job.finetune, in another output_dir."
        )
    return found


def _evaluation(path: Path) -> dict[str, dict[str, dict]]:
    """evaluation.json: split -> finding -> what was measured of it."""
    return read_json(path, {"*": {"*": dict}}, f"delete {path.parent}, and the cell is run again")


def check_metric(metric: str) -> None:
    """Raise ValueError for what is not split/finding/name."""
    if len(metric.split("/")) != 3 or metric.split("/")[0] not in ("val", "test"):
        raise UserError(
            f"job.metric={metric}: must be split/finding/name as in evaluation.json, for example test/macro/auroc or "
            "test/dr_grade/qwk."
        )


def _place(each: FineTuning) -> tuple[str, str, float, int]:
    return each.backbone, each.init, each.budget, each.seed


def table(found: Sequence[Outcome]) -> str:
    """Markdown: a row a backbone and budget, a column a start: mean over seeds ± deviation (number of seeds)."""
    inits = list(dict.fromkeys(outcome.init for outcome in found))
    rows = [
        [backbone, f"{budget:.0%}",
         *(_said([o for o in found if (o.backbone, o.budget, o.init) == (backbone, budget, init)]) for init in inits)]
        for backbone, budget in dict.fromkeys((outcome.backbone, outcome.budget) for outcome in found)
    ]  # fmt: skip
    return markdown_table(["backbone", "labels", *inits], rows, [1])


def _said(found: Sequence[Outcome]) -> str:
    values = [outcome.value for outcome in found if not math.isnan(outcome.value)]
    if not values:
        return found[0].status if found and found[0].status != "finished" else "undefined"
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread} ({len(values)})"


def differences(found: Sequence[Outcome], init: str) -> str:
    """Markdown: how much better a start is than each other, by pairs of equal backbone, budget and seed.

    With the 95 % t-interval over seeds and the p-value of the paired t-test, not corrected for the number of lines.
    """
    values = {(o.backbone, o.budget, o.seed, o.init): o.value for o in found}
    others = [other for other in dict.fromkeys(outcome.init for outcome in found) if other != init]
    header = ["backbone", "labels", "against", "mean difference", "95 % interval", "p", "of each seed"]
    lines = []
    for backbone, budget in dict.fromkeys((outcome.backbone, outcome.budget) for outcome in found):
        for other in others:
            seeds = sorted({outcome.seed for outcome in found})
            mine, theirs = (
                {seed: values.get((backbone, budget, seed, name), math.nan) for seed in seeds} for name in (init, other)
            )
            both = [seed for seed in seeds if not math.isnan(mine[seed] - theirs[seed])]
            test = paired({seed: mine[seed] for seed in both}, {seed: theirs[seed] for seed in both})
            mean = f"{test.difference.value:+.3f}" if both else "undefined"
            bounds = test.difference.interval("{:+.3f}".format)
            p_value = "undefined" if math.isnan(test.p) else f"{test.p:.2g}"
            each = ", ".join(f"{mine[seed] - theirs[seed]:+.3f}" if seed in both else "-" for seed in seeds)
            lines.append([backbone, f"{budget:.0%}", other, mean, bounds, p_value, each])
    return markdown_table(header, lines, [1, 3, 5])


def figure(found: Sequence[Outcome], metric: str) -> np.ndarray:
    """uint8 [H, W, 3]: the metric over the share of labels, a panel a backbone, a line a start, a dot a seed."""
    backbones = list(dict.fromkeys(outcome.backbone for outcome in found))
    drawn = empty_figure(3.6 * len(backbones), 3.2)
    axes = drawn.subplots(1, len(backbones), squeeze=False, sharey=True)[0]
    for axis, backbone in zip(axes, backbones, strict=True):
        for init in dict.fromkeys(outcome.init for outcome in found):
            mine = [o for o in found if (o.backbone, o.init) == (backbone, init) and not math.isnan(o.value)]
            if not mine:
                continue
            colour, budgets = COLOURS.get(init, "#CC79A7"), sorted({outcome.budget for outcome in mine})
            means = [np.mean([o.value for o in mine if o.budget == budget]) for budget in budgets]
            axis.plot([100 * budget for budget in budgets], means, color=colour, linewidth=1.8, label=init)
            axis.scatter([100 * o.budget for o in mine], [o.value for o in mine], color=colour, s=10, alpha=0.6)
        ticks = sorted({100 * outcome.budget for outcome in found})
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        lacking = [o.init for o in found if o.backbone == backbone and o.status == "unavailable"]
        if lacking:
            said = f"not available: {', '.join(dict.fromkeys(lacking))}"
            axis.text(0.98, 0.02, said, transform=axis.transAxes, ha="right", va="bottom", fontsize=7)
        axis.set_title(backbone, fontsize=9)
        axis.set_xlabel("labelled training patients (%)", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel(f"{metric}, mean over seeds", fontsize=8)
    handles, names = axes[0].get_legend_handles_labels()
    if handles:
        axes[0].legend(handles, names, fontsize=7, title="start (dots: seeds)", title_fontsize=7)
    return pixels(drawn)


def rows(found: Sequence[Outcome]) -> list[list[str]]:
    """The outcomes for CSV, header first, all digits."""
    numbers = [[getattr(outcome.figure, name) for name in NUMBERS] for outcome in found]
    cells = [
        [*map(str, outcome[:-1]), *("" if math.isnan(number) else str(number) for number in of)]
        for outcome, of in zip(found, numbers, strict=True)
    ]
    return [[*Outcome._fields[:-1], *NUMBERS], *cells]


def pretraining_facts(folder: Path) -> dict[str, float]:
    """The macro AUROC of the pretraining run on its own data, with the weights that the cells start from."""
    path = folder / "evaluation.json"
    found = _evaluation(path) if path.is_file() else {}
    values = {
        f"{split}/auroc": (scores.get(MACRO, {}).get("auroc") or {}).get("value") for split, scores in found.items()
    }
    return {name: value for name, value in values.items() if value is not None}
