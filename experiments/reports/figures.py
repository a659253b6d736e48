"""Figures of reports."""

import io
import math
from collections.abc import Mapping

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from callbacks.metrics.estimate import Estimate

DPI = 200
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
CHUNK = 200  # points of a line that are drawn at once: a line that crosses itself often takes half the time
COMPARED, REAL = COLOURS[0], "#444444"
SHOWN = {"other": ("compared", COMPARED), "floor": ("real against real", REAL)}


def empty_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, DPI dots an inch, which is drawn without a screen."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def estimates_figure(found: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    """A panel a figure: the compared set and the floor, each a dot with its interval."""
    figure = empty_figure(3.0 * len(found), 1.9)
    for axes, (title, sides) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        for place, (side, (_, colour)) in enumerate(SHOWN.items()):
            one = sides[side]
            if math.isnan(one.value):
                continue
            reach = [[one.value - one.low], [one.high - one.value]]
            axes.errorbar([one.value], [place], xerr=reach, fmt="o", color=colour, capsize=3, markersize=4)
        axes.set_yticks(range(len(SHOWN)), [word for word, _ in SHOWN.values()], fontsize=8)
        axes.set_ylim(len(SHOWN) - 0.5, -0.5)
        axes.set_title(title, fontsize=9)
        axes.tick_params(axis="x", labelsize=7)
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def histograms_figure(rows: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], num_bins: int = 20) -> Figure:
    """A row of panels a level, a panel a property, with a histogram a side: the share of its images in each bin.

    Args:
        rows: level -> property -> side, `other` or `real` -> values [N], NaN where an image has none.
    """
    width = max(len(panels) for panels in rows.values())
    figure = empty_figure(3.0 * width, 2.1 * len(rows))
    for line, (level, panels) in zip(figure.subplots(len(rows), width, squeeze=False), rows.items(), strict=True):
        for axes, (title, sides) in zip(line, panels.items(), strict=True):
            values = {side: found[~np.isnan(found)] for side, found in sides.items()}
            together = np.concatenate(list(values.values()))
            bins = np.histogram_bin_edges(together, num_bins) if len(together) else num_bins
            for side, found in values.items():
                word, colour = ("compared", COMPARED) if side == "other" else ("real", REAL)
                share = np.full(len(found), 1 / max(1, len(found)))
                axes.hist(found, bins, weights=share, histtype="step", color=colour, label=word)
            axes.set_title(f"{level}: {title}", fontsize=9)
            axes.tick_params(labelsize=7)
            axes.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel("share of images", fontsize=8)
        line[0].legend(fontsize=7, frameon=False)
    return figure


def pixels(figure: Figure) -> np.ndarray:
    """A figure as a picture uint8 [height, width, 3]."""
    with rc_context({"agg.path.chunksize": CHUNK}):
        figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
