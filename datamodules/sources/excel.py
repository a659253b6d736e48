"""Excel workbooks (.xlsx) as tables of texts: what stands in the cells as a person sees them."""

import logging
import re
import zipfile
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import IO, NamedTuple
from xml.etree.ElementTree import Element, fromstring, iterparse

import openpyxl
import pyarrow as pa
from openpyxl.utils.cell import column_index_from_string, coordinate_from_string, range_boundaries

from datamodules.errors import UserError
from datamodules.manifest import ManifestError

log = logging.getLogger(__name__)

MOST_ROWS, MOST_COLUMNS = 1 << 20, 1 << 14  # of a sheet
MOST_CELLS = 50_000_000  # of the rectangle in which a sheet's cells lie: a list of them takes 0.4 GB


class Sheet(NamedTuple):
    """A sheet as it is written: its cells row by row, and what its cells' values do not tell."""

    rows: list[list[str]]  # of one length
    merged: dict[str, tuple[int, int, int, int]]  # A2:A3, and its first column and row, its last column and row
    num_hidden: int  # rows


def read_excel(path: Path, sheet: str | int = 0, header: int = 0) -> pa.Table:
    """A sheet as a table of text columns, names and cells trimmed, nulls as "", whole numbers without a fraction.

    Columns with a blank name are left out; where all names are blank, all columns are kept, named "0", "1", and so on.
    Wholly blank rows after the last are left out. Every cell below the header that is merged with others has the value
    that is seen there. A formula gives the value that the workbook was saved with; one that no program has calculated
    is given as it is written, `=A2+1`. Rows that are hidden, and sheets that are not read, are named in the log.

    Args:
        path: the workbook.
        sheet: name of the sheet, or its number among those that are not hidden, the first being 0.
        header: number of the row with the columns' names, the first being 0; what is above it is skipped.

    Raises:
        ManifestError: a file that is no workbook or is damaged, a sheet or a header that is not there, a name that is
            there twice, cells merged with others that hold another value; names the file, and the sheets, columns or
            cells that there are.
    """
    rows, merged, num_hidden = _read(path, sheet)
    if num_hidden:
        log.warning("%s: %d rows are hidden, by a filter perhaps, and are read like the others", path, num_hidden)
    while rows and not any(rows[-1]):
        rows.pop()
    if len(rows) <= header:
        raise ManifestError(f"{path}, sheet {sheet!r} has {len(rows)} rows: there is no header in row {header + 1}.")
    for cells, bounds in merged.items():
        _fill(rows, cells, bounds, header, path)
    names, *below = rows[header:]
    names = [plain_name(name) for name in names]
    names = names if any(names) else [str(column) for column in range(len(names))]
    twice = sorted({name for name in names if names.count(name) > 1 and name})
    if twice:
        raise ManifestError(f"{path} has the column {twice[0]!r} twice; its columns are: {', '.join(names)}.")
    columns = zip(*below, strict=True) if below else [()] * len(names)
    return pa.table({n: pa.array(column, pa.string()) for n, column in zip(names, columns, strict=True) if n})


def plain_name(name: str) -> str:
    """A column's name as messages may show it: trimmed, on one line, without what moves a terminal's cursor."""
    return "".join(sign if sign.isprintable() else " " for sign in name).strip()


def _fill(rows: list[list[str]], cells: str, bounds: tuple[int, int, int, int], header: int, path: Path) -> None:
    """Give all merged cells below the header the value of the first of them, which is the one that is seen."""
    left, top, right, bottom = bounds
    if top <= header + 1 < bottom and any(rows[header][left - 1 : right]):
        raise ManifestError(
            f"{path}: the merged cells {cells} are of the header and of the rows below it. Remedy: write the columns' "
            "names in one row."
        )
    if top <= header + 1:
        return
    seen = rows[top - 1][left - 1] if top <= len(rows) and left <= len(rows[0]) else ""
    for row in rows[top - 1 : bottom]:
        for column in range(left - 1, min(right, len(row))):
            if row[column] not in ("", seen):
                raise ManifestError(
                    f"{path}: of the merged cells {cells} the value {seen!r} is seen, and {row[column]!r} lies hidden "
                    "under it. Remedy: part them, and give every cell its own value."
                )
            row[column] = seen


def _read(path: Path, sheet: str | int) -> Sheet:
    there = None
    try:
        with open(path, "rb") as file, closing(openpyxl.load_workbook(file, read_only=True, data_only=True)) as book:
            shown = [one for one in book.worksheets if one.sheet_state == "visible"]
            chosen = [one for n, one in enumerate(shown) if n == sheet]
            chosen = chosen or [one for one in book.worksheets if one.title == sheet]
            if chosen:
                others = [one.title for one in shown if one is not chosen[0]]
                if others:
                    log.warning(
                        "%s: the sheet %r is read; others are not: %s", path, chosen[0].title, ", ".join(others)
                    )
                return _cells(chosen[0], trusted=_is_calculated(file))
            there = [one.title for one in book.worksheets]
    except MemoryError:
        raise
    except Exception as error:  # openpyxl lets through whatever its parsers of zip and XML raise
        if getattr(error, "errno", None) is not None:  # the disk's fault
            raise
        raise ManifestError(
            f"{path} cannot be read as an Excel workbook: {type(error).__name__}: {error}. Remedy: take the file as it "
            "is published, or save it anew as .xlsx."
        ) from None
    raise ManifestError(f"{path} has no sheet {sheet!r}. Its sheets are: {', '.join(map(repr, there))}.")


def _is_calculated(file: IO[bytes]) -> bool:
    """Whether formulas have values: libraries that write some ask programs to calculate them on opening the file."""
    with zipfile.ZipFile(file) as parts:
        books = [fromstring(parts.read(name)) for name in parts.namelist() if name.endswith("workbook.xml")]
    asked = (settings.get("fullCalcOnLoad") for book in books for settings in book.iterfind("{*}calcPr"))
    return not any(answer in ("1", "true") for answer in asked)


def _cells(sheet: openpyxl.worksheet._read_only.ReadOnlyWorksheet, trusted: bool) -> Sheet:
    """The cells of a sheet. Values of formulas are `trusted` where a spreadsheet program has saved them."""
    merged, formulas, num_hidden, bottom, right = {}, {}, 0, 0, 0
    with closing(sheet._get_source()) as source:  # what openpyxl does not tell of a sheet that is read cell by cell
        for kind, row, column, element in _elements(source):
            if kind == "mergeCell":
                merged[element.get("ref")] = tuple(map(int, range_boundaries(element.get("ref"))))
            elif kind == "row":
                num_hidden += element.get("hidden") in ("1", "true") and any(map(len, element))
            elif len(element):  # else it is blank
                bottom, right = row, max(right, column)
                if (formula := _uncalculated(element, trusted)) is not None:
                    formulas[row, column] = f"={formula}"
    if bottom * right > MOST_CELLS:
        raise UserError(f"its cells reach to row {bottom} and column {right}, {MOST_CELLS:,} cells being the most")
    found = sheet.iter_rows(max_row=bottom, max_col=right, values_only=True) if bottom else ()
    rows = [[_text(cell) for cell in row] for row in found]
    for (row, column), formula in formulas.items():
        rows[row - 1][column - 1] = formula
    return Sheet(rows, merged, num_hidden)


def _elements(source) -> Iterator[tuple[str, int, int, Element]]:
    """Rows, cells and merged ranges of a sheet's XML, with the row and the column where they stand, from 1 on.

    Raises ValueError for a number that is too large, or not above the last: openpyxl fills the gap, or drops the row.
    """
    row = column = 0
    for event, element in iterparse(source, ("start", "end")):
        kind = element.tag.rpartition("}")[2]
        if event == "start":
            if kind == "row":
                row, column = _behind(row, int(element.get("r", row + 1)), MOST_ROWS, "row"), 0
            elif kind == "c":
                place = element.get("r")
                number = column_index_from_string(coordinate_from_string(place)[0]) if place else column + 1
                column = _behind(column, number, MOST_COLUMNS, f"row {row}, column")
        elif kind in ("row", "c", "mergeCell"):
            yield kind, row, column, element
        if event == "end" and kind in ("row", "mergeCell"):
            element.clear()


def _behind(last: int, number: int, most: int, what: str) -> int:
    if not last < number <= most:
        raise UserError(f"{what} {number} stands behind {last}, and must be from {last + 1} to {most}")
    return number


def _uncalculated(cell: Element, trusted: bool) -> str | None:
    """The formula of a cell that no program has calculated; None for any other cell."""
    parts = {part.tag.rpartition("}")[2]: part.text or "" for part in cell}
    if "f" not in parts or (trusted and ("v" in parts and (parts["v"] or cell.get("t") == "str"))):
        return None
    return parts["f"] or "…"  # one that it shares with another cell


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    text = cell.isoformat(" ") if isinstance(cell, datetime) else str(cell).strip("\ufeff \t\r\n\xa0")
    return re.sub(r'^="(.*)"$', r"\1", text)
