"""Figures of a classifier's predictions: confusion matrices, ROC curves, reliability."""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from callbacks.metrics.calibration import reliability
from callbacks.metrics.decisions import confusion, median_level
from callbacks.metrics.ranking import auroc, roc_curve

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"  # Okabe and Ito's palette, told apart by colour-blind readers
COLUMNS, SIDE = 4, 3.0  # panels in a row, inches of one


def figures_of(labels: np.ndarray, probabilities: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pictures uint8 [H, W, 3]: `confusion`, `roc`, `reliability`, a panel for each finding that is known somewhere.

    Args:
        labels: int64 [N, F], -1 unknown, in the order of `probabilities`, which are float [N, K] by finding.
    """
    known = {}
    for column, (name, values) in enumerate(probabilities.items()):
        rows = labels[:, column] >= 0
        if rows.any():
            known[name] = (labels[rows, column], values[rows])
    if not known:
        return {}
    drawn = {"confusion": _confusion, "roc": _roc, "reliability": _reliability}
    return {name: _panels(known, draw) for name, draw in drawn.items()}


def _panels(known: Mapping[str, tuple[np.ndarray, np.ndarray]], draw: Callable[..., None]) -> np.ndarray:
    columns = min(COLUMNS, len(known))
    rows = -(-len(known) // columns)
    figure = Figure(figsize=(columns * SIDE, rows * SIDE), dpi=200, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(known) :]:
        axis.set_axis_off()
    for axis, (name, (levels, values)) in zip(axes, known.items(), strict=False):
        axis.set_title(f"{name} (n={len(levels)})", fontsize=9)
        axis.tick_params(labelsize=7)
        draw(axis, levels, values)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _confusion(axis: Axes, levels: np.ndarray, values: np.ndarray) -> None:
    """Counts; shades are shares of the row."""
    num_levels = values.shape[1]
    counts = confusion(levels, median_level(values), num_levels)[0]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axis.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(num_levels))
    axis.set_yticks(range(num_levels))
    axis.set_xlabel("predicted level (shade: share of the row)", fontsize=8)
    axis.set_ylabel("labelled level", fontsize=8)


def _roc(axis: Axes, levels: np.ndarray, values: np.ndarray) -> None:
    """A curve for each threshold that both sides of occur: level k or more against less."""
    num_levels = values.shape[1]
    shades = [ORANGE] if num_levels == 2 else [f"C{level}" for level in range(num_levels)]
    for level in range(1, num_levels):
        above, score = (levels >= level).astype(np.int64), values[:, level:].sum(axis=1)
        if 0 < above.sum() < len(above):
            false_positive, true_positive, _ = roc_curve(above, score)
            name = "" if num_levels == 2 else f"level {level} or more: "
            axis.plot(false_positive, true_positive, color=shades[(level - 1) % len(shades)], linewidth=1.4,
                      label=f"{name}{auroc(above, score)[0]:.3f}")  # fmt: skip
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    axis.set_xlabel("1 - specificity", fontsize=8)
    axis.set_ylabel("sensitivity", fontsize=8)
    if not axis.get_legend_handles_labels()[1]:
        axis.text(0.5, 0.3, "one level only:\nundefined", ha="center", fontsize=8, color=GREY)
    else:
        axis.legend(fontsize=6.5, loc="lower right", title="AUROC", title_fontsize=7)


def _reliability(axis: Axes, levels: np.ndarray, values: np.ndarray) -> None:
    """Accuracy over confidence of the most probable level; a dot's area grows with its number of images."""
    bins = reliability(levels, values)
    filled = bins.counts > 0
    sizes = 8 + 120 * bins.counts[filled] / bins.counts.max()
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    axis.scatter(bins.confidence[filled], bins.accuracy[filled], s=sizes, color=BLUE, alpha=0.8)
    axis.set_xlim(0, 1.02)
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("confidence in the most probable level", fontsize=8)
    axis.set_ylabel("accuracy", fontsize=8)
