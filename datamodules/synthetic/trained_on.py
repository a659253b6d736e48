"""`trained_on.parquet` of a synthetic set: whose photographs trained its generator, as codes of patients."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.files import WHOLE_COPY, write_atomically
from datamodules.parquet import read_parquet
from datamodules.synthetic.layout import DATA, TRAINED_ON

COLUMN = "patient"
REMEDY = f"{WHOLE_COPY} of the set"
UNKNOWN_KEY = b"unknown"  # of the file's schema: what the training began with and does not say whose data it saw


def write_trained_on(path: str | Path, codes: np.ndarray, unknown: Sequence[str] = ()) -> None:
    """Write `trained_on.parquet`, one column `patient` uint64, ascending; all or nothing.

    Args:
        codes: of `patient_codes`; also as int64 of the same bits, which is how checkpoints keep them.
        unknown: what the training began with that does not say whose photographs it saw, in words.
    """
    column = pa.array(np.unique(np.asarray(codes).view(np.uint64)))
    table = pa.table({COLUMN: column}).replace_schema_metadata({UNKNOWN_KEY: "\n".join(unknown)} if unknown else None)
    write_atomically(path, lambda partial: pq.write_table(table, partial))


def read_trained_on(root: str | Path) -> np.ndarray | None:
    """Codes of the patients who trained the generator of the set in a folder, uint64; None where it does not tell.

    Raises:
        ValueError: a file that is no such table.
    """
    path = _file(root)
    if path is None:
        return None
    table = _read(path, lambda file: file.read([COLUMN]))
    codes = table.column(COLUMN) if COLUMN in table.column_names else None
    if codes is None or codes.null_count or codes.type not in (pa.uint64(), pa.int64()):
        raise ValueError(
            f"{path} is no whole table of patients, a column {COLUMN!r} of uint64 without empty cells. "
            f"Remedy: {REMEDY}."
        )
    return np.unique(codes.cast(pa.uint64(), safe=False).to_numpy())


def unknown_of(root: str | Path) -> list[str]:
    """What the training of a set's generator began with that does not say whose photographs it saw, in words.

    Raises:
        ValueError: as `read_trained_on`.
    """
    path = _file(root)
    found = None if path is None else (_read(path, lambda file: file.schema_arrow).metadata or {}).get(UNKNOWN_KEY)
    return found.decode(errors="replace").splitlines() if found else []


def _read(path: Path, read: Callable[[pq.ParquetFile], Any]) -> Any:
    return read_parquet(path, read, ValueError, REMEDY)


def _file(root: str | Path) -> Path | None:
    """`trained_on.parquet` of a set, of which `root` may be the folder `data`."""
    root = Path(root)
    folders = [root, root.parent] if root.name == DATA else [root]
    return next((folder / TRAINED_ON for folder in folders if (folder / TRAINED_ON).is_file()), None)
