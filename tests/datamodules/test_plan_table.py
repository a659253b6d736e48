"""A plan by a table of one's own: every format, every cell checked and named by its row."""

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refusals import refuses

from datamodules.findings import NAMES
from datamodules.plan import table
from datamodules.plan.laws import TableLaw
from datamodules.synthetic.plan import Plan, PlanError, write_plan

ROWS = {"dr_grade": [0, 4, -1, 2], "is_gc": [1, 0, 1, -1], "seed": [11, 12, 13, 2**32 - 1]}


def save(folder, kind: str, columns=ROWS):
    """The table as a file; -1 is a blank cell in those of text."""
    path = folder / f"table.{kind}"
    names, rows = list(columns), list(zip(*columns.values(), strict=True))
    if kind == "parquet":
        pq.write_table(pa.table(columns), path)
    elif kind == "xlsx":
        book = openpyxl.Workbook()
        for row in (names, *rows):
            book.active.append([None if cell == -1 else cell for cell in row])
        book.save(path)
    else:
        mark = ";" if kind == "semicolons.csv" else ","
        lines = [mark.join(names), *(mark.join("" if cell == -1 else str(cell) for cell in row) for row in rows)]
        path.write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    return path


def planned(folder, path, num_images=None) -> Plan:
    write_plan(folder / "plan.parquet", TableLaw(path).chunks(num_images, 0, None), 0)
    return Plan(folder / "plan.parquet")


@pytest.mark.parametrize("kind", ["csv", "semicolons.csv", "parquet", "xlsx"])
def test_a_table_is_taken_as_it_is(tmp_path, kind):
    plan = planned(tmp_path, save(tmp_path, kind))
    rows = plan.rows(0, 4)
    assert plan.num_images == 4
    assert rows.labels[:, NAMES.index("dr_grade")].tolist() == ROWS["dr_grade"]
    assert rows.labels[:, NAMES.index("is_gc")].tolist() == ROWS["is_gc"]
    assert rows.seed.tolist() == ROWS["seed"]
    others = [place for place, name in enumerate(NAMES) if name not in ROWS]
    assert (rows.labels[:, others] == -1).all()
    plan.check()


def test_a_table_without_seeds_gets_some_and_its_first_rows_do(tmp_path):
    path = save(tmp_path, "csv", {"is_gc": [1, 0, 1, 1]})
    plan = planned(tmp_path, path, num_images=3)
    assert plan.num_images == 3 and len(set(plan.rows(0, 3).seed.tolist())) == 3
    with refuses(PlanError, "num_images=5", path, "4 rows"):
        planned(tmp_path, path, num_images=5)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_blank_line_of_a_single_column_is_a_blank_cell(tmp_path, end):
    path = tmp_path / "table.csv"
    path.write_bytes(end.join(["is_gc", "1", "", "0", ""]).encode())
    plan = planned(tmp_path, path)
    assert plan.rows(0, plan.num_images).labels[:, NAMES.index("is_gc")].tolist() == [1, -1, 0]


@pytest.mark.parametrize("kind", ["csv", "parquet", "xlsx"])
@pytest.mark.parametrize(
    ("columns", "facts"),
    [
        ({"is_gcc": [1, 0]}, ("'is_gcc'", "mean 'is_gc'")),
        ({"seed": [1, 2]}, ("finding", "dr_grade, is_amd")),
        ({"is_gc": [1, 2]}, ("row 3", "'is_gc'", "'2'")),
        ({"dr_grade": [7, 0]}, ("row 2", "'dr_grade'", "'7'")),
        ({"is_gc": [1, 0], "seed": [5, 2**32]}, ("row 3", "'seed'", 2**32)),
        ({"is_gc": [1, 0, 1], "seed": [5, 6, 5]}, ("row 4", "'seed': 5")),
        ({"is_gc": [1, 0], "index": [0, 2]}, ("row 3", "'index': 2")),
    ],
)
def test_what_there_is_not_is_refused_by_row(tmp_path, kind, columns, facts):
    with refuses(PlanError, f"table.{kind}", *facts):
        planned(tmp_path, save(tmp_path, kind, columns))


@pytest.mark.parametrize("again", [17, 150_000, 299_990])
def test_what_is_wrong_long_after_the_first_rows_is_refused_by_row(tmp_path, monkeypatch, again):
    monkeypatch.setattr(table, "LONG_RUN", 1000)
    seeds, levels = np.arange(300_000), np.ones(300_000, dtype=np.int8)
    seeds[-1] = again
    pq.write_table(pa.table({"is_gc": levels, "seed": seeds}), tmp_path / "long.parquet")
    with refuses(PlanError, "row 300001", f"'seed': {again}"):
        planned(tmp_path, tmp_path / "long.parquet")
    levels[again] = 2
    pq.write_table(pa.table({"is_gc": levels}), tmp_path / "long.parquet")
    with refuses(PlanError, f"row {again + 2}", "'is_gc': '2'"):
        planned(tmp_path, tmp_path / "long.parquet")


def test_a_seed_that_is_no_number_is_refused_by_row(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("is_gc,seed\n1,5\n0,x\n")
    with refuses(PlanError, path, "row 3", "'seed'", "'x'"):
        planned(tmp_path, path)
    path.write_text("is_gc,seed\n1,-4\n0,18446744073709551615\n")
    with refuses(PlanError, path, "row 3", "'seed'", "'18446744073709551615'"):
        planned(tmp_path, path)


def test_what_is_no_table_is_refused(tmp_path):
    with refuses(FileNotFoundError, "plan.path", tmp_path / "none.csv"):
        TableLaw(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    with refuses(PlanError, tmp_path / "empty.csv", "header"):
        TableLaw(tmp_path / "empty.csv")
    (tmp_path / "half.parquet").write_bytes(b"PAR1 and no more")
    with refuses(PlanError, tmp_path / "half.parquet", "Parquet"):
        TableLaw(tmp_path / "half.parquet")
