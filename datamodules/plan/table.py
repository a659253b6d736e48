"""A user's table as a plan: CSV, Parquet or .xlsx, read in chunks, every cell checked and named by its row."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from datamodules.errors import did_you_mean
from datamodules.findings import NAMES, UNKNOWN
from datamodules.manifest import ManifestError
from datamodules.sources.csv import BLANK, finding_levels
from datamodules.sources.harmonise import FIRST_ROW
from datamodules.sources.tables import dialect, read_table, tidied
from datamodules.synthetic.plan import CHUNK, SEED_LIMIT, PlanError

KNOWN = ("index", "seed", *NAMES)
LONG_RUN = 1 << 20  # seeds that are sorted together: ten million in one piece would be copied over and over


def check_table(path: Path) -> None:
    """See that every column is a finding, `seed` or `index`.

    Raises:
        PlanError: one is not, or there is no finding at all; names the nearest.
    """
    columns = next(_tables(path)).column_names
    for name in columns:
        if name not in KNOWN:
            hint = did_you_mean(name, KNOWN)
            raise PlanError(f"{path}: column {name!r} is not a finding.{hint} Columns may be: {', '.join(KNOWN)}.")
    if not set(columns) & set(NAMES):
        raise PlanError(f"{path} has no column of a finding. The findings are: {', '.join(NAMES)}.")


def table_chunks(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Labels int8 [n, F] and seeds int64 [n], None where the table has no seeds.

    Raises:
        PlanError: a level or a seed that there is not, a seed that is there twice, an index out of
            turn; names the row as a spreadsheet numbers it.
    """
    before, runs = 0, []
    for table in _tables(path):
        labels = np.full((table.num_rows, len(NAMES)), UNKNOWN, dtype=np.int8)
        for column, name in enumerate(NAMES):
            if name in table.column_names:
                labels[:, column] = _levels(table.column(name), name, path, before)
        if "index" in table.column_names:
            index = _whole(table.column("index"), "index", path, before)
            _all(index == np.arange(before, before + len(index)), index, "index", path, before, "number rows from 0 on")
        seeds = _whole(table.column("seed"), "seed", path, before) if "seed" in table.column_names else None
        if seeds is not None:
            fits = (seeds >= 0) & (seeds < SEED_LIMIT)
            _all(fits, seeds, "seed", path, before, "give each image its own, 0 to 2**32 - 1")
            _distinct(runs, seeds.astype(np.uint32), path, before)
        yield labels, seeds
        before += table.num_rows


def _tables(path: Path) -> Iterator[pa.Table]:
    """The table in pieces, every cell as text, trimmed."""
    with open(path, "rb") as file:
        magic = file.read(4)
    try:
        if magic == b"PAR1":
            with pq.ParquetFile(path) as parquet:
                batches = parquet.iter_batches(CHUNK, use_threads=False)
                yield from _tidied(batches, parquet.schema_arrow, path)
        elif magic == b"PK\x03\x04":
            table = read_table(path)
            yield from (table.slice(start, CHUNK) for start in range(0, max(1, table.num_rows), CHUNK))
        else:
            yield from _csv(path)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise PlanError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}.") from error
    except ManifestError as error:
        raise PlanError(str(error)) from None


def _csv(path: Path) -> Iterator[pa.Table]:
    written = dialect(path)
    parse = written.parsing()
    names = pa.csv.open_csv(path, written.reading(), parse).schema.names
    parse.ignore_empty_lines = len(names) > 1  # of a single column a blank line is a blank cell
    text = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    reader = pa.csv.open_csv(path, written.reading(block_size=1 << 18, use_threads=False), parse, text)
    yield from _tidied(reader, reader.schema, path)


def _tidied(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> Iterator[pa.Table]:
    """Batches as tables with cells as trimmed text; one without rows where there is none."""
    some = False
    for batch in batches:
        some = True
        yield tidied(pa.Table.from_batches([batch]), path)
        pa.default_memory_pool().release_unused()  # 0.1 GiB over ten million rows
    if not some:
        yield tidied(schema.empty_table(), path)


def _levels(column: pa.ChunkedArray, name: str, path: Path, before: int) -> np.ndarray:
    try:
        first = FIRST_ROW + before
        return finding_levels(column, name, str(path), range(first, first + len(column))).to_numpy()
    except ManifestError as error:
        raise PlanError(str(error)) from None


def _whole(column: pa.ChunkedArray, name: str, path: Path, before: int) -> np.ndarray:
    """A column of whole numbers, int64."""
    try:
        return column.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        cells = column.to_pylist()
        row = next(number for number, cell in enumerate(cells) if not _is_int64(cell))
        blank = " is blank" if cells[row].lower() in BLANK else f": {cells[row]!r} is no whole number of 64 bits"
        raise PlanError(
            f"{path}, row {before + row + FIRST_ROW}, column {name!r}{blank}. Remedy: give every row its own, or leave "
            "the column out."
        ) from None


def _is_int64(cell: str) -> bool:
    try:
        return -(2**63) <= int(cell) < 2**63
    except ValueError:
        return False


def _all(fits: np.ndarray, values: np.ndarray, name: str, path: Path, before: int, remedy: str) -> None:
    if not fits.all():
        row = int(np.argmin(fits))
        raise PlanError(
            f"{path}, row {before + row + FIRST_ROW}, column {name!r}: {values[row]}. Remedy: {remedy}, or leave the "
            "column out."
        )


def _distinct(runs: list[np.ndarray], seeds: np.ndarray, path: Path, before: int) -> None:
    """Refuse a seed that was there: two images of one seed look alike. Adds these to the runs, each ascending."""
    order = np.argsort(seeds, kind="stable")
    ordered = seeds[order]
    again = np.zeros(len(seeds), dtype=bool)
    again[order[1:]] = ordered[1:] == ordered[:-1]
    for run in runs:
        again |= run[np.minimum(np.searchsorted(run, seeds), len(run) - 1)] == seeds
    _all(~again, seeds, "seed", path, before, "a seed that an earlier row has paints the like again: give another")
    if runs and len(runs[-1]) < LONG_RUN:
        ordered = np.sort(np.concatenate([runs.pop(), ordered]))
    runs.append(ordered)
