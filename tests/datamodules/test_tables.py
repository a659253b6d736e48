"""Tables as people keep them: what is read all the same, and what is refused with the remedy."""

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refuses

from datamodules.manifest import Manifest, ManifestError
from datamodules.sources.csv import CsvSource
from datamodules.sources.tables import numbered_rows, read_table

PLAIN = b"path;dr_grade\na.png;1\nd.png;0\n"


def read(folder, content: bytes, name: str = "labels.csv"):
    (folder / name).write_bytes(content)
    return numbered_rows(folder / name)


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (PLAIN, [2, 3]),
        (PLAIN + b";\n;\n", [2, 3]),
        (PLAIN.replace(b"\n", b";;\n") + b";;;\n", [2, 3]),
        (PLAIN.replace(b";1\n", b";1;;;\n;;;;\n\n"), [2, 5]),
        (b"sep=;\r\n" + PLAIN, [3, 4]),
        (b'\xef\xbb\xbf"sep=;"\r\n' + PLAIN, [3, 4]),
        (b"sep=|\n" + PLAIN.replace(b";", b"|"), [3, 4]),
        (b"\n;\n" + PLAIN, [4, 5]),
        (PLAIN.replace(b"\n", b"\r"), [2, 3]),
        (PLAIN.replace(b"a.png", b'"=""a.png"""'), [2, 3]),
    ],
)
def test_blank_cells_and_lines_for_spreadsheets_change_nothing(tmp_path, content, rows):
    table, numbers = read(tmp_path, content)
    assert table.to_pydict() == {"path": ["a.png", "d.png"], "dr_grade": ["1", "0"]} and numbers.tolist() == rows


@pytest.mark.parametrize(
    ("cells", "read_as"),
    [
        (b'"x\ny"\nb.png;5" disc\nc.png;', ["x\ny", '5" disc', ""]),
        (b'"5" disc"\nb.png;q\nc.png;', ['5 disc"', "q", ""]),
        (b'"' + b"x" * 200_000 + b'\ny"\nb.png;q\nc.png;', ["x" * 200_000 + "\ny", "q", ""]),
    ],
)
def test_quotation_marks_that_swallow_no_row_are_read(tmp_path, cells, read_as):
    table, _ = read(tmp_path, b"path;note\na.png;" + cells + b"\n")
    assert table.to_pydict() == {"path": ["a.png", "b.png", "c.png"], "note": read_as}


def test_a_wrong_cell_behind_blank_rows_is_named_by_its_line(table_root):
    (table_root / "labels.csv").write_text("sep=,\npath,dr_grade\na.png,1\n,\n\nd.png,7\n")
    with refuses(ManifestError, "labels.csv", "row 6", "'dr_grade'", "'7'"):
        CsvSource(table_root, "labels.csv").index()


def test_letters_of_windows_are_read_and_said(tmp_path, caplog):
    table, _ = read(tmp_path, "path,patient\na.png,Žofie – Müller €\n".encode("cp1252"))
    assert table["patient"].to_pylist() == ["Žofie – Müller €"] and "Windows-1252" in caplog.text
    late = b"path,patient\n" + (b"a.png," + b"x" * 1000 + b"\n") * 1200 + b"b.png,M\xfcller\n"
    assert read(tmp_path, late)[0]["patient"][-1].as_py() == "Müller"


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (PLAIN.decode().encode("utf-16-le"), ("UTF-16", "mark")),
        (PLAIN.decode().encode("utf-16-be"), ("UTF-16", "mark")),
        (PLAIN.decode().encode("utf-32"), ("UTF-16", "Excel")),
        (PLAIN + b"\0" * 20, ("row 4", "NUL")),
        (PLAIN + b"\x81\x8d", ("UTF-8", "Windows")),
        (PLAIN + b"b.png;1;2\n", ("row 4", "3 cells", "header 2")),
        (PLAIN + b'b.png;"1\nc.png;0\n', ("row 4", "closed")),
        (PLAIN + b'b.png;2;\nc.png;"1\nd.png;0\n', ("row 5", "closed")),
        (PLAIN + b'b.png;"x\nc.png;1\nd.png;"y\ne.png;0\n', ("row 4", "closed")),
        (PLAIN + b'b.png;"' + b"x" * 200_000 + b"\nc.png;0\n", ("row 4", "closed")),
        (b'path;"dr_grade\na.png;1\nb.png;"0\n', ("row 1", "closed")),
        (b"sep=\xfc\n" + PLAIN.replace(b";", b","), ("row 2", "2 cells", "header 1")),
        (b'sep="\n' + PLAIN.replace(b";", b","), ("row 2", "2 cells", "header 1")),
        (b"sep=\r\n" + PLAIN.replace(b";", b","), ("row 2", "2 cells", "header 1")),
        (b";;\n\n", ("empty",)),
    ],
)
def test_what_is_no_table_says_the_file_and_the_remedy(tmp_path, content, facts):
    with refuses(ManifestError, "labels.csv", *facts):
        read(tmp_path, content)


def test_columns_of_a_parquet_table_that_are_not_used_may_be_of_any_type(table_root, caplog):
    columns = {"path": ["a.png", "d.png"], "is_amd": [True, False], "patient": [12345678901.0, float("nan")]}
    others = {"boxes": [[1], []], "meta": [{"a": 1}, None], "raw": [b"\xff", b"\x00"]}
    others["map"] = pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int8()))
    pq.write_table(pa.table({**columns, **others}), table_root / "labels.parquet")
    index = CsvSource(table_root, "labels.parquet").index()
    assert index.patients == ["12345678901", "image:d.png"]
    assert index.table.column("is_amd").to_pylist() == [1, 0] and "'boxes' is of type list" in caplog.text


@pytest.mark.parametrize(
    ("name", "cells", "fact"), [("Patient", [["p"], ["q"]], "'Patient'"), ("path", [b"\xff", b"\xfe"], "cells")]
)
def test_a_column_that_is_used_must_be_of_text(table_root, name, cells, fact):
    pq.write_table(pa.table({"path": ["a.png", "d.png"]} | {name: cells}), table_root / "labels.parquet")
    with refuses(ManifestError, "labels.parquet", fact):
        CsvSource(table_root, "labels.parquet").index()


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped"])
def test_a_damaged_parquet_table_is_named(tmp_path, damage):
    path = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"path": [f"{n}.png" for n in range(500)]}), path)
    content = bytearray(path.read_bytes())
    content[4:24] = bytes(20) if damage == "flipped" else content[4:24]
    path.write_bytes(content[: {"empty": 0, "cut": 300, "flipped": None}[damage]])
    with refuses(ManifestError, path, "Parquet"):
        read_table(path)


@pytest.mark.parametrize(
    ("column", "cell", "fact"),
    [
        ("patient", "=A2", "calculated"),
        ("dr_grade", "=1+1", "calculated"),
        ("patient", "#N/A", "failed"),
        ("is_amd", "#REF!", "failed"),
    ],
)
def test_a_formula_without_a_value_is_refused_by_cell(table_root, column, cell, fact):
    book = openpyxl.Workbook()
    for row in ("path", column, "age"), ("a.png", None, "=1+1"), ("d.png", cell, None):
        book.active.append(row)
    book.save(table_root / "labels.xlsx")
    with refuses(ManifestError, "labels.xlsx", "row 3", f"'{column}'", repr(cell), fact):
        CsvSource(table_root, "labels.xlsx").index()


@pytest.mark.parametrize("cell", ["missing", "2024-02-01", "0,5", "TRUE", "1 000"])
def test_a_grade_that_is_none_is_never_taken_for_unknown(table_root, cell):
    (table_root / "labels.csv").write_text(f'path,dr_grade\na.png,"{cell}"\n')
    with refuses(ManifestError, "row 2", "'dr_grade'", repr(cell)):
        CsvSource(table_root, "labels.csv").index()


def test_levels_may_be_texts_and_truths(table_root):
    (table_root / "labels.csv").write_text('path,dr_grade,is_amd\na.png,"2 ",TRUE\nd.png,\u00a03,False\n')
    labels = CsvSource(table_root, "labels.csv").index().labels
    assert np.array_equal(labels[:, :2], [[2, 1], [3, 0]])


PIECES = [
    *(
        b"path",
        b"patient",
        b"dr_grade",
        b",",
        b";",
        b"\t",
        b"\n",
        b"\r\n",
        b'"',
        b"'",
        b"=",
        b"sep=",
        b"a.png",
        b"1",
        b" ",
    ),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\xfc", b"\x81", "\u00e9\u2028".encode(), b"#N/A", b"-1", b"nan"),
    *(b"PAR1", b"PK\x03\x04", b"../", b"\x1b[2J"),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join))
def test_any_bytes_are_a_table_or_refused_with_a_sentence(tmp_path, content):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "labels.csv").write_bytes(b"path,patient\n" * (len(content) % 2) + content)
    try:
        manifest = CsvSource(tmp_path, "labels.csv").index()
    except ManifestError as error:
        assert "labels.csv" in str(error) and "\x1b" not in str(error)
    else:
        assert set(manifest.paths) == {"a.png"}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_of_a_parquet_file_is_read_or_refused_with_a_sentence(tmp_path, data):
    path = tmp_path / "manifest.parquet"
    Manifest.from_rows([{"path": f"{n}.png", "patient": f"p{n // 2}"} for n in range(40)]).write(path)
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(-len(content), len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    for read in (Manifest.read, read_table):
        try:
            read(path)
        except ManifestError as error:
            assert "manifest.parquet" in str(error)
