"""The figure of a set's consistency: AUROC of every finding, of synthetic images and of real ones, with intervals."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from callbacks.diagnosis_figures import BLUE, GREY, ORANGE
from callbacks.metrics.estimate import UNDEFINED, Estimate

DPI = 200
WIDTH, ROW_HEIGHT, MARGIN = 7.0, 0.34, 1.5  # inches
OFFSET = 0.16  # of a mark from the middle of its row
SIZES_AT = 1.02  # right of the axes, in their width


def figure_of(synthetic: Mapping[str, Estimate], real: Mapping[str, Estimate], titles: Mapping[str, str]) -> np.ndarray:
    """Picture uint8 [H, W, 3]: a row a finding, AUROC along it; what is undefined says so.

    Args:
        synthetic: AUROC by finding, against the conditions; its findings are the rows.
        real: AUROC by finding, against the labels of real images: the ceiling.
        titles: of findings, for people.
    """
    rows = list(synthetic)
    figure = Figure(figsize=(WIDTH, MARGIN + ROW_HEIGHT * max(1, len(rows))), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axis = figure.subplots()
    for place, name in enumerate(rows):
        if place % 2:
            axis.axhspan(place - 0.5, place + 0.5, color="#f3f3f3", linewidth=0, zorder=0)
        _mark(axis, synthetic[name], place - OFFSET, BLUE, "o")
        _mark(axis, real.get(name), place + OFFSET, ORANGE, "D")
        axis.text(SIZES_AT, place, _sizes(synthetic[name], real.get(name)), fontsize=6.5, va="center",
                  transform=axis.get_yaxis_transform())  # fmt: skip
    axis.axvline(0.5, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
    axis.set_yticks(range(len(rows)), [_title(name, titles) for name in rows], fontsize=8)
    axis.set_ylim(max(0.5, len(rows) - 0.5), -0.5)
    axis.set_xlim(min(0.4, _least(synthetic, real) - 0.03), 1.01)
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("AUROC with 95 % interval (hollow: no interval); dashed: chance", fontsize=8.5)
    axis.text(
        SIZES_AT, 1.0, "positive / images\nsynthetic; ceiling", fontsize=6.5, va="bottom", transform=axis.transAxes
    )
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    handles = [
        axis.errorbar([], [], color=BLUE, marker="o", markersize=4.5, label="synthetic, against the condition"),
        axis.errorbar(
            [],
            [],
            color=ORANGE,
            marker="D",
            markersize=4,
            label="the annotators' test images, against the label (ceiling)",
        ),
    ]
    figure.legend(handles=handles, fontsize=8, ncols=2, frameon=False, loc="outside upper center")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _mark(axis: Axes, found: Estimate | None, height: float, colour: str, marker: str) -> None:
    """A point and its interval, hollow where that is undefined; or a word where there is no point."""
    if found is None or math.isnan(found.value):
        word = UNDEFINED if found is not None and found.num_images else "no image"
        axis.text(0.99, height, word, fontsize=6.5, color=colour, va="center", ha="right",
                  transform=axis.get_yaxis_transform())  # fmt: skip
        return
    bounded = not math.isnan(found.low)
    if bounded:
        axis.plot([found.low, found.high], [height, height], color=colour, linewidth=1.6, zorder=2)
    axis.plot(found.value, height, color=colour, marker=marker, markersize=4.5, linestyle="", zorder=3,
              markerfacecolor=colour if bounded else "white")  # fmt: skip


def _sizes(synthetic: Estimate, real: Estimate | None) -> str:
    told = f"{synthetic.num_positive:,} / {synthetic.num_images:,}"
    return told if real is None or not real.num_images else f"{told}; {real.num_positive:,} / {real.num_images:,}"


def _title(name: str, titles: Mapping[str, str]) -> str:
    """`Diabetic retinopathy, level 2 or more` of `dr_grade>=2`."""
    finding, _, level = name.partition(">=")
    return f"{titles.get(finding, finding)}, level {level} or more" if level else titles.get(finding, finding)


def _least(*groups: Mapping[str, Estimate]) -> float:
    """The lowest point that is drawn."""
    bounds = [bound for group in groups for found in group.values() for bound in (found.value, found.low)]
    return min((bound for bound in bounds if not math.isnan(bound)), default=0.5)
