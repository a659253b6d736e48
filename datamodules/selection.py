"""Which rows of an index are used, and for what: not the rejected ones, split by patient, each photograph once."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from datamodules.duplicate_report import DuplicateReport, copies_of
from datamodules.image_mask_cache import ImageMaskCache
from datamodules.manifest import Manifest
from datamodules.splits import rows_of_fraction, rows_of_number, split_by_patient


class Selection(NamedTuple):
    """The rows of the index that are used, ascending, int64 [N]; their manifest, with splits; duplicates among them.

    `copies` is of the rows before any is left out as a duplicate; None where nobody looked for them.
    """

    rows: np.ndarray
    manifest: Manifest
    copies: DuplicateReport | None


def select(
    index: Manifest,
    squares: ImageMaskCache,
    fractions: Mapping[str, float],
    seed: int,
    duplicates: str = "ignore",
    train_fraction: float = 1.0,
    num_train: int | None = None,
    split_seed: int | None = None,
) -> Selection:
    """Choose, with the settings of FundusDataModule.

    The split is of the whole index, so that a rejected row of an official split still holds its patient's other rows.
    """
    rows = np.setdiff1d(np.arange(len(index)), np.fromiter(squares.rejected, dtype=np.int64))
    manifest, copies = split_by_patient(index, fractions, seed if split_seed is None else split_seed).take(rows), None
    if duplicates != "ignore":
        copies = copies_of(squares.images, rows, manifest)
    if duplicates == "drop":
        once = np.setdiff1d(np.arange(len(rows)), copies.dropped)
        rows, manifest = rows[once], manifest.take(once)
    if train_fraction < 1:
        part = rows_of_fraction(manifest, train_fraction, seed)
        rows, manifest = rows[part], manifest.take(part)
    if num_train is not None:
        part = rows_of_number(manifest, num_train, seed)
        rows, manifest = rows[part], manifest.take(part)
    return Selection(rows, manifest, copies)
