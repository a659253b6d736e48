"""What is checked of a manifest: every check is over a whole column, and names the cell that fails it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.columns import hashes, paths
from datamodules.errors import UserError, did_you_mean
from datamodules.findings import NAMES, NUM_LEVELS, UNKNOWN, describe_levels

TEXT_COLUMNS = ("id", "path", "patient", "split", "source")
COLUMNS = TEXT_COLUMNS + NAMES
CONTROL = r"[\x00-\x1f\x7f-\x{9f}\x{2028}\x{2029}]"  # of which a terminal or a file system makes something else
LONGEST = 4096  # bytes of a name or a path
MOST_SHOWN = 200  # characters of a cell in a message
OUTSIDE = r"^([/\\]|[A-Za-z]:)|(^|[/\\])\.\.([/\\]|$)"  # an absolute path, or one that climbs
OUTSIDE_MASK = r"(^|\|)([/\\]|[A-Za-z]:)|(^|[/\\|])\.\.([/\\|]|$)"  # the same of several that are joined by |


class ManifestError(UserError):
    """A table that cannot be a manifest; the message names the table, the row, the column, the value and the remedy."""


@dataclass(frozen=True)
class Checker:
    """Raises ManifestError naming origin, row, column, value and remedy; every check is over a whole column."""

    origin: str
    rows: Sequence[int]
    where: pa.ChunkedArray | None = None

    def name(self, row: int) -> str:
        """How a row is called in a message."""
        return f"row {self.rows[row]}" if self.where is None else self.where[row].as_py()

    def fail(self, row: int, column: str, value: Any, problem: str, remedy: str) -> None:
        """Refuse a cell."""
        where = f"{self.origin}{',' if self.where is None else ':'} {self.name(row)}, column {column!r}"
        value = repr(value) if len(str(value)) <= MOST_SHOWN else f"{str(value)[:MOST_SHOWN]!r} …"
        raise ManifestError(f"{where}: {value} {problem}. Remedy: {remedy}.")

    def none(
        self, bad: Callable[[pa.Array], pa.Array], values: pa.ChunkedArray, column: str, problem: str, remedy: str
    ) -> None:
        """Refuse the first cell that is bad: a test of an array gives bool [N]; it is asked chunk by chunk."""
        first = 0
        for chunk in values.chunks:
            row = pc.index(bad(chunk), True).as_py()
            if row >= 0:
                self.fail(first + row, column, chunk[row].as_py(), problem, remedy)
            first += len(chunk)

    def columns(self, found: Sequence[str]) -> None:
        """See that the columns are known, and that there is a path."""
        if "path" not in found:
            raise ManifestError(f"{self.origin} has no column 'path'; its columns are: {', '.join(found)}.")
        for name in found:
            if name not in (*COLUMNS, "mask"):
                hint = did_you_mean(name, COLUMNS)
                raise ManifestError(f"{self.origin} has an unknown column {name!r}.{hint} Known: {', '.join(COLUMNS)}.")
        if len(set(found)) < len(found):
            raise ManifestError(f"{self.origin} has a column twice; its columns are: {', '.join(found)}.")

    def names(self, values: pa.ChunkedArray, name: str, remedy: str) -> None:
        """See that every text is a name, none is blank, and none is there twice."""
        self.none(lambda chunk: pc.equal(chunk, ""), values, name, "is blank", f"give every row its {name}")
        self.legible(values, name)
        ordered = hashes(values)
        ordered.sort()
        alike = ordered[1:][ordered[1:] == ordered[:-1]]
        del ordered
        first: dict[str, int] = {}
        for row in np.flatnonzero(np.isin(hashes(values), alike)).tolist() if len(alike) else ():
            earlier = first.setdefault(values[row].as_py(), row)
            if earlier != row:
                already = f"is already the {name} of {self.name(earlier)}"
                self.fail(row, name, values[row].as_py(), already, remedy)

    def legible(self, values: pa.ChunkedArray, name: str) -> None:
        """See that names hold no control characters, and are no longer than a path may be."""
        remedy = f"give it a {name} of letters that can be seen"
        self.none(_matches(CONTROL), values, name, "holds a control character", remedy)
        problem = f"is longer than {LONGEST} bytes"
        self.none(
            lambda chunk: pc.greater(pc.binary_length(chunk), LONGEST), values, name, problem, "give it a shorter one"
        )

    def paths(self, chunks: Iterable[pa.Array], name: str) -> pa.ChunkedArray:
        """A column of paths written in one way, of which none is there twice or leaves the root."""
        found = paths(chunks)
        self.names(found, name, "keep one row an image, or its copies land on both sides of a split")
        self.inside(found, name)
        return found

    def inside(self, values: pa.ChunkedArray, name: str) -> None:
        """See that no path leaves the root."""
        outside = OUTSIDE_MASK if name == "mask" else OUTSIDE
        self.none(_matches(outside), values, name, "is outside the root", "make it relative to it, without '..'")

    def levels(self, chunks: Iterable[pa.Array], name: str, n: int) -> pa.Array:
        """A finding's column of `n` rows as int8, nulls as -1."""
        levels, start = np.full(n, UNKNOWN, dtype=np.int8), 0
        for raw in chunks:
            if not pa.types.is_null(raw.type):
                levels[start : start + len(raw)] = self._levels_of(raw, name, start)
            start += len(raw)
        return pa.array(levels)

    def _levels_of(self, raw: pa.Array, name: str, start: int) -> np.ndarray:
        if pa.types.is_boolean(raw.type) and name.startswith("is_"):
            raw = raw.cast(pa.int8())
        if not (pa.types.is_integer(raw.type) or pa.types.is_floating(raw.type)):
            value = raw[0].as_py() if len(raw) else ""
            self.fail(start, name, value, f"is of type {raw.type}", "write levels as integers")
        signed = raw.cast(pa.int64()) if pa.types.is_unsigned_integer(raw.type) else raw
        values = pc.fill_null(signed, UNKNOWN).to_numpy(zero_copy_only=False)
        values = np.where(np.isnan(values), UNKNOWN, values) if values.dtype.kind == "f" else values
        bad = (values < UNKNOWN) | (values >= NUM_LEVELS[name]) | (values != np.floor(values))
        if bad.any():
            row = int(np.argmax(bad))
            self.fail(start + row, name, raw[row].as_py(), f"is not a level of {name}", f"use {describe_levels(name)}")
        return values


def _matches(pattern: str) -> Callable[[pa.Array], pa.Array]:
    """Which texts match a regular expression somewhere."""
    return lambda chunk: pc.match_substring_regex(chunk, pattern)
