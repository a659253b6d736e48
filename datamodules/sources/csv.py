"""Any table of fundus photographs: CSV or Parquet, with whatever findings it has."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.errors import nearest
from datamodules.field_of_view import detect_field_of_view
from datamodules.findings import NAMES, NUM_LEVELS, UNKNOWN, describe_levels
from datamodules.images import square_crop, whole_frame
from datamodules.manifest import Manifest, ManifestError
from datamodules.manifest_checks import COLUMNS
from datamodules.sources.base import FileSource
from datamodules.sources.people import warn_of_names, warn_of_patients
from datamodules.sources.tables import numbered_rows, refuse_no_value

log = logging.getLogger(__name__)

REQUIRED = ("path",)
OPTIONAL = ("patient", "id", "split", *NAMES)
BLANK = ("", "nan", "na", "null", "none", "n/a", str(UNKNOWN), "-1.0")


class CsvSource(FileSource):
    """Images named by a table with the column `path`, relative to `root`.

    Optional columns: `patient` (without it, every image is its own patient), `id` (without it, the path), `split`
    (`train`, `val`, `test` or blank) and any findings, as integers or blank for unknown. Other columns are named in
    the log and left out. A CSV may be separated by comma, semicolon or tab, and may begin with a byte order mark.

    In place of a CSV it may be a Parquet file, or the first sheet of an Excel workbook (.xlsx).

    `table` is sought below `root`, then from the working folder. A row with `is_fundus` 0 is read whole; every other
    image must show a field of view. `name` tells several tables of a union apart.
    """

    name = "csv"
    about = "It is the folder that the paths of data.table are relative to."

    def __init__(self, root: str | Path, table: str | Path, name: str = "csv") -> None:
        super().__init__(root)
        self.name = name
        self.table = Path(table)
        self._whole: frozenset[str] = frozenset()
        self._rows: Sequence[int] = ()  # numbers of the index's rows in the table

    def _index(self) -> Manifest:
        path = self._table_path()
        table, self._rows = numbered_rows(path, used=(*REQUIRED, *OPTIONAL))
        table = _in_small_letters(table)
        missing = [name for name in REQUIRED if name not in table.column_names]
        if missing:
            hint = "".join(f" Is it {near!r}?" for near in nearest(missing[0], table.column_names))
            raise ManifestError(
                f"{path} has no column {', '.join(missing)}. Its columns are: {', '.join(table.column_names)}."
                f"{hint} Required: {', '.join(REQUIRED)}; optional: {', '.join(OPTIONAL)}."
            )
        self._report([name for name in table.column_names if name not in (*REQUIRED, *OPTIONAL)], path)
        if table.num_rows == 0:
            raise ManifestError(f"{path} has no row below its header.")
        manifest = Manifest.from_table(self._columns(table, path), origin=str(path), rows=self._rows)
        warn_of_names(str(path), manifest)
        remedy = "Remedy: a column 'patient' that names whose each photograph is"
        warn_of_patients(str(path), manifest, remedy)
        not_fundus = np.flatnonzero(manifest.table.column("is_fundus").to_numpy() == 0)
        self._whole = frozenset(manifest.take(not_fundus).paths)
        return manifest

    def _columns(self, table: pa.Table, path: Path) -> pa.Table:
        """The columns of the manifest that the table has."""
        columns = {name: table.column(name) for name in ("path", *OPTIONAL) if name in table.column_names}
        refuse_no_value(columns, lambda row: f"{path}, row {self._rows[row]}")
        if "patient" in columns:  # NaN of a table written by pandas is nobody's name
            absent = pc.is_in(pc.utf8_lower(columns["patient"]), value_set=pa.array(BLANK))
            columns["patient"] = pc.if_else(absent, "", columns["patient"])
        columns["source"] = pa.array([self.name] * table.num_rows, pa.string())
        for name in (name for name in NAMES if name in columns):
            columns[name] = finding_levels(columns[name], name, str(path), self._rows)
        return pa.table(columns)

    def _table_path(self) -> Path:
        for path in (self.root / self.table, self.table):
            if path.is_file():
                return path
        raise FileNotFoundError(
            f"data.table is {str(self.table)!r}: there is no such file below data.root={str(self.root)!r}, nor from "
            f"the working folder {str(Path.cwd())!r}."
        )

    def _report(self, unused: list[str], path: Path) -> None:
        for name in unused:
            near = nearest(name, [known for known in COLUMNS if known != "source"], cutoff=0.75)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            log.warning("%s: column %r is not used%s", path, name, hint)

    def _where(self, row: int, path: str) -> str:
        return f"{self._table_path()}, row {self._rows[row]}, column 'path': {path!r}"

    def __getstate__(self) -> dict[str, Any]:
        """Without what is known of the table's rows."""
        return {**super().__getstate__(), "_rows": ()}

    def identity(self) -> str:
        """Adds which images are read whole, so that a corrected `is_fundus` is heeded."""
        files = super().identity()  # reads the index
        if not self._whole:
            return files
        whole = hashlib.blake2b("\n".join(sorted(self._whole)).encode(), digest_size=8).hexdigest()
        return f"{files}-whole-{whole}"

    def read(self, path: str, image_size: int) -> np.ndarray:
        """Read and crop to the field of view; whole where the table says that it is no fundus photograph."""
        rgb = self._pixels(path, image_size)
        if path in self._whole:
            return whole_frame(rgb, image_size)
        return square_crop(rgb, detect_field_of_view(rgb), image_size)


def _in_small_letters(table: pa.Table) -> pa.Table:
    """The table with `Patient` called `patient`, and so every column that is known but for its capitals."""
    names = [name.lower() for name in table.column_names]
    known = [name in (*REQUIRED, *OPTIONAL) and names.count(name) == 1 for name in names]
    return table.rename_columns(
        [new if is_known else old for new, is_known, old in zip(names, known, table.column_names, strict=True)]
    )


def finding_levels(column: pa.ChunkedArray, name: str, origin: str, rows: Sequence[int]) -> pa.Array:
    """A text column of levels as int8, blank cells as -1; each different cell is parsed once.

    True and false are 1 and 0 of a finding that is present or absent. `rows` are the rows' numbers in messages.

    Raises ManifestError naming row, column, value and remedy.
    """
    encoded = column.combine_chunks().dictionary_encode()
    levels = np.full(len(encoded.dictionary), UNKNOWN, dtype=np.int8)
    codes = encoded.indices.to_numpy()
    named = name == "dr_grade"  # its level 0 is called "none"; "None" may be that or a blank, and is refused
    for code, cell in enumerate(encoded.dictionary.to_pylist()):
        if cell.lower() in BLANK and not (named and cell.lower() == "none"):
            continue
        if name.startswith("is_") and cell.lower() in ("true", "false"):
            cell = str(int(cell.lower() == "true"))
        try:
            value = 0.0 if named and cell == "none" else float(cell)
        except ValueError:
            value = np.nan
        if not (value.is_integer() if isinstance(value, float) else False) or not 0 <= value < NUM_LEVELS[name]:
            row = rows[int(np.argmax(codes == code))]
            raise ManifestError(
                f"{origin}, row {row}, column {name!r}: {cell!r} is not a level of {name}. Remedy: use "
                f"{describe_levels(name)}, or leave the cell blank where nobody annotated it."
            )
        levels[code] = int(value)
    return pa.array(levels[codes])
