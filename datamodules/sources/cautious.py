"""Rules for labels that say less than they seem to: narrower than our finding, or given to images nobody can grade."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from datamodules.findings import UNKNOWN
from datamodules.sources.harmonise import FIRST_ROW, AnyOf, Rule, tidy


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
        levels = self.rule.apply(table, origin, first_row)
        excepted = [tidy(cell) == self.cell for cell in table.column(self.column).to_pylist()]
        return np.where(excepted, UNKNOWN, levels).astype(np.int8)

    def lines(self) -> Iterable[tuple[str, str]]:
        """The rule's, and one for the exception."""
        yield from self.rule.lines()
        yield f"`{self.column}` = {self.cell}", "unknown"


def columns_of(rules: Iterable[Rule]) -> tuple[str, ...]:
    """The columns that rules read, each once."""
    return tuple(dict.fromkeys(column for rule in rules for column in rule.columns))


def _named(columns: tuple[str, ...]) -> str:
    return ", ".join(f"`{column}`" for column in columns)
