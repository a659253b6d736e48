"""Excel workbooks (.xlsx) as tables of texts, for the datasets whose labels are published as such."""

from contextlib import closing
from datetime import datetime
from pathlib import Path

import openpyxl
import pyarrow as pa

from datamodules.manifest import ManifestError


def read_excel(path: Path, sheet: str | int = 0, header: int = 0) -> pa.Table:
    """A sheet as a table of text columns, names and cells trimmed, nulls as "", whole numbers without a fraction.

    Columns with a blank name are left out; where all names are blank, all columns are kept, named "0", "1", and so on.
    Wholly blank rows after the last are left out. A formula gives the value that the workbook was saved with.

    Args:
        path: the workbook.
        sheet: name or number of the sheet, the first being 0.
        header: number of the row with the columns' names, the first being 0; what is above it is skipped.

    Raises:
        ManifestError: a file that is no workbook or is damaged, a sheet or a header that is not there, a name that is
            there twice; names the file, and the sheets or the columns that there are.
    """
    rows = [[_text(cell) for cell in row] for row in _rows(path, sheet)]
    while rows and not any(rows[-1]):
        rows.pop()
    if len(rows) <= header:
        raise ManifestError(f"{path}, sheet {sheet!r} has {len(rows)} rows: there is no header in row {header + 1}.")
    width = max(map(len, rows[header:]))
    names, *cells = (row + [""] * (width - len(row)) for row in rows[header:])
    names = names if any(names) else [str(column) for column in range(width)]
    twice = sorted({name for name in names if names.count(name) > 1 and name})
    if twice:
        raise ManifestError(f"{path} has the column {twice[0]!r} twice; its columns are: {', '.join(names)}.")
    columns = zip(*cells, strict=True) if cells else [()] * width
    return pa.table({n: pa.array(column, pa.string()) for n, column in zip(names, columns, strict=True) if n})


def _rows(path: Path, sheet: str | int) -> list[tuple]:
    """The values of a sheet's cells, row by row from the first; rows may differ in length."""
    there = None
    try:
        with open(path, "rb") as file, closing(openpyxl.load_workbook(file, read_only=True, data_only=True)) as book:
            sheets = [one for n, one in enumerate(book.worksheets) if sheet in (n, one.title)]
            if sheets:
                sheets[0].reset_dimensions()  # some programs write wrong ones, which would cut the sheet
                return list(sheets[0].iter_rows(values_only=True))
            there = [one.title for one in book.worksheets]
    except OSError:
        raise
    except Exception as error:  # openpyxl lets through whatever its parsers of zip and XML raise
        raise ManifestError(
            f"{path} cannot be read as an Excel workbook: {type(error).__name__}: {error}. Remedy: take the file as it "
            "is published, or save it anew as .xlsx."
        ) from None
    raise ManifestError(f"{path} has no sheet {sheet!r}. Its sheets are: {', '.join(map(repr, there))}.")


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return cell.isoformat(" ") if isinstance(cell, datetime) else str(cell).strip("\ufeff \t\r\n\xa0")
