"""study.json, study.csv, study.md, study.html and study.png of a segmentation study."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from callbacks.files import write_atomically, write_json, write_text
from callbacks.metrics.estimate import UNDEFINED, Estimate
from datamodules.files import write_csv
from experiments.reports.figures import COLOURS, empty_figure, png
from experiments.reports.render import render
from experiments.segmentation import published
from experiments.segmentation.cells import MIXED, REAL, SYNTHETIC, Arm
from experiments.segmentation.materials import OF_REAL_DATA
from experiments.segmentation.outcome import METRICS, Result, as_json

TITLES = {"dice": "Dice", "iou": "IoU"}
MARKERS = "osD^vP*X"
NOTES = (
    "Budgets are real training images, patient by patient. Those of a smaller budget are among those of a larger one, "
    "and of one seed they are the same in every arm. A seed changes which they are, which generated images are taken, "
    "the order and the initial weights; the split by patient is the same in all.",
    "Ratios are generated images for one real image of the budget. Synthetic only takes as many, and no real image.",
    "Every cell takes the same number of steps. Epoch and threshold are chosen on the same real validation images in "
    "every arm, also in synthetic only.",
    "Figures are means over test images and seeds. Intervals are 95 %, of a bootstrap over patients and seeds; few "
    "seeds make them too narrow.",
    "Differences are paired by image and seed. Their p-values are not corrected for the number of comparisons.",
    "The generator has learnt from its own training images, which may be more than a budget: a small budget with "
    "generated images is no measure of what a small collection alone could do.",
)


class Table(NamedTuple):
    """A table of a page, cells as text."""

    title: str
    header: list[str]
    rows: list[list[str]]


def write(
    folder: Path, found: Sequence[Result], cells: list[list[str]], facts: Mapping[str, Any], command: str, revision: str
) -> None:
    """Write all files.

    Args:
        cells: rows for study.csv.
        facts: of the study, for study.json.
    """
    write_csv(folder / "study.csv", cells)
    told = {**facts, "results": [as_json(each) for each in found], "published": published.as_json()}
    write_json(folder / "study.json", told)
    picture = png(figure(found))
    write_atomically(folder / "study.png", lambda path: path.write_bytes(picture))
    theirs = Table("IoU as Saragih et al. 2024 report it", list(published.HEADER), published.rows())
    values = {
        "title": "Do generated pairs help to train segmenters?", "summary": summary(facts), "tables": tables(found),
        "theirs": theirs, "source": published.SOURCE, "setting": published.SETTING, "notes": NOTES, "command": command,
        "revision": revision, "figure": base64.b64encode(picture).decode(),
    }  # fmt: skip
    for name, template in (("study.html", "study.html.j2"), ("study.md", "study.md.j2")):
        write_text(folder / name, render(template, **values))


def summary(facts: Mapping[str, Any]) -> str:
    """What was done, in a sentence or two."""
    return (
        f"{facts['num_cells']} segmenters of {', '.join(facts['levels'][1:])} at {facts['image_size']} px, "
        f"{facts['num_steps']:,} steps of {facts['batch_size']} images each, seeds "
        f"{', '.join(map(str, facts['seeds']))}. {facts['num_train']} real training images there are in all."
    )


def tables(found: Sequence[Result]) -> list[Table]:
    """Of each test set and architecture, metric by metric: the figures, then how much better than real only."""
    result = []
    for test, architecture in dict.fromkeys((each.test, each.architecture) for each in found):
        mine = [each for each in found if (each.test, each.architecture) == (test, architecture)]
        where = "held-out patients" if test == OF_REAL_DATA else test
        header = ["trained on", *dict.fromkeys(budget_text(each) for each in mine)]
        for metric in METRICS:
            title = f"{TITLES[metric]}, {architecture}, {where} ({mine[0].figures[metric].num_images} images)"
            result.append(Table(title, header, by_arm(mine, lambda each, metric=metric: str(each.figures[metric]))))
            compared = [each for each in mine if each.differences]
            rows = by_arm(compared, lambda each, metric=metric: difference_text(*each.differences[metric]))
            result.append(Table(f"{title}: less real only", header, rows))
    return result


def by_arm(found: Sequence[Result], shown: Any) -> list[list[str]]:
    """A row an arm, a column a budget."""
    cells = {(each.arm, each.budget): shown(each) for each in found}
    budgets = list(dict.fromkeys(each.budget for each in found))
    return [[str(arm), *(cells[arm, budget] for budget in budgets)] for arm in dict.fromkeys(e.arm for e in found)]


def budget_text(found: Result) -> str:
    """`16`, or `800 (all)`."""
    return f"{found.num_real} (all)" if found.budget is None else str(found.num_real)


def difference_text(one: Estimate, p_value: float) -> str:
    """`+0.021 [-0.003, +0.045], p 0.08`."""
    p_text = "" if np.isnan(p_value) else f", p {p_value:.2g}"
    bounds = one.interval("{:+.3f}".format)
    return UNDEFINED if np.isnan(one.value) else f"{one.value:+.3f} {bounds}{p_text}"


def figure(found: Sequence[Result]) -> Figure:
    """Dice over the number of real images: a panel for each test set and architecture, a line an arm."""
    panels = list(dict.fromkeys((each.test, each.architecture) for each in found))
    drawn = empty_figure(4.2 * len(panels) + 2.6, 3.8)
    axes = drawn.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    sets = list(dict.fromkeys(each.arm.dataset for each in found if each.arm.dataset))
    ratios = sorted({each.arm.ratio for each in found if each.arm.ratio})
    for axis, panel in zip(axes, panels, strict=True):
        mine = [each for each in found if (each.test, each.architecture) == panel]
        for arm in dict.fromkeys(each.arm for each in mine):
            draw_arm(axis, arm, [each for each in mine if each.arm == arm], sets, ratios)
        ticks = sorted({each.num_real for each in mine})
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{tick}" for tick in ticks])
        axis.minorticks_off()
        axis.set_title(f"{'held-out patients' if panel[0] == OF_REAL_DATA else panel[0]}, {panel[1]}", fontsize=9)
        axis.set_xlabel("real images of the budget", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("Dice, mean over images and seeds", fontsize=8)
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    return drawn


def draw_arm(axis: Axes, arm: Arm, found: Sequence[Result], sets: Sequence[str], ratios: Sequence[int]) -> None:
    """A line with its intervals: colour by set, dashes where no real image is trained on, mark by ratio."""
    colour = "#222222" if arm.kind == REAL else COLOURS[sets.index(arm.dataset) % len(COLOURS)]
    style = {REAL: "-", MIXED: "-", SYNTHETIC: "--"}[arm.kind]
    marker = "s" if arm.kind == REAL else MARKERS[ratios.index(arm.ratio) % len(MARKERS)]
    found = sorted(found, key=lambda each: each.num_real)
    one = [each.figures["dice"] for each in found]
    values = np.array([each.value for each in one])
    reach = np.nan_to_num([[each.value - each.low for each in one], [each.high - each.value for each in one]])
    axis.errorbar(
        [each.num_real for each in found], values, yerr=np.maximum(reach, 0), color=colour, linestyle=style,
        marker=marker, markersize=4, linewidth=1.8 if arm.kind == REAL else 1.2, capsize=2, elinewidth=0.6,
        label=str(arm),
    )  # fmt: skip
