"""Tables of labels whose rows know where they stand: their column `where` names the file and the row in it."""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.sources.csv import FIRST_ROW, read_table, row_numbers
from datamodules.sources.excel import read_excel
from datamodules.sources.harmonise import WHERE


def read_rows(path: Path, name: str, header: int = 0) -> pa.Table:
    """A CSV, Parquet or Excel file as a table of texts with `where`, without the rows whose cells are all blank.

    Args:
        path: the file.
        name: what errors call it.
        header: of a workbook, the number of the row with the columns' names, the first being 0.

    Raises:
        ManifestError: a file that cannot be read as a table.
    """
    if path.suffix.lower() in (".xlsx", ".xlsm"):
        table = read_excel(path, header=header)
        rows = list(range(header + FIRST_ROW, header + FIRST_ROW + table.num_rows))
    else:
        table = read_table(path)
        rows = row_numbers(path, table.num_rows)
    filled = [pc.not_equal(column, "") for column in table.columns]
    table = placed(table, name, rows)
    return table.filter(reduce(pc.or_, filled)) if filled else table


def placed(table: pa.Table, name: str, rows: Sequence[int]) -> pa.Table:
    """The table with `where`, given the file's name and the number in it of each row, its first line being 1."""
    if WHERE in table.column_names:
        table = table.drop_columns(WHERE)
    return table.append_column(WHERE, pa.array([f"{name}, row {row}" for row in rows], pa.string()))
