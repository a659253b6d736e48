"""From a dataset's own labels to our findings: rules that are data, so that they can be printed as well as applied.

A source states `rules`, one a finding. What no rule mentions is unknown. docs/harmonisation.md is printed from them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from datamodules.findings import UNKNOWN, check_name, describe_levels
from datamodules.manifest import ManifestError

ICDR: Mapping[str, int | None] = {str(grade): grade for grade in range(5)}
YES_NO: Mapping[str, int | None] = {"0": 0, "1": 1}
FIRST_ROW = 2  # rows are named as a spreadsheet numbers them: the header is row 1
WHERE = "where"  # the column of a table that tells where each row stands: "<file>, row <n>"


class Rule(Protocol):
    """How one finding follows from the columns of a table of texts."""

    finding: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""

    def apply(self, table: pa.Table, origin: str, first_row: int) -> np.ndarray:
        """Levels int8 [N], -1 for unknown; raises ManifestError for a cell that the dataset does not define."""

    def lines(self) -> Iterable[tuple[str, str]]:
        """What it says, for people: pairs of (the dataset's label, level of the finding or `unknown`)."""


@dataclass(frozen=True)
class Levels:
    """`finding` has the level that `cells` names for the text in `column`; None is unknown, and so is a blank cell.

    Whole numbers are compared as numbers: `2.0` is `2`.
    """

    finding: str
    column: str
    cells: Mapping[str, int | None]

    @property
    def columns(self) -> tuple[str, ...]:
        """The one column."""
        return (self.column,)

    def apply(self, table: pa.Table, origin: str, first_row: int = FIRST_ROW) -> np.ndarray:
        """Levels int8 [N]; raises ManifestError naming row, column, value and remedy."""
        codes, cells = encoded(table, self.column)
        levels = np.full(len(cells), UNKNOWN, dtype=np.int8)
        for code, cell in enumerate(cells):
            if cell not in self.cells:
                if cell == "":
                    continue
                known = ", ".join(map(repr, self.cells))
                row = row_name(table, int(np.argmax(codes == code)), origin, first_row)
                raise ManifestError(
                    f"{row}, column {self.column!r}: {cell!r} is not a label of this dataset. Known: {known}, or "
                    "blank. Remedy: take the table as it is published, or correct the cell."
                )
            level = self.cells[cell]
            levels[code] = UNKNOWN if level is None else level
        return levels[codes]

    def lines(self) -> Iterable[tuple[str, str]]:
        """One a cell."""
        for cell, level in self.cells.items():
            yield f"`{self.column}` = {cell or 'blank'}", "unknown" if level is None else str(level)


@dataclass(frozen=True)
class AnyOf:
    """`finding` is 1 where any of the columns is 1, 0 where all are 0, and unknown otherwise."""

    finding: str
    any_of: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """All that it reads."""
        return self.any_of

    def apply(self, table: pa.Table, origin: str, first_row: int = FIRST_ROW) -> np.ndarray:
        """Levels int8 [N]; raises ManifestError naming row, column, value and remedy."""
        parts = [Levels(self.finding, column, YES_NO).apply(table, origin, first_row) for column in self.any_of]
        values = np.stack(parts)
        return np.where((values == 1).any(0), 1, np.where((values == 0).all(0), 0, UNKNOWN)).astype(np.int8)

    def lines(self) -> Iterable[tuple[str, str]]:
        """One for present, one for absent."""
        names = ", ".join(f"`{column}`" for column in self.any_of)
        yield f"any of {names} = 1", "1"
        yield f"all of {names} = 0", "0"


@dataclass(frozen=True)
class Always:
    """`finding` has this level in every image of the dataset."""

    finding: str
    level: int

    @property
    def columns(self) -> tuple[str, ...]:
        """None."""
        return ()

    def apply(self, table: pa.Table, origin: str, first_row: int = FIRST_ROW) -> np.ndarray:
        """Levels int8 [N]."""
        return np.full(table.num_rows, self.level, dtype=np.int8)

    def lines(self) -> Iterable[tuple[str, str]]:
        """One."""
        yield "every image", str(self.level)


FUNDUS = Always("is_fundus", 1)  # photographs that somebody graded are fundus photographs


def harmonise(rules: Sequence[Rule], table: pa.Table, origin: str, first_row: int = FIRST_ROW) -> dict[str, pa.Array]:
    """The findings that the rules give for a table of texts, int8 [N] each.

    Args:
        origin: the table's name in errors.
        first_row: number of the first row in errors, where no column `where` names the rows.

    Raises:
        ManifestError: a cell that the dataset does not define; names file and row, column, value and remedy.
    """
    found: dict[str, pa.Array] = {}
    for rule in rules:
        assert rule.finding not in found, f"two rules for {rule.finding}"
        describe_levels(check_name(rule.finding))
        found[rule.finding] = pa.array(rule.apply(table, origin, first_row))
    return found


def tidy(cell: str) -> str:
    """A cell as rules name it: trimmed, and whole numbers without a fraction (`2.0` is `2`)."""
    cell = cell.strip()
    head, point, fraction = cell.partition(".")
    return head if point and head.lstrip("+-").isdecimal() and not fraction.strip("0") else cell


def row_name(table: pa.Table, row: int, origin: str, first_row: int = FIRST_ROW) -> str:
    """How a row is called in an error: by its file and line where the table tells them, else by its number."""
    if WHERE in table.column_names:
        return f"{origin}: {table.column(WHERE)[row].as_py()}"
    return f"{origin}, row {row + first_row}"


def encoded(table: pa.Table, column: str) -> tuple[np.ndarray, list[str]]:
    """Codes [N] and the different cells, tidied; each different cell is looked at once."""
    found = table.column(column).combine_chunks().dictionary_encode()
    return found.indices.to_numpy(), [tidy(cell) for cell in found.dictionary.to_pylist()]
