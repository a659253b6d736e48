"""The tables of `evaluate`, in words, and the figures that stand below them."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from callbacks.metrics.diversity import num_scales
from callbacks.metrics.estimate import UNDEFINED, Estimate
from callbacks.metrics.fidelity import is_worse, told_apart
from callbacks.metrics.mask_shapes import PROPERTIES, columns
from experiments.evaluation.measuring import FIGURES, MASK_DISTANCES, MASK_SHAPES, SETS, Comparison, Found
from experiments.reports.figures import estimates_figure, histograms_figure, png

TITLES = {"fd": "Fréchet distance", "kd": "kernel distance", "coverage": "coverage", "ms_ssim": "MS-SSIM of pairs",
          "dice": "Dice, mean over levels"}  # fmt: skip
PROPERTY_TITLES = {"presence": "images that show it", "area": "area", "perimeter": "perimeter",
                   "num_components": "components", "row": "row", "column": "column"}  # fmt: skip
DRAWN = ("area", "row", "column")  # properties with a histogram
FLOOR, REAL = "real against real, the floor", "real images"
HEADERS = {FIGURES: "Images against real images", SETS: "Each set by itself",
           MASK_DISTANCES: "Masks against real masks", MASK_SHAPES: "Masks of each set"}  # fmt: skip
DIRECTIONS = {"min": "less", "max": "more"}


@dataclass(frozen=True)
class Table:
    """A table of the page in words.

    Attributes:
        apart: titles of the rows that tell the sets apart.
        picture_name, picture_title, picture: a figure below it, as PNG; empty for none.
    """

    title: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    apart: Sequence[str]
    picture_name: str = ""
    picture_title: str = ""
    picture: bytes = b""

    @property
    def encoded(self) -> str:
        """The picture in base64."""
        return base64.b64encode(self.picture).decode()


def tables_of(comparison: Comparison, job: Mapping[str, Any], image_size: int) -> list[Table]:
    """A table a group of figures."""
    titles, captions = titles_of(comparison.levels), captions_of(comparison, job, image_size)
    return [
        Table(HEADERS[group], captions[group], *cells(figures, titles), *picture_of(group, comparison, titles))
        for group, figures in comparison.groups.items()
    ]


def titles_of(levels: Sequence[str]) -> dict[str, str]:
    """The title of every figure; `levels` are those of the masks, background first."""
    titles = dict(TITLES)
    named = [(level, PROPERTY_TITLES[name]) for level in levels[1:] for name in PROPERTIES]
    for column, (level, title) in zip(columns(levels), named, strict=True):
        titles |= {f"wasserstein_{column}": f"{level}: {title}", f"{column}_deviation": f"{level}: {title}, deviation"}
        titles[f"{column}_mean"] = f"{level}: {title}" + ("" if column.startswith("presence") else ", mean")
    return titles | {f"dice_{level.replace(' ', '_')}": f"Dice of {level}" for level in levels[1:]}


def captions_of(comparison: Comparison, job: Mapping[str, Any], image_size: int) -> dict[str, str]:
    """What stands above each table."""
    size = comparison.groups[FIGURES]["fd"]["other"].num_images
    means = f"Means over {job['num_halvings']} halvings by patient, with 95 % intervals; {size:,} images of each."
    intervals = "With 95 % intervals over patients."
    pairs = (f"MS-SSIM: {job['num_pairs']:,} random pairs of either set, {num_scales(image_size)} of 5 scales, for the "
             f"images have {image_size} pixels.")  # fmt: skip
    return {FIGURES: means, SETS: f"{intervals} {pairs}", MASK_DISTANCES: means, MASK_SHAPES: intervals}


def cells(found: Found, titles: Mapping[str, str]) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, rows, and the titles of those rows that tell the sets apart."""
    first = next(iter(found.values()))
    beside, says = ("floor", told_apart) if "floor" in first else ("real", is_worse)
    header = ["figure", "compared", FLOOR if beside == "floor" else REAL]
    rows = [[titles[name], shown(sides["other"]), shown(sides[beside])] for name, sides in found.items()]
    if first["other"].better is None:
        return header, rows, []
    apart = [titles[name] for name, sides in found.items() if says(sides["other"], sides[beside])]
    for row, sides in zip(rows, found.values(), strict=True):
        row += [DIRECTIONS[sides["other"].better], "yes" if row[0] in apart else "no"]
    return [*header, "better", "told apart from real"], rows, apart


def shown(one: Estimate) -> str:
    """`63.4 [60.1, 66.7]`; `undefined`, and why."""
    if one.value != one.value:
        return UNDEFINED + (f": {one.why}" if one.why else "")
    return f"{one.value:.4g} {one.interval('{:.4g}'.format)}"


def picture_of(group: str, comparison: Comparison, titles: Mapping[str, str]) -> tuple[str, str, bytes]:
    """Name, title and bytes of the figure of a group; nothing where it has none."""
    if group == FIGURES:
        drawn = estimates_figure({titles[name]: sides for name, sides in comparison.groups[FIGURES].items()})
        return "evaluation.png", "Each figure of the compared set beside the floor of real images", png(drawn)
    if group == MASK_SHAPES:
        return "masks.png", "Area and place of the masks of both sets", png(histograms_of(comparison))
    return "", "", b""


def histograms_of(comparison: Comparison) -> Figure:
    """Histograms of DRAWN, a row of panels a level."""
    sides = {"other": comparison.other_shapes, "real": comparison.real_shapes}
    rows: dict[str, dict[str, Any]] = {}
    for place, level in enumerate(comparison.levels[1:]):
        at = {name: place * len(PROPERTIES) + PROPERTIES.index(name) for name in DRAWN}
        rows[level] = {
            PROPERTY_TITLES[name]: {side: values[:, at[name]] for side, values in sides.items()} for name in DRAWN
        }
    return histograms_figure(rows)
