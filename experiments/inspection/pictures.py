"""Pictures of a dataset: sheets of images by finding and level, outlines of masks, the matrix of findings."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from callbacks.image_sheet import compose
from callbacks.mask_outlines import OUTLINES, outlined
from datamodules.findings import FINDINGS, NAMES
from experiments.inspection.tables import Cooccurrence

LEAST, MOST = 128, 256  # pixels of a picture of a sheet: smaller ones are enlarged, larger ones shrunk
GAP = 4  # pixels between the pictures of a strip
WHITE = 255
ANY = "Any image"
PRESENT = {
    "dr_grade": "Diabetic retinopathy, any grade",
    "eye_side": "Left eye",
}  # what "present" means, else the title


class SheetRow(NamedTuple):
    """What the images of a row have in common, how many such images there are, and which of them are shown."""

    title: str
    num_images: int
    rows: np.ndarray


def sheet_rows(
    labels: np.ndarray,
    seed: int,
    num_columns: int,
    among: np.ndarray | None = None,
    sources: Sequence[str] | None = None,
) -> list[SheetRow]:
    """A row for all images, one for each of several sources, then one for each level of a finding that an image has.

    Each shows `num_columns` of its images at random.

    Args:
        labels: int [N, F], -1 unknown.
        among: bool [N], the images to choose from; None for all.
        sources: where each image is from, [N].
    """
    candidates = np.arange(len(labels)) if among is None else np.flatnonzero(among)
    groups = [(ANY, candidates)]
    names = np.array(sources if sources is not None else [""] * len(labels), dtype=object)
    several = dict.fromkeys(names[candidates].tolist())
    groups += [(f"From {name}", candidates[names[candidates] == name]) for name in several if len(several) > 1]
    for column, finding in enumerate(FINDINGS):
        for level, name in enumerate(finding.levels):
            groups.append((f"{finding.title}: {name}", candidates[labels[candidates, column] == level]))
    return [
        SheetRow(title, len(rows), _choice(rows, num_columns, seed, number))
        for number, (title, rows) in enumerate(groups)
        if len(rows)
    ]


def _choice(rows: np.ndarray, num: int, seed: int, number: int) -> np.ndarray:
    """Some of the rows, ascending, at random by (seed, number)."""
    if len(rows) <= num:
        return rows
    return np.sort(np.random.default_rng([seed, number]).choice(rows, num, replace=False))


def shown(image: np.ndarray, most: int = LEAST, nearest: bool = False) -> np.ndarray:
    """An image uint8 [S, S, C] at a size to look at: enlarged by a whole factor to LEAST pixels or shrunk to `most`."""
    size = len(image)
    if size < LEAST:
        factor = -(-LEAST // size)
        return image.repeat(factor, axis=0).repeat(factor, axis=1)
    if size <= most:
        return image
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA
    return cv2.resize(image, (most, most), interpolation=how).reshape(most, most, -1)


def row_pictures(rows: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The pictures of a sheet's row, uint8 [n, T, T, 3], of images uint8 [N, S, S, 3]."""
    return np.stack([shown(image) for image in images[rows]])


def masked_pictures(rows: np.ndarray, images: np.ndarray, masks: np.ndarray, num_levels: int) -> np.ndarray:
    """The same with outlines of the masks uint8 [N, S, S, 1], larger where the images are."""
    pairs = zip(images[rows], masks[rows], strict=True)
    return np.stack([outlined(shown(i, MOST), shown(m, MOST, nearest=True)[..., 0], num_levels) for i, m in pairs])


def contact_sheet(rows: Sequence[SheetRow], pictures: Sequence[np.ndarray], num_columns: int) -> np.ndarray:
    """A captioned sheet of the rows' pictures, uint8 [height, width, 3]; places without an image stay white."""
    size = pictures[0].shape[1]
    cells = np.full((len(rows), num_columns, size, size, 3), WHITE, dtype=np.uint8)
    for place, row in enumerate(pictures):
        cells[place, : len(row)] = row
    return compose(cells, [f"{row.title} ({row.num_images:,})" for row in rows])


def with_legend(sheet: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The sheet with the colours of the outlines below it; `names` are the levels of a mask, background first."""
    font, pad, swatch = ImageFont.load_default(size=16), 8, 16
    blank = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    places, x, y = [], pad, pad
    for name in names[1:]:
        width = swatch + pad + round(blank.textlength(name, font=font)) + 2 * pad
        if x > pad and x + width > sheet.shape[1]:
            x, y = pad, y + swatch + pad
        places.append((x, y))
        x += width
    height, width = sheet.shape[0] + y + swatch + pad, max(sheet.shape[1], x)
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(Image.fromarray(sheet), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for level, (name, (x, y)) in enumerate(zip(names[1:], places, strict=True)):
        corner = (x, y + sheet.shape[0])
        box = (*corner, corner[0] + swatch, corner[1] + swatch)
        draw.rectangle(box, fill=OUTLINES[level % len(OUTLINES)], outline="black")
        draw.text((box[2] + pad, corner[1] + swatch // 2), name, fill="black", font=font, anchor="lm")
    return np.asarray(canvas)


def strip(pictures: np.ndarray, num_columns: int = 0) -> np.ndarray:
    """Pictures uint8 [n, T, T, 3] beside one another, uint8 [T, width, 3]; white up to the width of `num_columns`."""
    num, size = pictures.shape[:2]
    cells = np.full((max(num, num_columns), size, size + GAP, 3), WHITE, dtype=np.uint8)
    cells[:num, :, :size] = pictures
    return np.concatenate(cells, axis=1)[:, :-GAP]


def cooccurrence_plot(found: Cooccurrence) -> np.ndarray:
    """The matrix, each cell with its percentage and the number of images that it is of; uint8 [height, width, 3]."""
    names = [PRESENT.get(name, FINDINGS[NAMES.index(name)].title) for name in found.names]
    side = max(0.78 * len(names), 3.2)
    figure = Figure(figsize=(side + 1.2, side))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title("Share of images with the column's finding\namong those with the row's", fontsize=12, pad=14)
    if not names:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no finding is known in any image", ha="center", va="center", fontsize=12)
        return _drawn(figure)
    axes.set_facecolor("#dddddd")  # shows where there is no number
    colours = axes.imshow(found.share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(np.isfinite(found.share)):
        share, number = found.share[row, column], int(found.num_images[row, column])
        colour = "white" if share > 0.7 else "black"
        axes.text(column, row - 0.13, _percent(share), ha="center", va="center", fontsize=10, color=colour)
        axes.text(column, row + 0.24, f"of {_short(number)}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=10)
    axes.set_yticks(range(len(names)), names, fontsize=10)
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(colours, ax=axes, fraction=0.04, pad=0.03, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.ax.set_yticklabels(["0 %", "25 %", "50 %", "75 %", "100 %"], fontsize=9)
    bar.outline.set_visible(False)
    return _drawn(figure)


def _drawn(figure: Figure) -> np.ndarray:
    """The figure's pixels, with as much room as its labels need."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", pad_inches=0.2, facecolor="white")
    return np.asarray(Image.open(buffer, formats=("PNG",)).convert("RGB"))


def _percent(share: float) -> str:
    """A percentage that is 0 or 100 only where it is so exactly."""
    rounded = round(100 * share)
    if rounded == 0 and share > 0:
        return "<1 %"
    return ">99 %" if rounded == 100 and share < 1 else f"{rounded} %"


def _short(number: int) -> str:
    if number < 100_000:
        return f"{number:,}"
    return f"{number / 1e3:.0f}k" if number < 999_500 else f"{number / 1e6:.1f}M"


def data_uri(picture: np.ndarray, lossless: bool = False) -> str:
    """A picture uint8 [H, W, 3] as the text of a `data:` address: JPEG, or PNG where it is lossless."""
    kind, options = ("png", {"optimize": True}) if lossless else ("jpeg", {"quality": 88, "subsampling": 0})
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
