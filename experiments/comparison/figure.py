"""The figure: learning curves of every run, thin, and of every group, thick, against images or steps."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from experiments.comparison.curves import shared_range
from experiments.comparison.reading import FINISHED
from experiments.comparison.results import Comparison, RunResult
from experiments.reports.figures import COLOURS, empty_figure

WIDTH, HEIGHT = 7.0, 3.9  # inches: the width of a page, and the height of the axes with their labels
LEGEND_LINE = 0.155  # inches
STYLES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))  # one after the other once the colours are used up
GREY = "#444444"
BAND = "thick: mean of a group, as far as all its runs go; thin: its runs; shaded: from the least to the greatest"
LETTERS_A_LINE = 100
MOST_POINTS = 2000  # that are drawn of a curve, more than the page has dots
FEW_POINTS = 8  # where no curve has more of them, they are shown
UNITS = {"psnr": "dB", "kl": "nats"}


class Band(NamedTuple):
    """Mean, least and greatest value of a group's runs, float64 [N] each."""

    x: np.ndarray
    mean: np.ndarray
    least: np.ndarray
    greatest: np.ndarray


def curves_figure(found: Comparison) -> Figure:
    """Draw the comparison."""
    legend, num_lines = _legend(found)
    figure = empty_figure(WIDTH, HEIGHT + LEGEND_LINE * num_lines)
    axes = figure.add_subplot()
    scale, word = _scale(found)
    for place, group in enumerate(found.groups):
        _draw_group(axes, found, found.of_group(group.group), place, scale)
    if found.threshold is not None:
        axes.axhline(found.threshold, color=GREY, linestyle="--", linewidth=1, zorder=7)
    axes.set_xlabel(f"{'training images' if found.axis == 'images' else 'optimiser steps'}{word}", fontsize=9)
    axes.set_ylabel(_metric_text(found), fontsize=9, parse_math=False)
    axes.tick_params(labelsize=8)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.02)
    handles, labels = zip(*legend, strict=True)
    drawn = figure.legend(handles, labels, loc="outside lower left", fontsize=8, frameon=False, handlelength=2.6)
    for text in drawn.get_texts():
        text.set_parse_math(False)
    return figure


def band(places: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> Band | None:
    """Over the range that all curves share, wherever one has a point; between its points a curve is straight.

    None where the curves share no range.
    """
    shared = shared_range(places)
    if shared is None:
        return None
    x = np.unique(np.concatenate(places))
    x = x[(x >= shared[0]) & (x <= shared[1])]
    x = x[np.unique(np.linspace(0, len(x) - 1, MOST_POINTS).astype(int))] if len(x) > MOST_POINTS else x
    curves = np.stack([np.interp(x, place, value) for place, value in zip(places, values, strict=True)])
    return Band(x, curves.mean(axis=0), curves.min(axis=0), curves.max(axis=0))


def outline(values: np.ndarray) -> np.ndarray:
    """Places of the points of a curve that are drawn: all, or of many the least and the greatest of each stretch."""
    if len(values) <= MOST_POINTS:
        return np.arange(len(values))
    stretches = np.array_split(np.arange(len(values)), MOST_POINTS // 2 - 1)
    ends = [place for part in stretches for place in (part[values[part].argmin()], part[values[part].argmax()])]
    return np.unique([0, *ends, len(values) - 1])


def _draw_group(axes: Axes, found: Comparison, results: Sequence[RunResult], place: int, scale: float) -> None:
    colour, style = _look(place)
    alone, few = len(results) == 1, all(len(result.curve.steps) <= FEW_POINTS for result in found.runs)
    places, values = [], []
    for result in results:
        kept = np.isfinite(result.curve.values)
        places.append(found.place(result)[kept] / scale)
        values.append(result.curve.values[kept])
        marker = "o" if few or len(values[-1]) == 1 else ""
        width, opacity = (1.9, 1.0) if alone else (0.7, 0.45)
        seen = outline(values[-1])
        axes.plot(places[-1][seen], values[-1][seen], color=colour, linewidth=width, alpha=opacity,
                  zorder=5 if alone else 3, linestyle=style if alone else "-", marker=marker,
                  markersize=3.5 if alone else 2)  # fmt: skip
        if result.run.status != FINISHED:
            axes.plot(places[-1][-1:], values[-1][-1:], color=colour, marker="x", markersize=6, zorder=6)
    drawn = None if alone else band(places, values)
    if drawn is not None:
        axes.plot(drawn.x, drawn.mean, color=colour, linestyle=style, linewidth=1.9, zorder=5)
        axes.fill_between(drawn.x, drawn.least, drawn.greatest, color=colour, alpha=0.15, linewidth=0, zorder=1)


def _legend(found: Comparison) -> tuple[list[tuple], int]:
    """Handles and their texts, and how many lines these are."""
    entries: list[tuple] = []
    several = any(len(result.group.runs) > 1 for result in found.groups)
    for place, result in enumerate(found.groups):
        colour, style = _look(place)
        number = len(result.group.runs)
        group = result.group
        letter = "" if group.tag == group.label else f"{group.tag}: "
        text = f"{letter}{group.label} ({number} run{'s' if number > 1 else ''})"
        handle = Line2D([], [], color=colour, linestyle=style, linewidth=1.9)
        entries.append((handle, textwrap.fill(text, LETTERS_A_LINE)))
    if several:
        entries.append((Patch(color=GREY, alpha=0.2, linewidth=0),
                        BAND))  # fmt: skip
    if found.threshold is not None:
        handle = Line2D([], [], color=GREY, linestyle="--", linewidth=1)
        entries.append((handle, f"threshold {found.threshold:.4g}"))
    if any(result.run.status != FINISHED for result in found.runs):
        handle = Line2D([], [], color=GREY, marker="x", markersize=6, linestyle="")
        entries.append((handle, "latest value of a run that is not finished"))
    return entries, sum(text.count("\n") + 1 for _, text in entries)


def _look(place: int) -> tuple:
    return COLOURS[place % len(COLOURS)], STYLES[place // len(COLOURS) % len(STYLES)]


def _scale(found: Comparison) -> tuple[float, str]:
    """What the places are divided by, and how the axis says so."""
    last = max(float(found.place(result)[-1]) for result in found.runs)
    if last >= 2e6:
        return 1e6, " (millions)"
    return (1e3, " (thousands)") if last >= 1e4 else (1.0, "")


def _metric_text(found: Comparison) -> str:
    unit = UNITS.get(found.metric.rpartition("/")[2], "")
    better = "more is better" if found.mode == "max" else "less is better"
    return f"{found.metric} ({f'{unit}, ' if unit else ''}{better})"
