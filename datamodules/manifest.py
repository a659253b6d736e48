"""The manifest: one row an image, checked once, column by column, so that ten million rows stay cheap.

Columns: id and path (each unique; paths relative to the source's root), patient, split ("" while undecided), source,
mask where the source has masks, then the findings as int8, -1 for unknown. Held as an Arrow table, written as Parquet.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.findings import NAMES, NUM_LEVELS, UNKNOWN, describe_levels, nearest

SPLITS = ("train", "val", "test")
TEXT_COLUMNS = ("id", "path", "patient", "split", "source")
COLUMNS = TEXT_COLUMNS + NAMES
CHUNK = 1 << 20  # rows that are held as Python objects at once
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
    def from_table(cls, table: pa.Table, origin: str = "the manifest", first_row: int = 0) -> "Manifest":
        """From an Arrow table with the columns `id` and `path` at least; nulls and absent findings are unknown.

        A row without a patient is its own patient. Rows are numbered from `first_row` in messages. Raises ManifestError
        for an unknown column, an id or a path that is blank or there twice, a path outside the root, a split or a level
        that does not exist.
        """
        check = _Checker(origin, first_row)
        check.columns(table.column_names)
        n = table.num_rows
        text = {name: _text(table, name, n) for name in (*TEXT_COLUMNS, "mask") if name in table.column_names}
        for name in ("id", "path"):
            check.none(pc.equal(text[name], ""), text[name], name, "is blank", f"give every row its {name}")
        check.unique(text["path"], "path", "keep one row an image, or its copies land on both sides of a split")
        check.unique(text["id"], "id", "give every image its own id")
        for name in ("path", "mask"):
            if name in text:
                outside = pc.match_substring_regex(text[name], OUTSIDE)
                check.none(outside, text[name], name, "is outside the root", "make it relative to it, without '..'")
        text.setdefault("patient", text["id"])
        blank = pc.equal(text["patient"], "")
        text["patient"] = pc.if_else(blank, pc.binary_join_element_wise("image", text["id"], ":"), text["patient"])
        empty = pa.array(np.full(n, "", dtype=object), pa.string())
        split = text.setdefault("split", empty)
        allowed = pc.is_in(split, value_set=pa.array(("", *SPLITS)))
        check.none(pc.invert(allowed), split, "split", "is not a split", "use train, val, test or leave it blank")
        columns = {"id": text["id"], "path": text["path"]}
        for name in ("patient", "split", "source"):
            columns[name] = text.get(name, empty).dictionary_encode()
        if "mask" in text:
            columns["mask"] = text["mask"]
        for name in NAMES:
            columns[name] = check.levels(table.column(name), name) if name in table.column_names else _unknown(n)
        return cls(pa.table(columns))

    @classmethod
    def read(cls, path: str | Path) -> "Manifest":
        """Read a manifest written by `write`, checking it again."""
        return cls.from_table(pq.read_table(path), origin=str(path))

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


def _text(table: pa.Table, name: str, n: int) -> pa.Array:
    """A column as one array of trimmed strings without nulls."""
    column = table.column(name)
    if pa.types.is_null(column.type):
        return pa.array(np.full(n, "", dtype=object), pa.string())
    return pc.utf8_trim_whitespace(pc.fill_null(column.cast(pa.string()), "").combine_chunks())


def _unknown(n: int) -> pa.Array:
    return pa.array(np.full(n, UNKNOWN, dtype=np.int8))


@dataclass(frozen=True)
class _Checker:
    """Raises ManifestError naming origin, row, column, value and remedy; every check is over a whole column."""

    origin: str
    first_row: int

    def fail(self, row: int, column: str, value: Any, problem: str, remedy: str) -> None:
        where = f"{self.origin}, row {row + self.first_row}, column {column!r}"
        raise ManifestError(f"{where}: {value!r} {problem}. Remedy: {remedy}.")

    def none(self, bad: pa.Array, values: pa.Array, column: str, problem: str, remedy: str) -> None:
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

    def unique(self, values: pa.Array, name: str, remedy: str) -> None:
        """Compare hashes a million at a time: a table of all texts would take more memory than the manifest."""
        hashes = np.empty(len(values), dtype=np.int64)
        for start in range(0, len(values), CHUNK):
            texts = values.slice(start, CHUNK).to_pylist()
            hashes[start : start + len(texts)] = np.fromiter(map(hash, texts), dtype=np.int64, count=len(texts))
        order = np.argsort(hashes, kind="stable")  # equal hashes in the order of their rows
        alike = np.flatnonzero(np.diff(hashes[order]) == 0)
        rows = np.unique(np.concatenate([order[alike], order[alike + 1]]))
        first: dict[str, int] = {}
        for row in rows.tolist():
            earlier = first.setdefault(values[row].as_py(), row)
            if earlier != row:
                already = f"is already the {name} of row {earlier + self.first_row}"
                self.fail(row, name, values[row].as_py(), already, remedy)

    def levels(self, column: pa.ChunkedArray, name: str) -> pa.Array:
        """A finding's column as int8, nulls as -1."""
        raw = column.combine_chunks()
        if pa.types.is_null(raw.type):
            return _unknown(len(raw))
        if not (pa.types.is_integer(raw.type) or pa.types.is_floating(raw.type)):
            self.fail(0, name, raw[0].as_py() if len(raw) else "", f"is of type {raw.type}", "write levels as integers")
        values = pc.fill_null(raw, UNKNOWN).to_numpy(zero_copy_only=False)
        values = np.where(np.isnan(values), UNKNOWN, values) if values.dtype.kind == "f" else values
        bad = (values < UNKNOWN) | (values >= NUM_LEVELS[name]) | (values != np.floor(values))
        if bad.any():
            row = int(np.argmax(bad))
            self.fail(row, name, raw[row].as_py(), f"is not a level of {name}", f"use {describe_levels(name)}")
        return pa.array(values.astype(np.int8))
