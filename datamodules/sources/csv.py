"""Any table of fundus photographs: CSV or Parquet, with whatever findings it has."""

import csv
import hashlib
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from datamodules.columns import hashes
from datamodules.findings import NAMES, NUM_LEVELS, UNKNOWN, describe_levels, nearest
from datamodules.images import detect_field_of_view, square_crop, whole_frame
from datamodules.manifest import COLUMNS, Manifest, ManifestError
from datamodules.sources.base import FileSource
from datamodules.sources.excel import read_excel

log = logging.getLogger(__name__)

REQUIRED = ("path",)
OPTIONAL = ("patient", "id", "split", *NAMES)
BLANK = ("", "nan", "na", "null", "none", "n/a", str(UNKNOWN), "-1.0")
FIRST_ROW = 2  # rows are named as a spreadsheet numbers them: the header is row 1


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

    def _index(self) -> Manifest:
        path = self._table_path()
        table = _in_small_letters(read_table(path))
        missing = [name for name in REQUIRED if name not in table.column_names]
        if missing:
            near = nearest(missing[0], table.column_names)
            raise ManifestError(
                f"{path} has no column {', '.join(missing)}. Its columns are: {', '.join(table.column_names)}."
                f"{f' Is it {near!r}?' if near else ''} Required: {', '.join(REQUIRED)}; "
                f"optional: {', '.join(OPTIONAL)}."
            )
        columns = {name: table.column(name) for name in ("path", *OPTIONAL[:3]) if name in table.column_names}
        if "patient" in columns:  # NaN of a table written by pandas is nobody's name
            absent = pc.is_in(pc.utf8_lower(columns["patient"]), value_set=pa.array(BLANK))
            columns["patient"] = pc.if_else(absent, "", columns["patient"])
        if "id" not in columns:
            _check_unique(columns["path"], str(path))
            columns["id"] = columns["path"]
        columns["source"] = pa.array([self.name] * table.num_rows, pa.string())
        for name in (name for name in NAMES if name in table.column_names):
            columns[name] = finding_levels(table.column(name), name, str(path))
        self._report([name for name in table.column_names if name not in (*REQUIRED, *OPTIONAL)], path)
        if table.num_rows == 0:
            raise ManifestError(f"{path} has no row below its header.")
        manifest = Manifest.from_table(pa.table(columns), origin=str(path), first_row=FIRST_ROW)
        not_fundus = np.flatnonzero(manifest.table.column("is_fundus").to_numpy() == 0)
        self._whole = frozenset(manifest.take(not_fundus).paths)
        return manifest

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
            hint = f"; did you mean {near!r}?" if near else ""
            log.warning("%s: column %r is not used%s", path, name, hint)

    def _where(self, row: int, path: str) -> str:
        return f"{self._table_path()}, row {row + FIRST_ROW}, column 'path': {path!r}"

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


def read_table(path: Path) -> pa.Table:
    """A CSV, Parquet or Excel file as a table of text columns, names and cells trimmed, nulls as "".

    Raises ManifestError when it cannot be parsed.
    """
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic == b"PK\x03\x04":  # a workbook, whatever it is called
        return read_excel(path)
    if magic == b"\xd0\xcf\x11\xe0":
        raise ManifestError(f"{path} is a workbook of Excel before 2007. Remedy: save it as .xlsx or as CSV.")
    try:
        is_parquet = magic == b"PAR1" or path.suffix.lower() in (".parquet", ".pq")
        table = pq.read_table(path) if is_parquet else _read_csv(path)
        columns = [_as_text(table.column(i)) for i in range(table.num_columns)]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} cannot be read as a table: {error}.") from None
    names = [name.strip().lstrip("\ufeff").strip('"') for name in table.column_names]
    twice = sorted({name for name in names if names.count(name) > 1 and name})
    if twice:
        raise ManifestError(f"{path} has the column {twice[0]!r} twice; its columns are: {', '.join(names)}.")
    return pa.table({name: column for name, column in zip(names, columns, strict=True) if name})


def row_numbers(path: Path, num_rows: int) -> list[int]:
    """The line of a CSV file on which each of its `num_rows` rows begins: the header counts, and so do blank lines.

    Rows of a Parquet file, or of one that other rules part into rows, are numbered as a spreadsheet would.
    """
    plain = list(range(FIRST_ROW, num_rows + FIRST_ROW))
    with open(path, "rb") as file:
        if file.read(4) in (b"PAR1", b"PK\x03\x04"):
            return plain
    delimiter, encoding = dialect(path)
    begins, before = [], 0
    with open(path, newline="", encoding=encoding, errors="replace") as file:
        lines = csv.reader(file, delimiter=delimiter)
        try:
            for cells in lines:
                if cells:
                    begins.append(before + 1)
                before = lines.line_num
        except csv.Error:  # a cell longer than it takes
            return plain
    return begins[1:] if len(begins) == num_rows + 1 else plain


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_null(column.type):
        return pa.chunked_array([pa.array([""] * len(column), pa.string())])
    return pc.utf8_trim_whitespace(pc.fill_null(column.cast(pa.string()), ""))


def _read_csv(path: Path) -> pa.Table:
    delimiter, encoding = dialect(path)
    names = pa.csv.open_csv(path, pa.csv.ReadOptions(encoding=encoding), _parse(delimiter)).schema.names
    text = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    return pa.csv.read_csv(path, pa.csv.ReadOptions(encoding=encoding), _parse(delimiter), text)


def dialect(path: Path) -> tuple[str, str]:
    """The separator and the encoding of a CSV file; raises ManifestError for an empty one."""
    with open(path, "rb") as file:
        head = file.readline()
        sample = head + file.read(1 << 20)
    if not head.strip():
        raise ManifestError(f"{path} is empty: it has no header.")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ManifestError(f'{path} is in UTF-16, as Excel\'s "Unicode text" is. Remedy: save it as CSV in UTF-8.')
    delimiter = max(",;\t", key=lambda mark: head.count(mark.encode()))
    try:
        sample[: len(sample) - 4].decode("utf-8")  # a character may be cut at the sample's end
        encoding = "utf8"
    except UnicodeDecodeError:
        encoding = "latin-1"
    return delimiter, encoding


def _parse(delimiter: str) -> pa.csv.ParseOptions:
    return pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)


def _check_unique(paths: pa.ChunkedArray, origin: str) -> None:
    """See that no path is there twice, of a table whose paths are the ids too: the manifest would blame the id."""
    found = hashes(paths)
    _, first, which = np.unique(found, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[which] != np.arange(len(found)))
    if len(again):
        row, earlier = int(again[0]), int(first[which[again[0]]])
        raise ManifestError(
            f"{origin}, row {row + FIRST_ROW}, column 'path': {paths[row].as_py()!r} is already the path of row "
            f"{earlier + FIRST_ROW}. Remedy: keep one row an image, or its copies land on both sides of a split."
        )


def finding_levels(column: pa.ChunkedArray, name: str, origin: str, first_row: int = FIRST_ROW) -> pa.Array:
    """A text column of levels as int8, blank cells as -1; each different cell is parsed once.

    Raises ManifestError naming row, column, value and remedy.
    """
    encoded = column.combine_chunks().dictionary_encode()
    levels = np.full(len(encoded.dictionary), UNKNOWN, dtype=np.int8)
    codes = encoded.indices.to_numpy()
    named = name == "dr_grade"  # its level 0 is called "none"; "None" may be that or a blank, and is refused
    for code, cell in enumerate(encoded.dictionary.to_pylist()):
        if cell.lower() in BLANK and not (named and cell.lower() == "none"):
            continue
        try:
            value = 0.0 if named and cell == "none" else float(cell)
        except ValueError:
            value = np.nan
        if not (value.is_integer() if isinstance(value, float) else False) or not 0 <= value < NUM_LEVELS[name]:
            row = int(np.argmax(codes == code)) + first_row
            raise ManifestError(
                f"{origin}, row {row}, column {name!r}: {cell!r} is not a level of {name}. Remedy: use "
                f"{describe_levels(name)}, or leave the cell blank where nobody annotated it."
            )
        levels[code] = int(value)
    return pa.array(levels[codes])
