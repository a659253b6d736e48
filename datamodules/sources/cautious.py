"""Rules for labels that say less than they seem to: narrower than our finding, or given to images nobody can grade."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from datamodules.findings import UNKNOWN
from datamodules.manifest import ManifestError
from datamodules.sources.harmonise import FIRST_ROW, AnyOf, Rule, encoded, row_name, tidy


@dataclass(frozen=True)
class Narrower:
    """`finding` is 1 where any of the columns is 1, 0 where those and all `others` are 0, and unknown otherwise.

    For a finding that takes in more than the columns say: `others` may be signs of it.
    """

    finding: str
    any_of: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """All that it reads."""
        return self.any_of + self.others

    def apply(self, table: pa.Table, origin: str, first_row: int = FIRST_ROW) -> np.ndarray:
        """Levels int8 [N]; raises ManifestError naming row, column, value and remedy."""
        present = AnyOf(self.finding, self.any_of).apply(table, origin, first_row)
        anything = AnyOf(self.finding, self.columns).apply(table, origin, first_row)
        return np.where(present == 1, 1, np.where(anything == 0, 0, UNKNOWN)).astype(np.int8)

    def lines(self) -> Iterable[tuple[str, str]]:
        """One for present, one for absent, one for what the others leave open."""
        any_of, every, others = (_named(names) for names in (self.any_of, self.columns, self.others))
        yield f"any of {any_of} = 1", "1"
        yield f"all of {every} = 0", "0"
        yield f"only {others} = 1", "unknown"


@dataclass(frozen=True)
class UnlessAll:
    """What `rule` says, but unknown where each of the columns is the cell that `cells` gives for it."""

    rule: Rule
    cells: Mapping[str, str]

    @property
    def finding(self) -> str:
        """That of the rule."""
        return self.rule.finding

    @property
    def columns(self) -> tuple[str, ...]:
        """The rule's and its own."""
        return (*self.rule.columns, *self.cells)

    def apply(self, table: pa.Table, origin: str, first_row: int = FIRST_ROW) -> np.ndarray:
        """Levels int8 [N]; raises ManifestError naming row, column, value and remedy."""
        excepted = np.ones(table.num_rows, dtype=bool)
        for column, cell in self.cells.items():
            excepted &= np.array([tidy(there) == cell for there in table.column(column).to_pylist()], dtype=bool)
        return np.where(excepted, UNKNOWN, self.rule.apply(table, origin, first_row)).astype(np.int8)

    def lines(self) -> Iterable[tuple[str, str]]:
        """The rule's, and one for the exception."""
        yield from self.rule.lines()
        yield " and ".join(f"`{column}` = {cell}" for column, cell in self.cells.items()), "unknown"


@dataclass(frozen=True)
class Unless:
    """What `rule` says, but unknown where `column` is `cell`."""

    rule: Rule
    column: str
    cell: str

    @property
    def finding(self) -> str:
        """That of the rule."""
        return self.rule.finding

    @property
    def columns(self) -> tuple[str, ...]:
        """The rule's and its own."""
        return (*self.rule.columns, self.column)

    def apply(self, table: pa.Table, origin: str, first_row: int = FIRST_ROW) -> np.ndarray:
        """Levels int8 [N]; raises ManifestError naming row, column, value and remedy."""
        return UnlessAll(self.rule, {self.column: self.cell}).apply(table, origin, first_row)

    def lines(self) -> Iterable[tuple[str, str]]:
        """The rule's, and one for the exception."""
        return UnlessAll(self.rule, {self.column: self.cell}).lines()


class Score(NamedTuple):
    """A column of whole numbers of 0 to 10: good from `good` on, bad from `bad` on, up or down as these two lie."""

    column: str
    good: int
    bad: int


@dataclass(frozen=True)
class Scored:
    """`finding` is 1 where every score is good, 0 where any is bad, and unknown otherwise."""

    finding: str
    scores: tuple[Score, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of the scores."""
        return tuple(score.column for score in self.scores)

    def apply(self, table: pa.Table, origin: str, first_row: int = FIRST_ROW) -> np.ndarray:
        """Levels int8 [N]; raises ManifestError naming row, column, value and remedy."""
        parts = np.stack([self._levels(score, table, origin, first_row) for score in self.scores])
        return np.where((parts == 0).any(0), 0, np.where((parts == 1).all(0), 1, UNKNOWN)).astype(np.int8)

    def lines(self) -> Iterable[tuple[str, str]]:
        """One for each level."""
        yield " and ".join(f"`{s.column}` {'≥' if s.good > s.bad else '≤'} {s.good}" for s in self.scores), "1"
        yield " or ".join(f"`{s.column}` {'≤' if s.good > s.bad else '≥'} {s.bad}" for s in self.scores), "0"

    def _levels(self, score: Score, table: pa.Table, origin: str, first_row: int) -> np.ndarray:
        codes, cells = encoded(table, score.column)
        levels = np.full(len(cells), UNKNOWN, dtype=np.int8)
        up = 1 if score.good > score.bad else -1
        for code, cell in enumerate(cells):
            if cell == "":
                continue
            if not cell.isdecimal() or int(cell) > 10:
                row = row_name(table, int(np.argmax(codes == code)), origin, first_row)
                raise ManifestError(
                    f"{row}, column {score.column!r}: {cell!r} is no score of this dataset. Known: whole numbers of 0 "
                    "to 10, or blank. Remedy: take the table as it is published, or correct the cell."
                )
            levels[code] = 1 if up * (int(cell) - score.good) >= 0 else 0 if up * (int(cell) - score.bad) <= 0 else -1
        return levels[codes]


@dataclass(frozen=True)
class IfReadable:
    """What `rule` says, but unknown where `readable` says 0: nobody can see it there."""

    rule: Rule
    readable: Rule

    @property
    def finding(self) -> str:
        """That of the rule."""
        return self.rule.finding

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of both."""
        return (*self.rule.columns, *self.readable.columns)

    def apply(self, table: pa.Table, origin: str, first_row: int = FIRST_ROW) -> np.ndarray:
        """Levels int8 [N]; raises ManifestError naming row, column, value and remedy."""
        levels = self.rule.apply(table, origin, first_row)
        return np.where(self.readable.apply(table, origin, first_row) == 0, UNKNOWN, levels).astype(np.int8)

    def lines(self) -> Iterable[tuple[str, str]]:
        """The rule's, and what makes an image unreadable."""
        yield from self.rule.lines()
        yield from ((label, "unknown") for label, level in self.readable.lines() if level == "0")


def columns_of(rules: Iterable[Rule]) -> tuple[str, ...]:
    """The columns that rules read, each once."""
    return tuple(dict.fromkeys(column for rule in rules for column in rule.columns))


def _named(columns: tuple[str, ...]) -> str:
    return ", ".join(f"`{column}`" for column in columns)
