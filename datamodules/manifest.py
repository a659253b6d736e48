"""The manifest: one row an image, checked once, column by column, so that ten million rows stay cheap.

Columns: id and path (each unique; paths relative to the source's root), patient, split ("" while undecided), source,
mask where the source has masks, then the findings as int8, -1 for unknown. Held as an Arrow table, written as Parquet.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.columns import blank, coded, encoded, people, text, unknown
from datamodules.errors import UserError
from datamodules.files import write_atomically
from datamodules.findings import FINDINGS, NAMES, UNKNOWN, check_name, encode
from datamodules.manifest_checks import Checker, ManifestError
from datamodules.parquet import open_parquet

SPLITS = ("train", "val", "test")
SPACE = "::"  # in a patient's name, behind the people that a union has it from
STRICTEST = ("test", "val", "train", "")  # of several splits that contend for a row, the first of these has it


@dataclass(frozen=True)
class Manifest:
    """A checked table of images. Build it with `from_rows`, `from_table` or `read`, which check it."""

    table: pa.Table

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> "Manifest":
        """From dicts with `path` at least; what is missing is unknown. For small tables: see `from_table`."""
        rows = list(rows)
        columns = list(dict.fromkeys(name for row in rows for name in row)) or ["id", "path"]
        return cls.from_table(pa.table({name: pa.array([row.get(name) for row in rows]) for name in columns}))

    @classmethod
    def from_table(
        cls,
        table: pa.Table,
        origin: str = "the manifest",
        rows: Sequence[int] | None = None,
        where: pa.ChunkedArray | None = None,
    ) -> "Manifest":
        """From an Arrow table with the column `path` at least; nulls and absent findings are unknown.

        A row without a patient is its own patient; without a column `id` the path is the id. Paths are written in one
        way (`./a//b.png` as `a/b.png`), and so are patients (columns.people). In messages rows have the numbers `rows`,
        from 0 on unless given, or are named by `where`, a text for each.

        Raises ManifestError for an unknown column, an id or a path that is blank, is there twice or is no name, a path
        outside the root, a split or a level that does not exist.
        """
        try:
            return cls._checked(
                table.column_names, table.num_rows, lambda name: table.column(name).chunks, origin, rows, where
            )
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            types = ", ".join(f"{field.name} {field.type}" for field in table.schema)
            raise ManifestError(
                f"{origin}: a column is no text ({str(error).splitlines()[0]}). The columns are: {types}. Remedy: "
                "write id, path, patient, split and mask as text in UTF-8."
            ) from error

    @classmethod
    def _checked(
        cls,
        names: Sequence[str],
        n: int,
        column: Callable[[str], Iterable[pa.Array]],
        origin: str,
        rows: Sequence[int] | None = None,
        where: pa.ChunkedArray | None = None,
    ) -> "Manifest":
        """From columns that are asked for one by one, in chunks: ten million rows take little more than their table."""
        check = Checker(origin, range(n) if rows is None else rows, where)
        check.columns(names)
        columns = {"id": None, "path": None, "patient": None}  # patient takes most, so path comes later
        columns["id"] = text(column("id")) if "id" in names else check.paths(column("path"), "path")
        if "id" in names:
            check.names(columns["id"], "id", "give every image its own id")
        patient = people(column("patient")) if "patient" in names else columns["id"]
        nobody = pc.equal(patient, "")
        if pc.any(nobody).as_py():
            patient = pc.if_else(nobody, pc.binary_join_element_wise("image", columns["id"], ":"), patient)
        check.legible(patient, "patient")
        columns["patient"] = encoded(patient)
        del patient, nobody
        columns["path"] = check.paths(column("path"), "path") if "id" in names else columns["id"]
        for name in ("split", "source"):
            columns[name] = coded(column(name) if name in names else [blank(n)])
        for told in columns["split"].dictionary.to_pylist():
            if told not in ("", *SPLITS):
                row = pc.index(columns["split"].cast(pa.string()), told).as_py()
                check.fail(row, "split", told, "is not a split", "use train, val, test or leave it blank")
        if "mask" in names:
            columns["mask"] = text(column("mask"))
            check.legible(columns["mask"], "mask")
            check.inside(columns["mask"], "mask")
        pa.default_memory_pool().release_unused()  # a fifth of a GiB for ten million rows
        for name in NAMES:
            columns[name] = check.levels(column(name), name, n) if name in names else unknown(n)
        return cls(pa.table(columns))

    @classmethod
    def read(cls, path: str | Path) -> "Manifest":
        """Read a manifest written by `write`, checking it again; raises ManifestError for a damaged file."""
        remedy = "take it from a whole copy, or make it again by the same run"
        with open_parquet(path, ManifestError, remedy) as file:

            def column(name: str) -> Iterable[pa.Array]:
                return (batch.column(0) for batch in file.iter_batches(1 << 19, columns=[name], use_threads=False))

            return cls._checked(file.schema_arrow.names, file.metadata.num_rows, column, str(path))

    def write(self, path: str | Path) -> None:
        """Write it as Parquet, all or nothing."""
        write_atomically(path, lambda partial: pq.write_table(self.table, partial))

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
            raise UserError(f"split is {split!r}, and must be one of: {', '.join(SPLITS)}.")
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

    def counts(self) -> dict[str, Any]:
        """For people: images and patients, in all and by split, and how many images of a split have each level."""
        whole = {"num_images": len(self), "num_patients": self.num_patients}
        return {**whole, "splits": {split: self.select(split)._level_counts() for split in SPLITS}}

    def _level_counts(self) -> dict[str, Any]:
        levels = {}
        for finding in FINDINGS:
            column = self.table.column(finding.name).to_numpy()
            counts = {name: int((column == level).sum()) for level, name in enumerate(finding.levels)}
            levels[finding.name] = {**counts, "unknown": int((column == UNKNOWN).sum())}
        return {"num_images": len(self), "num_patients": self.num_patients, "findings": levels}
