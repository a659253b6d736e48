"""A trained segmenter on further data: Dice and IoU of every image, kept beside the cell."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from callbacks.files import own_folder, write_atomically
from callbacks.metrics.segmentation import compare_masks
from datamodules.errors import UserError
from datamodules.fundus import FundusDataModule
from datamodules.masks import to_levels
from datamodules.parquet import open_parquet
from experiments.cells import Cell
from experiments.loading import load_segmenter

FOLDER, KEY = "tests", b"data"  # the key of the metadata that has the fingerprint of the data
BATCH = 32


def place(cell: Cell, name: str) -> Path:
    """Where the figures of a cell on the data `name` lie."""
    return cell.folder / FOLDER / f"{name}.parquet"


def measure_on(
    cell: Cell, name: str, datamodule: FundusDataModule, levels: tuple[str, ...], device: torch.device
) -> None:
    """Measure the segmenter of a finished cell on the test split of data that are set up, unless it was done before."""
    if measured_on(place(cell, name)) == datamodule.fingerprint:
        return
    module, dataset = load_segmenter(cell.folder).to(device), datamodule.dataset("test")
    patient_of = dict(zip(datamodule.manifest.ids, datamodule.manifest.patients, strict=True))
    rows = []
    for start in range(0, len(dataset.ids), BATCH):
        chosen = np.arange(start, min(start + BATCH, len(dataset.ids)))
        images = torch.from_numpy(dataset.images[chosen]).permute(0, 3, 1, 2) / 255
        found = module.segment(images.to(device)).cpu().numpy()
        drawn = to_levels(torch.from_numpy(dataset.masks[chosen][..., 0])).numpy()
        for row, one, other in zip(chosen.tolist(), found, drawn, strict=True):
            name_of = dataset.ids[row]
            rows += [
                {"id": name_of, "patient": patient_of[name_of], "split": "test", "level": level, **figures}
                for level, figures in zip(levels[1:], compared(one, other, len(levels)), strict=True)
            ]
    table = pa.Table.from_pylist(rows).replace_schema_metadata({KEY: datamodule.fingerprint})
    own_folder(cell.folder, FOLDER)
    write_atomically(place(cell, name), lambda path: pq.write_table(table, path))


def measured_on(path: Path) -> str | None:
    """The fingerprint of the data that figures are of; None where there are none."""
    if not path.is_file():
        return None
    with open_parquet(path, UserError, "delete it, and it is measured again") as file:
        return (file.schema_arrow.metadata or {}).get(KEY, b"").decode(errors="replace")


def compared(found: np.ndarray, drawn: np.ndarray, num_levels: int) -> list[dict[str, float | None]]:
    """Dice and IoU of each level but the background, of levels int64 [H, W]; None where no pixel is known."""
    known = drawn >= 0
    if not known.any():
        return [{"dice": None, "iou": None}] * (num_levels - 1)
    figures = [compare_masks((found == level) & known, drawn == level) for level in range(1, num_levels)]
    return [{name: each[name] for name in ("dice", "iou")} for each in figures]
