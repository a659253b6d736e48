"""Reading Parquet files that may be empty, cut short or altered: one place, which names the file and the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


@contextmanager
def open_parquet(path: str | Path, wrong: type[ValueError], remedy: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file; an error of Arrow, also while it is read, names the file.

    Args:
        wrong: the error to raise for a file that is no whole Parquet file.
        remedy: what to do about it, the end of a sentence.

    Raises:
        wrong: the file is empty, cut, altered, or of another format.
        OSError: the file is not there or out of reach, which is no fault of its own.
    """
    try:
        with pq.ParquetFile(path) as parquet:
            yield parquet
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise wrong(f"{str(path)!r} is no whole Parquet file ({said}). Remedy: {remedy}.") from error
