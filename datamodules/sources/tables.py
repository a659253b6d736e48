"""Tables as people keep them: CSV, Parquet or Excel, read as columns of text."""

import codecs
import csv
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from datamodules.manifest import ManifestError
from datamodules.parquet import open_parquet
from datamodules.sources.excel import plain_name, read_excel
from datamodules.sources.harmonise import FIRST_ROW

log = logging.getLogger(__name__)

NO_VALUE = r"^(=|#(N/A|REF!|NAME\?|VALUE!|DIV/0!|NUM!|NULL!|SPILL!|CALC!)$)"  # formulas that gave nothing
AS_UTF8 = 'Remedy: save it as "CSV UTF-8"'

LONGEST_CELL = (1 << 31) - 1  # as much as Arrow reads


def read_table(path: Path, used: Collection[str] = ()) -> pa.Table:
    """A CSV, Parquet or Excel file as a table of text columns, names and cells trimmed, nulls as "".

    Args:
        path: the file.
        used: names of columns, in small letters, that must be of text or numbers; others that are of lists, structures
            or bytes are named in the log and left out.

    Raises:
        ManifestError: it cannot be read as a table; names the file and the remedy.
    """
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic == b"PK\x03\x04":  # a workbook, whatever it is called
        return read_excel(path)
    if magic == b"\xd0\xcf\x11\xe0":
        raise ManifestError(f"{path} is a workbook of Excel before 2007. Remedy: save it as .xlsx or as CSV.")
    if magic == b"PAR1" or path.suffix.lower() in (".parquet", ".pq"):
        with open_parquet(path, ManifestError, "copy or write it again") as parquet:
            table = _worded(parquet, path, used)
    else:
        table = _read_csv(path)
    try:
        return tidied(table, path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ManifestError(f"{path} cannot be read as a table: {error}. Remedy: write its cells as text.") from None


def _worded(parquet: pq.ParquetFile, path: Path, used: Collection[str]) -> pa.Table:
    """The columns of a Parquet file that are of text or numbers."""
    wanted = []
    for field in parquet.schema_arrow:
        if _is_worded(field.type) or (field.name.lower() in used and not pa.types.is_nested(field.type)):
            wanted.append(field.name)
        elif field.name.lower() in used:
            raise ManifestError(
                f"{path}: the column {field.name!r} is of type {field.type}, and must be text or a number. Remedy: "
                "write it so, or leave the column out."
            )
        else:
            log.warning("%s: column %r is of type %s, which is not read", path, field.name, field.type)
    return parquet.read(wanted)


def _is_worded(kind: pa.DataType) -> bool:
    """Whether cells of a type can be written as text; bytes only perhaps."""
    bare = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return not (bare or pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType))


def tidied(table: pa.Table, path: Path) -> pa.Table:
    """A table with trimmed names, and cells as trimmed text without nulls; columns without a name are left out.

    Raises ManifestError for a name that is there twice.
    """
    names = [plain_name(name.lstrip("\ufeff").strip('" ')) for name in table.column_names]
    twice = sorted({name for name in names if names.count(name) > 1 and name})
    if twice:
        raise ManifestError(f"{path} has the column {twice[0]!r} twice; its columns are: {', '.join(names)}.")
    return pa.table({name: _as_text(table.column(place)) for place, name in enumerate(names) if name})


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_null(column.type):
        return pa.chunked_array([pa.array([""] * len(column), pa.string())])
    if pa.types.is_floating(column.type):  # 12345678901.0 as it is meant, not as 1.2345678901e+10
        column = pc.if_else(pc.is_nan(column), None, column)
        with suppress(pa.ArrowInvalid):  # there is a fraction
            column = column.cast(pa.int64())
    texts = pc.utf8_trim_whitespace(pc.fill_null(column.cast(pa.string()), ""))
    return pc.replace_substring_regex(texts, r'^="(.*)"$', r"\1")  # as spreadsheets are made to keep leading zeros


# -- CSV


class Dialect(NamedTuple):
    """How a CSV file is written: its separator and encoding, and the lines above its header."""

    delimiter: str
    encoding: str
    above: int = 0

    def reading(self, **options) -> pa.csv.ReadOptions:
        """For Arrow."""
        return pa.csv.ReadOptions(encoding=self.encoding, skip_rows=self.above, **options)

    def parsing(self, **options) -> pa.csv.ParseOptions:
        """For Arrow."""
        return pa.csv.ParseOptions(delimiter=self.delimiter, **options)

    def lines(self, path: Path, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
        """The header and the rows that are not blank lines: the line that each begins on, and its cells.

        Raises ManifestError where `strict`, for a quotation mark that is not closed before the next separator.
        """
        with open(path, newline="", encoding=self.encoding, errors="replace") as file:
            before = sum(1 for _ in islice(file, self.above))
            reader = csv.reader(file, delimiter=self.delimiter, strict=strict)
            last, before_this = 0, csv.field_size_limit(LONGEST_CELL)  # which is of the whole process
            try:
                for cells in reader:
                    if cells:
                        yield before + last + 1, cells
                    last = reader.line_num
            except csv.Error as error:
                raise ManifestError(
                    f"{path}, row {before + last + 1}: a quotation mark is not closed where its cell ends ({error}). "
                    "Remedy: close it, take it out, or write it twice if it is of the text."
                ) from None
            finally:
                csv.field_size_limit(before_this)


def dialect(path: Path) -> Dialect:
    """How a CSV file is written; reads all of it once.

    Raises ManifestError for one that is empty, in UTF-16, or no text.
    """
    encoding = _encoding(path)
    above = 0
    with open(path, "rb") as file:
        for line in file:
            line = line.removeprefix(codecs.BOM_UTF8)
            if told := re.fullmatch(rb'"?sep=([^\x80-\xff"\r\n])"?\s*', line, re.IGNORECASE):  # Excel's own, for itself
                return Dialect(told[1].decode("latin-1"), encoding, above + 1)
            if line.strip(b' \t\r\n,;"'):
                delimiter = max(",;\t", key=lambda mark: line.count(mark.encode()))
                return Dialect(delimiter, encoding, above)
            above += 1
    raise ManifestError(f"{path} is empty: it has no header.")


def _encoding(path: Path) -> str:
    """The encoding of a file of text."""
    decoders = {name: codecs.getincrementaldecoder(name)() for name in ("utf8", "cp1252")}
    at = lines = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            if at == 0 and chunk.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise ManifestError(
                    f'{path} is in UTF-16, as Excel\'s "Unicode text" is. Remedy: save it as CSV in UTF-8.'
                )
            if (nul := chunk.find(b"\0")) >= 0:
                raise ManifestError(_of_nul(path, chunk, nul, lines))
            for name in list(decoders):
                try:
                    decoders[name].decode(chunk)
                except UnicodeDecodeError:
                    del decoders[name]
            lines += chunk.count(b"\n")
            at += len(chunk)
    try:
        decoders.get("utf8", decoders.get("cp1252")).decode(b"", final=True)
    except (UnicodeDecodeError, AttributeError):
        decoders.pop("utf8", None)
    if not decoders:
        raise ManifestError(f"{path} is neither in UTF-8 nor in the Western European encoding of Windows. {AS_UTF8}.")
    return next(iter(decoders))


def _of_nul(path: Path, chunk: bytes, place: int, lines: int) -> str:
    """What is said of a table with a NUL byte: text in UTF-16 has one beside each Latin letter."""
    few, many = sorted(chunk[start:1000:2].count(0) for start in (0, 1))
    if few == 0 and many > min(len(chunk), 1000) // 8:
        return f"{path} is in UTF-16 without a mark, or no text at all. {AS_UTF8}."
    begin = chunk.rfind(b"\n", 0, place) + 1
    row, cells = lines + chunk.count(b"\n", 0, place) + 1, chunk[begin:].partition(b"\n")[0][:60].decode("latin-1")
    return (
        f"{path}, row {row}: {cells!r} holds a NUL byte: it is no text, or was damaged, as by a crash while it was "
        "written. Remedy: take it from a whole copy, or write it again as CSV."
    )


def _read_csv(path: Path) -> pa.Table:
    written = dialect(path)
    if written.encoding != "utf8":
        log.warning("%s is not in UTF-8: it is read as Western European (Windows-1252). %s.", path, AS_UTF8)
    try:
        parse = written.parsing(newlines_in_values=True)
        names = pa.csv.open_csv(path, written.reading(), parse).schema.names
        text = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        table = pa.csv.read_csv(path, written.reading(), parse, text)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        table = _row_by_row(path, written)
    several = any(pc.any(pc.match_substring_regex(column, r"[\r\n]")).as_py() for column in table.columns)
    if several or any("\n" in name or "\r" in name for name in table.column_names):
        for _ in written.lines(path, strict=True):  # a cell of several lines may have swallowed rows
            pass
    return table


def _row_by_row(path: Path, written: Dialect) -> pa.Table:
    """As Arrow reads it, but that blank cells may go on behind the header's last, and blank rows be of any length."""
    rows, names = [], None
    for line, cells in written.lines(path):
        names = cells if names is None else names
        width = len(names)
        cells = cells[:width] if not any(cell.strip() for cell in cells[width:]) else cells
        cells = cells if any(cell.strip() for cell in cells) else [""] * width
        if len(cells) != width:
            raise ManifestError(
                f"{path} cannot be read as a table: row {line} has {len(cells)} cells, and the header {width}. "
                "Remedy: correct the row, or put a cell that holds the separator in quotation marks."
            )
        rows.append(cells)
    columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    return pa.Table.from_arrays([column[1:] for column in columns], names=names)


def numbered_rows(path: Path, used: Collection[str] = (), header: int = 0) -> tuple[pa.Table, np.ndarray]:
    """A table as `read_table` reads it, without the rows whose cells are all blank, and the numbers of its rows, int64.

    Of a CSV file that is the line on which a row begins: the header counts, and so do blank lines.

    Args:
        header: of a workbook, the number of the row with the columns' names, the first being 0.
    """
    table = read_excel(path, header=header) if header else read_table(path, used)
    rows = _row_numbers(path, table.num_rows) + header
    filled = [pc.not_equal(column, "").to_numpy(zero_copy_only=False) for column in table.columns]
    some = np.logical_or.reduce(filled) if filled else np.zeros(table.num_rows, dtype=bool)
    return (table, rows) if some.all() else (table.filter(pa.array(some)), rows[some])


def _row_numbers(path: Path, num_rows: int) -> np.ndarray:
    """The numbers of all rows; of a file that other rules part into rows, as a spreadsheet would number them."""
    plain = np.arange(FIRST_ROW, num_rows + FIRST_ROW)
    with open(path, "rb") as file:
        if file.read(4) in (b"PAR1", b"PK\x03\x04"):
            return plain
    begins = np.fromiter((line for line, _ in dialect(path).lines(path)), dtype=np.int64)
    return begins[1:] if len(begins) == num_rows + 1 else plain


def refuse_no_value(columns: Mapping[str, pa.ChunkedArray], name_row: Callable[[int], str]) -> None:
    """See that no cell of a table's columns holds a formula that was never calculated, or one that failed.

    `name_row` says how a row is called in a message. Raises ManifestError naming row, column, value and remedy.
    """
    for name, column in columns.items():
        bad = pc.match_substring_regex(column, NO_VALUE).to_numpy(zero_copy_only=False)
        if bad.any():
            row = int(np.argmax(bad))
            cell = column[row].as_py()
            problem = "is a formula that no program has calculated" if cell[0] == "=" else "is a formula that failed"
            raise ManifestError(
                f"{name_row(row)}, column {name!r}: {cell!r} {problem}. Remedy: open the workbook in a "
                "spreadsheet program, see that the cell has its value, and save it; or write the value in its place."
            )
