"""A sheet of images with a caption at the left of each row, written as PNG and shown in TensorBoard."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer
from PIL import Image, ImageDraw, ImageFont

from callbacks.files import write_atomically
from datamodules.errors import UserError

MARGIN = 4  # pixels between images
LEAST_SIZE = 128  # pixels: smaller images are enlarged by a whole factor, so that a pixel stays a square


def compose(rows: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """Lay images uint8 [R, C, S, S, 3] out as R captioned rows of C columns; returns uint8 [height, width, 3].

    Raises:
        ValueError: as many captions as rows are needed.
    """
    num_rows, num_columns, size = rows.shape[:3]
    if len(captions) != num_rows:
        raise UserError(f"{len(captions)} captions for {num_rows} rows of images: give one a row")
    factor = -(-LEAST_SIZE // size)
    rows = rows.repeat(factor, axis=2).repeat(factor, axis=3)
    cell = size * factor + MARGIN
    font = ImageFont.load_default(size=max(14, cell // 12))
    lines = [_wrapped(caption) for caption in captions]
    blank = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = MARGIN + max(round(blank.multiline_textbbox((0, 0), text, font=font)[2]) for text in lines) + 2 * MARGIN
    sheet = Image.new("RGB", (left + num_columns * cell, num_rows * cell + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for r, text in enumerate(lines):
        top = MARGIN + r * cell
        draw.multiline_text((MARGIN, top + cell // 2), text, fill="black", font=font, anchor="lm")
        for c in range(num_columns):
            sheet.paste(Image.fromarray(rows[r, c]), (left + c * cell, top))
    return np.asarray(sheet)


def publish(trainer: Trainer, sheet: np.ndarray, path: Path, tag: str) -> None:
    """Write the sheet to path and to every logger that takes images; rank 0 alone is to call this."""
    write_atomically(path, lambda temporary: Image.fromarray(sheet).save(temporary))
    for logger in trainer.loggers:
        add_image = getattr(getattr(logger, "experiment", None), "add_image", None)
        if add_image is not None:
            add_image(tag, sheet, trainer.global_step, dataformats="HWC")


def _wrapped(caption: str, width: int = 16) -> str:
    """Break a caption at blanks and underscores into lines of about width letters."""
    lines = [""]
    for word in caption.replace("_", " ").split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)
