"""SynFundus-1M: a million synthetic fundus photographs with fifteen kinds of annotation.

Shang et al., "SynFundus-1M: a million-scale synthetic fundus images dataset with fifteen types of annotation", arXiv
2312.00377, https://github.com/parap1uie-s/SynFundus-1M; CC BY-NC-SA 4.0, research only, access by the form linked
there.

Layout: `SynFundus-1M_annotation*.csv` (the labels that the diagnostic system gave to the finished images),
`SynFundus-1M_gen_cond.csv` (the conditions they were generated from) and `Part{N}/{i}.png` with N = min(19, i //
50000): 20 parts, the last takes the remainder. i is the column `idx`, or the row number where there is none. Some
re-packs are .jpg.

Columns: `dr_grade` 0 to 4, the ten `is_*` diseases, the four readabilities, `eye_side` 0 right and 1 left: the names
and the coding of `datamodules.findings`. No patients are known: every image is its own.
"""

import logging
import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.errors import UserError
from datamodules.field_of_view import NotAFundusError, detect_field_of_view
from datamodules.findings import NAMES
from datamodules.images import square_crop, whole_frame
from datamodules.manifest import Manifest, ManifestError
from datamodules.sources.base import FileSource
from datamodules.sources.csv import finding_levels
from datamodules.sources.harmonise import FIRST_ROW
from datamodules.sources.tables import read_table

log = logging.getLogger(__name__)

PART_SIZE, LAST_PART = 50_000, 19
EXTENSIONS = (".png", ".jpg", ".jpeg")  # in this order where an image lies there twice
TABLES = {"annotation": "SynFundus-1M_annotation*.csv", "condition": "SynFundus-1M_gen_cond.csv"}


class SynFundus1M(FileSource):
    """The images of SynFundus-1M that are on disk, so that any of its parts will do.

    `labels` says which table the labels come from: `annotation` or `condition`. `table` names the file where there are
    several annotation tables. An image whose field of view cannot be found is kept as it is, for the set holds images
    that are annotated as no fundus (`is_fundus` 0).
    """

    name = "synfundus1m"
    about = (
        "It should hold SynFundus-1M_annotation*.csv, SynFundus-1M_gen_cond.csv and Part0 … Part19 with {i}.png, from "
        "https://github.com/parap1uie-s/SynFundus-1M (by its form)."
    )

    def __init__(self, root: str | Path, labels: str = "annotation", table: str | None = None) -> None:
        super().__init__(root)
        if labels not in TABLES:
            raise UserError(f"labels is {labels!r}, and must be one of: {', '.join(TABLES)}.")
        self.labels = labels
        self.table = table

    def _index(self) -> Manifest:
        path = self._table_path()
        table = read_table(path)
        if not any(name in NAMES for name in table.column_names):
            raise ManifestError(f"{path} has no column of a finding; its columns are: {', '.join(table.column_names)}.")
        rows, paths = self._present(self._numbers(table, path), path, whole="idx" not in table.column_names)
        absent = table.num_rows - len(rows)
        log.info("%s: %d of %d images are on disk, %d are absent", self.root, len(rows), table.num_rows, absent)
        if len(rows) == 0:
            here = sorted(entry.name for entry in self.root.iterdir())[:12]
            raise FileNotFoundError(f"no image of {path.name} is below {self.root}. {self.about} Found: {here}.")
        columns = {"id": pa.array(paths), "path": pa.array(paths), "source": pa.array([self.name] * len(paths))}
        numbers = range(FIRST_ROW, FIRST_ROW + table.num_rows)
        for name in (name for name in NAMES if name in table.column_names):
            columns[name] = finding_levels(table.column(name), name, str(path), numbers).take(pa.array(rows))
        return Manifest.from_table(pa.table(columns), origin=str(path))

    def _table_path(self) -> Path:
        pattern = self.table or TABLES[self.labels]
        found = [self.root / pattern] if self.table else sorted(self.root.glob(pattern))
        found = [path for path in found if path.is_file()]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(path.name for path in found)
            raise UserError(f"{self.root} holds several tables: {names}. Name one of them with data.table=….")
        here = sorted(entry.name for entry in self.root.iterdir())[:12]
        raise FileNotFoundError(f"there is no {pattern} in data.root={str(self.root)!r}. {self.about} Found: {here}.")

    def _numbers(self, table: pa.Table, path: Path) -> np.ndarray:
        """The number i of each row's image, int64 [rows]."""
        if "idx" not in table.column_names:
            return np.arange(table.num_rows)
        try:
            numbers = table.column("idx").cast(pa.int64()).to_numpy()
        except pa.ArrowInvalid as error:
            raise ManifestError(f"{path}, column 'idx' must hold the images' numbers: {error}.") from None
        return numbers

    def _present(self, numbers: np.ndarray, table: Path, whole: bool) -> tuple[np.ndarray, list[str]]:
        """The rows whose image lies on disk, int64, and the images' paths.

        `whole`: rows are numbered by their place, which only a whole table allows.
        """
        files: dict[int, str] = {}
        for part in range(LAST_PART + 1):
            folder = self.root / f"Part{part}"
            for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
                stem, extension = os.path.splitext(name)
                if not stem.isdecimal() or extension.lower() not in EXTENSIONS:
                    continue
                number, known = int(stem), files.get(int(stem))
                if min(LAST_PART, number // PART_SIZE) == part and (known is None or extension.lower() == ".png"):
                    files[number] = f"Part{part}/{name}"
        on_disk = np.fromiter(files, dtype=np.int64, count=len(files))
        if whole and len(on_disk) and on_disk.max() >= len(numbers):
            raise ManifestError(
                f"{table} has {len(numbers)} rows and no column 'idx', but image {on_disk.max()} is on disk: which row "
                "is which image cannot be known. Remedy: use the whole table, or one with 'idx'."
            )
        rows = np.flatnonzero(np.isin(numbers, on_disk))
        return rows, [files[number] for number in numbers[rows].tolist()]

    def read(self, path: str, image_size: int) -> np.ndarray:
        """Read and crop; an image without a field of view is kept whole, unless it cannot be read."""
        rgb = self._pixels(path, image_size)
        try:
            return square_crop(rgb, detect_field_of_view(rgb), image_size)
        except NotAFundusError:
            return whole_frame(rgb, image_size)
