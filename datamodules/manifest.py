"""The manifest: one row an image, checked once, column by column, so that ten million rows stay cheap.

Columns: id and path (each unique; paths relative to the source's root), patient, split ("" while undecided), source,
mask where the source has masks, then the findings as int8, -1 for unknown. Held as an Arrow table, written as Parquet.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.columns import blank, coded, encoded, hashes, text, unknown
from datamodules.findings import NAMES, NUM_LEVELS, UNKNOWN, check_name, describe_levels, encode, nearest

SPLITS = ("train", "val", "test")
SPACE = "::"  # in a patient's name, behind the people that a union has it from
STRICTEST = ("test", "val", "train", "")  # of several splits that contend for a row, the first of these has it
TEXT_COLUMNS = ("id", "path", "patient", "split", "source")
COLUMNS = TEXT_COLUMNS + NAMES
OUTSIDE = r"^([/\\]|[A-Za-z]:)|(^|[/\\])\.\.([/\\]|$)"  # an absolute path, or one that climbs


class ManifestError(ValueError):
    """A table that cannot be a manifest; the message names the table, the row, the column, the value and the remedy."""


@dataclass(frozen=True)
class Manifest:
    """A checked table of images. Build it with `from_rows`, `from_table` or `read`, which check it."""

    table: pa.Table

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> "Manifest":
        """From dicts with `id` and `path` at least; what is missing is unknown. For small tables: see `from_table`."""
        rows = list(rows)
        columns = list(dict.fromkeys(name for row in rows for name in row)) or ["id", "path"]
        return cls.from_table(pa.table({name: pa.array([row.get(name) for row in rows]) for name in columns}))

    @classmethod
    def from_table(
        cls,
        table: pa.Table,
        origin: str = "the manifest",
        first_row: int = 0,
        where: pa.ChunkedArray | None = None,
    ) -> "Manifest":
        """From an Arrow table with the columns `id` and `path` at least; nulls and absent findings are unknown.

        A row without a patient is its own patient. In messages rows are numbered from `first_row`, or named by `where`,
        a text for each. Raises ManifestError for an unknown column, an id or a path that is blank or there twice, a
        path outside the root, a split or a level that does not exist.
        """
        return cls._checked(
            table.column_names, table.num_rows, lambda name: table.column(name).chunks, origin, first_row, where
        )

    @classmethod
    def _checked(
        cls,
        names: Sequence[str],
        n: int,
        column: Callable[[str], Iterable[pa.Array]],
        origin: str,
        first_row: int,
        where: pa.ChunkedArray | None = None,
    ) -> "Manifest":
        """From columns that are asked for one by one, in chunks: ten million rows take little more than their table."""
        check = _Checker(origin, first_row, where)
        check.columns(names)
        columns = {"id": text(column("id")), "path": None, "patient": None}  # patient takes most, so path comes later
        check.names(columns["id"], "id", "give every image its own id")
        patient = text(column("patient")) if "patient" in names else columns["id"]
        nobody = pc.equal(patient, "")
        if pc.any(nobody).as_py():
            patient = pc.if_else(nobody, pc.binary_join_element_wise("image", columns["id"], ":"), patient)
        columns["patient"] = encoded(patient)
        del patient, nobody
        columns["path"] = text(column("path"))
        check.names(columns["path"], "path", "keep one row an image, or its copies land on both sides of a split")
        check.inside(columns["path"], "path")
        for name in ("split", "source"):
            columns[name] = coded(text(column(name)) if name in names else pa.chunked_array([blank(n)]))
        allowed = pc.is_in(columns["split"].cast(pa.string()), value_set=pa.array(("", *SPLITS)))
        remedy = "use train, val, test or leave it blank"
        check.none(pc.invert(allowed), columns["split"], "split", "is not a split", remedy)
        if "mask" in names:
            columns["mask"] = text(column("mask"))
            check.inside(columns["mask"], "mask")
        pa.default_memory_pool().release_unused()  # a fifth of a GiB for ten million rows
        for name in NAMES:
            columns[name] = check.levels(column(name), name, n) if name in names else unknown(n)
        return cls(pa.table(columns))

    @classmethod
    def read(cls, path: str | Path) -> "Manifest":
        """Read a manifest written by `write`, checking it again."""
        with pq.ParquetFile(path) as file:
            names, n = file.schema_arrow.names, file.metadata.num_rows

            def column(name: str) -> Iterable[pa.Array]:
                return (batch.column(0) for batch in file.iter_batches(1 << 16, columns=[name], use_threads=False))

            return cls._checked(names, n, column, str(path), 0)

    def write(self, path: str | Path) -> None:
        """Write it as Parquet, all or nothing."""
        partial = f"{path}.{os.getpid()}.tmp"
        pq.write_table(self.table, partial)
        os.replace(partial, path)

    def __len__(self) -> int:
        """How many images."""
        return self.table.num_rows

    @property
    def labels(self) -> np.ndarray:
        """The label matrix, int64 [N, F], -1 for unknown; a new array at every call."""
        labels = np.empty((len(self), len(NAMES)), dtype=np.int64)
        for column, name in enumerate(NAMES):
            labels[:, column] = self.table.column(name).to_numpy()
        return labels

    @property
    def ids(self) -> list[str]:
        """The unique names of the images."""
        return self.table.column("id").to_pylist()

    @property
    def paths(self) -> list[str]:
        """Where the images lie, relative to the source's root."""
        return self.table.column("path").to_pylist()

    @property
    def patients(self) -> list[str]:
        """Whose image it is."""
        return self.table.column("patient").to_pylist()

    @property
    def splits(self) -> list[str]:
        """`train`, `val`, `test`, or "" where it is not decided."""
        return self.table.column("split").to_pylist()

    @property
    def num_patients(self) -> int:
        """How many different patients."""
        return pc.count_distinct(self.table.column("patient").cast(pa.string())).as_py()

    def rows(self, split: str) -> np.ndarray:
        """The row numbers of a split, int64, ascending."""
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}, and must be one of: {', '.join(SPLITS)}.")
        mask = pc.equal(self.table.column("split").cast(pa.string()), split)
        return np.flatnonzero(np.asarray(mask.to_numpy(zero_copy_only=False), dtype=bool))

    def take(self, rows: Sequence[int] | np.ndarray) -> "Manifest":
        """The given rows, in the given order."""
        return Manifest(self.table.take(pa.array(np.asarray(rows, dtype=np.int64))))

    def select(self, split: str) -> "Manifest":
        """The rows of a split."""
        return self.take(self.rows(split))

    def where(self, **levels: int | Sequence[int]) -> "Manifest":
        """The rows of which every finding named has one of the levels: `where(dr_grade=[3, 4], is_fundus=1)`.

        Raises ValueError for a name that is not a finding, and for a level that it does not have; -1 is unknown.
        """
        chosen = np.ones(len(self), dtype=bool)
        for name, wanted in levels.items():
            wanted = [wanted] if isinstance(wanted, int) else list(wanted)
            check_name(name)
            column, among = self.table.column(name).to_numpy(), np.zeros(len(self), dtype=bool)
            for level in wanted:
                encode({name: level})
                among |= column == level
            chosen &= among
        return Manifest(self.table.filter(pa.array(chosen)))

    def with_splits(self, splits: Sequence[str]) -> "Manifest":
        """The same rows with another split column."""
        column = self.table.column_names.index("split")
        return Manifest.from_table(self.table.set_column(column, "split", pa.array(list(splits), pa.string())))

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits over every cell: equal manifests, however they were made, have equal fingerprints."""
        digest = hashlib.blake2b(digest_size=16)
        for name in self.table.column_names:
            column = self.table.column(name)
            digest.update(f"{name}:{len(column)}\n".encode())
            if name in NAMES:
                digest.update(column.to_numpy().astype(np.int8).tobytes())
                continue
            for start in range(0, len(column), 1 << 20):
                cells = column.slice(start, 1 << 20).cast(pa.large_string()).combine_chunks()
                ends = np.frombuffer(cells.buffers()[1], dtype=np.int64)[cells.offset : cells.offset + len(cells) + 1]
                digest.update(np.diff(ends).tobytes())
                digest.update(memoryview(cells.buffers()[2] or b"")[ends[0] : ends[-1]])
        return digest.hexdigest()


@dataclass(frozen=True)
class _Checker:
    """Raises ManifestError naming origin, row, column, value and remedy; every check is over a whole column."""

    origin: str
    first_row: int
    where: pa.ChunkedArray | None = None

    def name(self, row: int) -> str:
        return f"row {row + self.first_row}" if self.where is None else self.where[row].as_py()

    def fail(self, row: int, column: str, value: Any, problem: str, remedy: str) -> None:
        where = f"{self.origin}{',' if self.where is None else ':'} {self.name(row)}, column {column!r}"
        raise ManifestError(f"{where}: {value!r} {problem}. Remedy: {remedy}.")

    def none(self, bad: pa.ChunkedArray, values: pa.ChunkedArray, column: str, problem: str, remedy: str) -> None:
        bad = np.asarray(bad.to_numpy(zero_copy_only=False), dtype=bool)
        if bad.any():
            row = int(np.argmax(bad))
            self.fail(row, column, values[row].as_py(), problem, remedy)

    def columns(self, found: Sequence[str]) -> None:
        for name in ("id", "path"):
            if name not in found:
                raise ManifestError(f"{self.origin} has no column {name!r}; its columns are: {', '.join(found)}.")
        for name in found:
            if name not in (*COLUMNS, "mask"):
                near = nearest(name, list(COLUMNS))
                hint = f" Did you mean {near!r}?" if near else ""
                raise ManifestError(f"{self.origin} has an unknown column {name!r}.{hint} Known: {', '.join(COLUMNS)}.")
        if len(set(found)) < len(found):
            raise ManifestError(f"{self.origin} has a column twice; its columns are: {', '.join(found)}.")

    def names(self, values: pa.ChunkedArray, name: str, remedy: str) -> None:
        """See that no text is blank, and none is there twice."""
        self.none(pc.equal(values, ""), values, name, "is blank", f"give every row its {name}")
        found = hashes(values)
        ordered = np.sort(found)
        alike = ordered[1:][ordered[1:] == ordered[:-1]]
        first: dict[str, int] = {}
        for row in np.flatnonzero(np.isin(found, alike)).tolist() if len(alike) else ():
            earlier = first.setdefault(values[row].as_py(), row)
            if earlier != row:
                already = f"is already the {name} of {self.name(earlier)}"
                self.fail(row, name, values[row].as_py(), already, remedy)

    def inside(self, values: pa.ChunkedArray, name: str) -> None:
        """See that no path leaves the root."""
        outside = pc.match_substring_regex(values, OUTSIDE)
        self.none(outside, values, name, "is outside the root", "make it relative to it, without '..'")

    def levels(self, chunks: Iterable[pa.Array], name: str, n: int) -> pa.Array:
        """A finding's column of `n` rows as int8, nulls as -1."""
        levels, start = np.full(n, UNKNOWN, dtype=np.int8), 0
        for raw in chunks:
            if not pa.types.is_null(raw.type):
                levels[start : start + len(raw)] = self._levels_of(raw, name, start)
            start += len(raw)
        return pa.array(levels)

    def _levels_of(self, raw: pa.Array, name: str, start: int) -> np.ndarray:
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
