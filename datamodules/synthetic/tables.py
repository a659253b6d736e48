"""The Parquet files of a synthetic set: opened, checked and read, with errors that name the file."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.errors import UserError
from datamodules.files import WHOLE_COPY, sha256
from datamodules.parquet import open_parquet

KINDS = {
    "image": lambda kind: _is_picture(kind),
    "mask": lambda kind: _is_picture(kind),
    "id": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    "index": pa.types.is_integer,
    "seed": pa.types.is_integer,
    "attempts": pa.types.is_integer,
    "accepted": pa.types.is_boolean,
}  # of columns of a shard; findings are whole numbers or, in annotations, true or false


class SyntheticSetError(UserError):
    """A folder that is no synthetic set, or not a whole one; the message says what is wrong with it, and the remedy."""


def opened(path: Path) -> AbstractContextManager[pq.ParquetFile]:
    """A Parquet file of a set; raises as `open_parquet`, SyntheticSetError where it is not whole."""
    return open_parquet(path, SyntheticSetError, WHOLE_COPY)


def fault_of(path: Path, written: Mapping[str, Any] | None, thorough: bool = True) -> str | None:
    """How a shard differs from its record (layout.CHECKSUM_SHAPE), by its size and if `thorough` by every byte."""
    if not path.is_file():
        return "missing"
    if written is None:
        return "there is no checksum of it"
    size = path.stat().st_size
    if size != written["num_bytes"]:
        return f"it has {size} bytes, and {written['num_bytes']} were written"
    if thorough and sha256(path) != written["sha256"]:
        return "its bytes are not those that were written: the sha256 differs"
    return None


def check_parquet(path: Path, num_rows: int, columns: Sequence[str]) -> None:
    """See that a file of a set has so many rows, and these columns, of the kind that they must be of.

    Raises:
        SyntheticSetError: it has not, or is no whole Parquet file.
    """
    with opened(path) as parquet:
        found, schema = parquet.metadata.num_rows, parquet.schema_arrow
    if found != num_rows:
        raise SyntheticSetError(f"{path} has {found:,} rows, and must have {num_rows:,}. Remedy: {WHOLE_COPY}.")
    for name in columns:
        fits = KINDS.get(name, lambda kind: pa.types.is_integer(kind) or pa.types.is_boolean(kind))
        if name not in schema.names or not fits(schema.field(name).type):
            said = f"of type {schema.field(name).type}" if name in schema.names else "missing"
            raise SyntheticSetError(f"{path}: the column {name!r} is {said}. Remedy: {WHOLE_COPY}.")


def read_columns(path: Path, columns: Sequence[str], group: int | None = None) -> pa.Table:
    """Columns of a file of a set, or of one of its row groups, checked down to their bytes; raises as `opened`."""
    with opened(path) as parquet:
        if group is None:
            table = parquet.read(list(columns), use_threads=False)
        else:
            table = parquet.read_row_group(group, list(columns), use_threads=False)
        table.validate(full=True)
        return table


def _is_picture(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
