"""Tables of labels whose rows know where they stand: their column `where` names the file and the row in it."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from datamodules.sources.harmonise import WHERE
from datamodules.sources.tables import numbered_rows


def read_rows(path: Path, name: str, header: int = 0) -> pa.Table:
    """A CSV, Parquet or Excel file as a table of texts with `where`, without the rows whose cells are all blank.

    Args:
        path: the file.
        name: what errors call it.
        header: of a workbook, the number of the row with the columns' names, the first being 0.

    Raises:
        ManifestError: a file that cannot be read as a table.
    """
    table, rows = numbered_rows(path, header=header)
    return placed(table, name, rows.tolist())


def placed(table: pa.Table, name: str, rows: Sequence[int]) -> pa.Table:
    """The table with `where`, given the file's name and the number in it of each row, its first line being 1."""
    if WHERE in table.column_names:
        table = table.drop_columns(WHERE)
    return table.append_column(WHERE, pa.array([f"{name}, row {row}" for row in rows], pa.string()))
