"""Masks of the optic disc and the cup within it: their levels, which file is whose, what its greys mean."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.sources.listing import stem
from datamodules.sources.public import LayoutError, PublicSource

log = logging.getLogger(__name__)

LEVELS = ("background", "optic disc", "optic cup")
PLAIN = {0: 0, 1: 1, 2: 2}  # grey value: level; as a picture such a file looks black


def with_masks(source: PublicSource, table: pa.Table, names: Sequence[str], masks: Mapping[str, str]) -> pa.Table:
    """The table with `id`, each row's name without its extension, and `mask`, the file of that name or "".

    How many have none is said in the log. Raises LayoutError where that is all: then the names are of another kind.
    """
    found = [masks.get(stem(name), "") for name in names]
    lacking = found.count("")
    if lacking and lacking == len(found):
        raise LayoutError(
            f"{source.title}: no image has a mask: images are called {', '.join(names[:4])}, …, masks "
            f"{', '.join(sorted(masks.values())[:4])}, … Remedy: take both from the same copy of the dataset. "
            f"{source.about}"
        )
    if lacking:
        log.warning("%s: %d of %d images have no mask", source.title, lacking, len(found))
    table = table.append_column("id", pa.array([Path(name).stem for name in names], pa.string()))
    return table.append_column("mask", pa.array(found, pa.string()))


def decode(values: np.ndarray, coding: Mapping[int, int], name: str, about: str) -> np.ndarray:
    """Levels uint8 [H, W] of a mask's grey values [H, W] by `coding`.

    Raises LayoutError for a grey value that the coding does not have, and for a mask whose corner is not background:
    copies of one dataset code the same masks in opposite ways.
    """
    levels = np.zeros(values.shape, dtype=np.uint8)
    for grey, level in coding.items():
        levels[values == grey] = level
    strange = sorted(set(np.unique(values).tolist()) - set(coding))
    if strange or levels[0, 0] != 0:
        known = ", ".join(f"{grey} {LEVELS[level]}" for grey, level in sorted(coding.items()))
        problem = f"has the grey values {strange[:8]}" if strange else f"has {values[0, 0]} in its corner"
        raise LayoutError(f"Mask {name!r} {problem}. Its coding should be: {known}. {about}")
    return levels
