"""A table on disk that grows by rows and, when a new name comes up, by columns."""

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from callbacks.atomic import write_text

Row = dict[str, str]


class CsvTable:
    """CSV file with a header; a row is on disk when append returns, and columns stand in order of first appearance.

    Numbers are written so that reading them back gives the same number; an absent value is an empty cell.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._columns: list[str] | None = None

    def read(self) -> list[Row]:
        """Return the rows as text; a last line cut short by a kill is left out.

        It is one without a line's end, for a number that lost its last digits is still a number.
        """
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
            text = file.read()
        lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
        return [dict(zip(lines[0], line, strict=True)) for line in lines[1:] if len(line) == len(lines[0])]

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
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(_line([row.get(name, "") for name in self._columns]))

    def keep(self, wanted: Callable[[Row], bool]) -> None:
        """Drop the rows that are not wanted, and the columns that are then empty."""
        self._rewrite([row for row in self.read() if wanted(row)])

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
