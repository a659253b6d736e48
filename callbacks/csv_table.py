"""A table on disk that grows by rows and, when a new name comes up, by columns."""

import csv
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from callbacks.disk import naming
from callbacks.files import open_own, write_text
from datamodules.errors import UserError

Row = dict[str, str]
NUMBERS = {int: re.compile(r"-?[0-9]{1,18}"), float: re.compile(r"-?([0-9]+\.?[0-9]*(e[+-]?[0-9]+)?|inf)|nan")}


class CsvTable:
    """CSV file with a header; a row is on disk when append returns, and columns stand in order of first appearance.

    Numbers are written so that reading them back gives the same number; an absent value is an empty cell.

    Args:
        columns: that all rows have; of a whole number (int) or a number (float) a cell is one or is empty.
    """

    def __init__(self, path: str | Path, columns: Mapping[str, type] | None = None) -> None:
        self.path, self.columns = Path(path), dict(columns or {})
        self._columns: list[str] | None = None

    def read(self) -> list[Row]:
        """Return the rows as text; a last line cut short by a kill is left out.

        It is one without a line's end, for a number that lost its last digits is still a number.

        Raises:
            ValueError: it is no such table; says how it differs, and what to do.
        """
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
            text = file.read()
        try:
            lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
            rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:] if len(line) == len(lines[0])]
            for name, kind in self.columns.items() if lines else ():
                if name not in lines[0]:
                    raise UserError(f"it has no column {name!r}")
                fits = NUMBERS[kind].fullmatch if kind in NUMBERS else bool
                wrong = next((cell for row in rows if (cell := row[name]) and not fits(cell)), None)
                if wrong is not None:
                    said = "a whole number" if kind is int else "a number"
                    raise UserError(f"{name} is {wrong[:50]!r}, and must be {said}")
        except (csv.Error, ValueError) as error:
            remedy = "put back a whole copy; or delete it, which loses what was written before this start"
            raise UserError(f"{self.path} is no table that can be continued: {error}. Remedy: {remedy}.") from error
        return rows

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; a new column makes the file be written anew."""
        row = {name: _text(value) for name, value in row.items()}
        if self._columns is None:
            # Whatever an earlier process left is made whole first.
            self._rewrite(self.read())
        assert self._columns is not None
        if any(name not in self._columns for name in row):
            self._rewrite([*self.read(), row])
            return
        with naming(self.path), open_own(self.path, "a") as file:
            file.write(_line([row.get(name, "") for name in self._columns]))

    def keep(self, wanted: Callable[[Row], bool] | None) -> None:
        """Drop the rows that are not wanted, without looking at them where none is; and the columns then empty."""
        self._rewrite([] if wanted is None else [row for row in self.read() if wanted(row)])

    def _rewrite(self, rows: list[Row]) -> None:
        names = dict.fromkeys(name for row in rows for name, value in row.items() if value != "")
        self._columns = list(names)
        if not rows:
            self.path.unlink(missing_ok=True)
            return
        lines = [self._columns, *([row.get(name, "") for name in self._columns] for row in rows)]
        write_text(self.path, "".join(map(_line, lines)))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def _line(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()
