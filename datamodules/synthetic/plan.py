"""The plan of a synthetic set: a row an image, its seed and what it is to show; written first and never changed.

Columns: `index` int64, 0 to N - 1; `seed` int64 in [0, 2**32), another for each image; then the findings int8, -1 where
the generator is not told; and `mask` where the plan has masks: a PNG of the levels of its pixels, 255 where they are
unknown. Read and written in chunks: ten million rows without masks take a few tens of MB of memory.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.errors import UserError
from datamodules.files import WHOLE_COPY, write_atomically
from datamodules.findings import NAMES, NUM_LEVELS, UNKNOWN, describe_levels
from datamodules.masks import decode_mask
from datamodules.parquet import open_parquet

CHUNK = 1 << 16  # rows of a row group, and of what is held in memory
SEED_LIMIT = 2**32
REMEDY = f"{WHOLE_COPY}, or plan again in another folder"
SCHEMA = pa.schema(
    [("index", pa.int64()), ("seed", pa.int64()), *((name, pa.int8()) for name in NAMES)]
)  # of plan.parquet
MASKED_SCHEMA = SCHEMA.append(pa.field("mask", pa.binary()))  # of one with masks


class PlanError(UserError):
    """A plan that cannot be carried out; the message names the file, the row, the column, the value and the remedy."""


class Chunk(NamedTuple):
    """What a law gives: labels int8 [n, F]; seeds int64 [n], or None; the masks of these images as PNG, or None."""

    labels: np.ndarray
    seeds: np.ndarray | None = None
    masks: Sequence[bytes] | None = None


class PlanRows(NamedTuple):
    """Rows of a plan: index int64 [n], seed int64 [n], labels int8 [n, F] with -1 where the generator is not told.

    And `masks`, of each the PNG of its levels, where the plan has masks.
    """

    index: np.ndarray
    seed: np.ndarray
    labels: np.ndarray
    masks: Sequence[bytes] | None = None


def write_plan(path: str | Path, chunks: Iterable[Chunk | tuple], seed: int) -> int:
    """Write a plan, all or nothing; returns its number of images.

    Args:
        chunks: without seeds the images have seeds that follow one another from a hash of `seed` on, so that no two are
            alike. All have masks, or none has.

    Raises:
        PlanError: no rows, more rows than there are seeds.
        OSError: what the disk says; there is no plan then.
    """
    path, count, first_seed = Path(path), 0, _first_seed(seed)
    chunks = (Chunk(*chunk) for chunk in chunks)
    first = next(chunks, None)
    schema = SCHEMA if first is None or first.masks is None else MASKED_SCHEMA

    def write(partial: Path) -> None:
        nonlocal count
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for chunk in chain(() if first is None else (first,), chunks):
                for start in range(0, len(chunk.labels), CHUNK):
                    part = slice(start, start + CHUNK)
                    some = np.ascontiguousarray(chunk.labels[part], dtype=np.int8)
                    index = np.arange(count, count + len(some), dtype=np.int64)
                    drawn = (first_seed + index) % SEED_LIMIT if chunk.seeds is None else chunk.seeds[part]
                    columns = [index, drawn.astype(np.int64), *some.T]
                    columns += [] if schema is SCHEMA else [chunk.masks[part]]
                    writer.write_table(pa.table([pa.array(column) for column in columns], schema), CHUNK)
                    count += len(some)
                if count > SEED_LIMIT:
                    raise PlanError(f"{path}: a plan has at most 2**32 images, one for each seed.")
        if count == 0:
            raise PlanError(f"{path}: the plan has no rows. Remedy: num_images of at least 1, or a table with rows.")

    write_atomically(path, write)
    return count


class Plan:
    """A plan on disk.

    Args:
        path: of `plan.parquet`.

    Raises:
        FileNotFoundError: no such file.
        PlanError: it is no plan, or not a whole one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no plan {str(self.path)!r}.")
        metadata, schema = self._read(lambda file: (file.metadata, file.schema_arrow))
        if not (schema.equals(SCHEMA) or schema.equals(MASKED_SCHEMA)):
            raise PlanError(
                f"{self.path} is no plan of this kind: its columns are {', '.join(schema.names)}. "
                f"Remedy: a table of your own is given by plan=table plan.path={self.path}."
            )
        sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        self.has_masks, self._mask_size = "mask" in schema.names, 0
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self.num_images = int(self._ends[-1]) if sizes else 0

    def rows(self, start: int, stop: int) -> PlanRows:
        """The rows start to stop - 1; reads the row groups that they lie in."""
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, stop - 1, side="right"))
        groups = list(range(first, last + 1))
        table = self._read(lambda file: file.read_row_groups(groups, use_threads=False))
        before = int(self._ends[first - 1]) if first else 0
        return _rows_of(table.slice(start - before, stop - start))

    def chunks(self) -> Iterator[PlanRows]:
        """All rows, row group by row group."""
        for group in range(len(self._ends)):
            yield _rows_of(self._read(lambda file, group=group: file.read_row_group(group, use_threads=False)))

    def check(self) -> str:
        """Look at every row; returns the plan's fingerprint, 32 hexadecimal digits over all cells.

        Raises:
            PlanError: an index that is out of turn, a seed or a level that there is not; names the row.
        """
        digest = hashlib.blake2b(digest_size=16)
        for number, rows in enumerate(self.chunks()):
            before = int(self._ends[number]) - len(rows.index)
            expected = np.arange(before, before + len(rows.index))
            self._all(rows.index == expected, before, "index", rows.index, "rows are numbered from 0 on")
            self._all((rows.seed >= 0) & (rows.seed < SEED_LIMIT), before, "seed", rows.seed, "0 to 2**32 - 1")
            for column, name in enumerate(NAMES):
                levels = rows.labels[:, column]
                fits = (levels >= UNKNOWN) & (levels < NUM_LEVELS[name])
                self._all(fits, before, name, levels, f"use {describe_levels(name)}")
            digest.update(rows.seed.tobytes() + rows.labels.tobytes())
            for row, mask in enumerate(rows.masks or ()):
                self._check_mask(mask, before + row)
                digest.update(mask)
        return digest.hexdigest()

    def _check_mask(self, file: bytes, row: int) -> None:
        """See that a mask can be read, and is a square as large as the first."""
        try:
            shape = decode_mask(file).shape
        except UserError as error:
            raise PlanError(f"{self.path}, row {row}, column 'mask': {error} Remedy: {REMEDY}.") from error
        self._mask_size = self._mask_size or shape[0]
        if shape != (self._mask_size, self._mask_size):
            raise PlanError(
                f"{self.path}, row {row}, column 'mask': it is {shape[1]} x {shape[0]} pixels, and must be a square of "
                f"{self._mask_size} as those before it. Remedy: {REMEDY}."
            )

    @property
    def mask_size(self) -> int:
        """Pixels along a side of the masks; 0 where there are none."""
        if self.has_masks and not self._mask_size:
            self._check_mask(self.rows(0, 1).masks[0], 0)
        return self._mask_size

    def _all(self, fits: np.ndarray, before: int, column: str, values: np.ndarray, remedy: str) -> None:
        if not fits.all():
            row = int(np.argmin(fits))
            raise PlanError(f"{self.path}, row {before + row}, column {column!r}: {values[row]}. Remedy: {remedy}.")

    def _read(self, read: Callable[[pq.ParquetFile], Any]) -> Any:
        """What `read` finds in the file, which is opened anew: each worker of a loader has its own."""
        with open_parquet(self.path, PlanError, REMEDY) as file:
            found = read(file)
        for name in found.column_names if isinstance(found, pa.Table) else ():
            if found.column(name).null_count:
                raise PlanError(f"{self.path}: cells of the column {name!r} are empty. Remedy: {REMEDY}.")
        return found


def _rows_of(table: pa.Table) -> PlanRows:
    labels = np.empty((table.num_rows, len(NAMES)), dtype=np.int8)
    for column, name in enumerate(NAMES):
        labels[:, column] = table.column(name).to_numpy()
    masks = table.column("mask").to_pylist() if "mask" in table.column_names else None
    return PlanRows(table.column("index").to_numpy(), table.column("seed").to_numpy(), labels, masks)


def _first_seed(seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"plan/{seed}".encode(), digest_size=4).digest(), "little")
