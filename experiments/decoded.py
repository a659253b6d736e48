"""Every image of a dataset read once, and those that are decoded in the order of its rows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.dataset import RowsOf
from datamodules.fundus import FundusDataModule
from datamodules.manifest import SPLITS, Manifest


def read_all(datamodule: FundusDataModule, output_dir: Path) -> None:
    """Read every image once; what is rejected is listed in `output_dir`, also where there are too many to go on."""
    output_dir.mkdir(parents=True, exist_ok=True)
    try:
        datamodule.prepare_data()
    finally:
        datamodule.write_rejected(output_dir)
    datamodule.setup()


def decoded_rows(
    datamodule: FundusDataModule, splits: Sequence[str] = SPLITS
) -> tuple[Manifest, RowsOf, RowsOf | None]:
    """Rows whose images are decoded, images uint8 [N, S, S, 3], and masks uint8 [N, S, S, 1] or None.

    These are all rows in use of the splits. A stream decodes a sample of them. An image is read when it is indexed.

    Raises:
        ValueError: all of these splits are empty.
    """
    manifest = datamodule.manifest
    there = [split for split in splits if len(manifest.rows(split))] or splits[:1]
    datasets = [datamodule.dataset(split) for split in there]
    ids = pa.array([name for dataset in datasets for name in dataset.ids], pa.string())
    rows = pc.index_in(ids, value_set=manifest.table.column("id").combine_chunks()).to_numpy()
    order = np.argsort(rows)
    cached = np.concatenate([dataset.images.rows for dataset in datasets])[order]
    images, masks = datasets[0].images.array, datasets[0].masks
    seen = manifest.take(rows[order])
    return seen, RowsOf(images, cached), None if masks is None else RowsOf(masks.array, cached)
