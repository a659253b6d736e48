"""Excel workbooks as tables of texts."""

import re
import zipfile

import openpyxl
import pytest
from refusals import refuses

from datamodules.manifest import ManifestError
from datamodules.sources.excel import read_excel


@pytest.fixture
def save_workbook(tmp_path):
    """`save_workbook({sheet: rows})` writes a workbook and gives its path."""

    def save(sheets):
        book = openpyxl.Workbook()
        book.remove(book.active)
        for title, rows in sheets.items():
            sheet = book.create_sheet(title)
            for row in rows:
                sheet.append(row)
        book.save(tmp_path / "labels.xlsx")
        return tmp_path / "labels.xlsx"

    return save


def test_cells_are_trimmed_texts_and_whole_numbers_have_no_fraction(save_workbook):
    path = save_workbook({"Sheet1": [[" ImgName ", "Label "], ["n0001.jpg ", 2.0], ["n0002.jpg", 0.25], ["", None]]})
    table = read_excel(path)
    assert table.to_pydict() == {"ImgName": ["n0001.jpg", "n0002.jpg"], "Label": ["2", "0.25"]}


def test_rows_above_the_header_are_skipped_and_columns_without_a_name_left_out(save_workbook):
    path = save_workbook({"Sheet1": [["", "Clinical data"], [None, "Diagnosis", "Age"], ["#002", 0, 47, "note"]]})
    assert read_excel(path, header=1).to_pydict() == {"Diagnosis": ["0"], "Age": ["47"]}


def test_columns_are_numbered_where_no_name_is_given(save_workbook):
    path = save_workbook({"Sheet1": [["ID", "Age"], [None, None], ["#002", 47, 3]]})
    assert read_excel(path, header=1).to_pydict() == {"0": ["#002"], "1": ["47"], "2": ["3"]}


def test_a_sheet_is_chosen_by_name_or_number_and_one_that_is_missing_is_named(save_workbook):
    path = save_workbook({"train": [["a"], [1]], "test": [["a"], [2], [3]]})
    assert read_excel(path, "test").equals(read_excel(path, 1))
    assert read_excel(path, "test").to_pydict() == {"a": ["2", "3"]}
    for missing in ("valid", 2, -1):
        with refuses(ManifestError, "labels.xlsx", f"sheet {missing!r}", "'train', 'test'"):
            read_excel(path, missing)


def test_a_header_alone_is_a_table_without_rows_and_no_header_an_error(save_workbook):
    path = save_workbook({"Sheet1": [["a", "b"]]})
    assert read_excel(path).num_rows == 0 and read_excel(path).column_names == ["a", "b"]
    with refuses(ManifestError, "labels.xlsx", "1 rows", "row 3"):
        read_excel(path, header=2)


def test_a_name_that_is_there_twice_is_named(save_workbook):
    with refuses(ManifestError, "'a'", ": a, b, a"):
        read_excel(save_workbook({"Sheet1": [["a", "b", "a "], [1, 2, 3]]}))


def test_dimensions_that_the_file_states_wrongly_do_not_cut_the_sheet(save_workbook, tmp_path):
    path = save_workbook({"Sheet1": [["a", "b"], [1, 2]]})
    with zipfile.ZipFile(path) as there, zipfile.ZipFile(tmp_path / "wrong.xlsx", "w") as wrong:
        for name in there.namelist():
            wrong.writestr(name, re.sub(rb'<dimension ref="[^"]*"', b'<dimension ref="A1"', there.read(name)))
    assert read_excel(tmp_path / "wrong.xlsx").to_pydict() == {"a": ["1"], "b": ["2"]}


@pytest.mark.parametrize("kept", [0, 1, 300, 3000])
def test_a_damaged_workbook_is_named(save_workbook, kept):
    path = save_workbook({"Sheet1": [["a"], [1]]})
    path.write_bytes(path.read_bytes()[:kept])
    with refuses(ManifestError, "labels.xlsx", "Excel"):
        read_excel(path)


def test_a_workbook_with_a_damaged_sheet_is_named(save_workbook, tmp_path):
    path = save_workbook({"Sheet1": [["a"], [1]]})
    with zipfile.ZipFile(path) as there, zipfile.ZipFile(tmp_path / "broken.xlsx", "w") as broken:
        for name in there.namelist():
            content = there.read(name)
            broken.writestr(name, content[: len(content) // 2] if name.endswith("sheet1.xml") else content)
    with refuses(ManifestError, "broken.xlsx", "Excel"):
        read_excel(tmp_path / "broken.xlsx")


def merged(path, *ranges):
    """The workbook with these ranges merged, and what stood below the first cell of each still there."""
    marks = "".join(f'<mergeCell ref="{cells}"/>' for cells in ranges)
    return rewritten(path, "</sheetData>", f"</sheetData><mergeCells>{marks}</mergeCells>")


def rewritten(path, pattern, instead):
    """The workbook with its XML changed."""
    with zipfile.ZipFile(path) as there:
        content = {name: there.read(name) for name in there.namelist()}
    with zipfile.ZipFile(path, "w") as changed:
        for name, data in content.items():
            changed.writestr(name, re.sub(pattern, instead, data.decode()) if name.endswith(".xml") else data)
    return path


def test_merged_cells_have_the_value_that_is_seen(save_workbook):
    rows = [["patient", "path", "is_amd", "is_gc"], ["P1", "a", 1, None], [None, "b", 0, 1], [None, "c", None, None]]
    path = merged(save_workbook({"Sheet1": [*rows, ["P2", "d", 0, 0]]}), "A2:A4", "C2:D2", "C4:D4")
    assert read_excel(path).to_pydict() == {
        "patient": ["P1", "P1", "P1", "P2"], "path": list("abcd"), "is_amd": ["1", "0", "", "0"],
        "is_gc": ["1", "1", "", "0"],
    }  # fmt: skip


def test_merged_cells_of_the_header_are_names_of_one_column_or_refused(save_workbook):
    rows = [["path", "eye", None], ["a", 1, 2]]
    assert read_excel(merged(save_workbook({"Sheet1": rows}), "B1:C1")).to_pydict() == {"path": ["a"], "eye": ["1"]}
    with refuses(ManifestError, "labels.xlsx", "A1:A2"):
        read_excel(merged(save_workbook({"Sheet1": rows}), "A1:A2"))
    for damaged in ("", "A:A", "A1:B", "?"):
        with refuses(ManifestError, "labels.xlsx", "Excel"):
            read_excel(merged(save_workbook({"Sheet1": rows}), damaged))


def test_another_value_that_lies_below_merged_cells_is_refused(save_workbook):
    path = save_workbook({"Sheet1": [["patient"], ["P1"], ["P7"]]})
    with refuses(ManifestError, "A2:A3", "'P1'", "'P7'"):
        read_excel(merged(path, "A2:A3"))


def test_what_is_hidden_is_said(save_workbook, caplog):
    path = save_workbook({"old": [["a"], [1]], "new": [["a"], [2], [3]], "notes": [["x"]]})
    book = openpyxl.load_workbook(path)
    book["old"].sheet_state = "hidden"
    book["new"].row_dimensions[3].hidden = True
    book.active = 1
    book.save(path)
    assert read_excel(path).to_pydict() == {"a": ["2", "3"]}, "the first sheet that is seen"
    assert "1 rows are hidden" in caplog.text and "the sheet 'new' is read; others are not: notes" in caplog.text


def test_a_formula_is_its_value_where_a_program_has_saved_it(save_workbook):
    path = save_workbook({"Sheet1": [["a", "b"], [1, "=A2+1"], [2, '=IF(A3=1,"x","")']]})
    never = ["=A2+1", '=IF(A3=1,"x","")']
    assert read_excel(path)["b"].to_pylist() == never
    rewritten(path, r'<c r="B2"><f>([^<]*)</f><v ?/?>(</v>)?', r'<c r="B2"><f>\1</f><v>2</v>')
    rewritten(path, r'<c r="B3"><f>([^<]*)</f><v ?/?>(</v>)?', r'<c r="B3" t="str"><f>\1</f><v></v>')
    assert read_excel(path)["b"].to_pylist() == never, "a library wrote values that it had not calculated"
    assert read_excel(rewritten(path, r' fullCalcOnLoad="1"', ""))["b"].to_pylist() == ["2", ""]


def test_only_the_setting_itself_says_that_a_workbook_is_not_calculated(save_workbook):
    path = save_workbook({"Sheet1": [["a", "b"], [1, "=A2+1"]]})
    rewritten(path, r"(</f>)<v ?/?>(</v>)?", r"\1<v>2</v>")
    rewritten(path, r'fullCalcOnLoad="1"', "fullCalcOnLoad='true'")
    assert read_excel(path)["b"].to_pylist() == ["=A2+1"]
    rewritten(path, r"<calcPr [^>]*>", '<!-- calcPr fullCalcOnLoad="1" --><calcPr calcId="191029"/>')
    assert read_excel(path)["b"].to_pylist() == ["2"]


@pytest.mark.parametrize(
    ("pattern", "instead", "facts"),
    [
        ('<row r="3"', '<row r="1048577"', ("row 1048577", "behind 2", "3 to 1048576")),
        ('<row r="3"', '<row r="2"', ("row 2", "behind 2", "3 to 1048576")),
        ('<row r="2"', '<row r="9"', ("row 3", "behind 9", "10 to 1048576")),
        ('r="B2"', 'r="XFE2"', ("row 2", "column 16385", "behind 1", "2 to 16384")),
        ('r="B2"', 'r="A2"', ("row 2", "column 1", "behind 1", "2 to 16384")),
        ('<row r="3"(.*)r="B3"', r'<row r="1048576"\1r="XFD3"', ("row 1048576", "column 16384", "50,000,000")),
    ],
)
def test_rows_and_columns_that_no_sheet_has_are_refused_before_they_are_made(save_workbook, pattern, instead, facts):
    path = save_workbook({"Sheet1": [["a", "b"], [1, 2], [3, 4]]})
    with refuses(ManifestError, "labels.xlsx", *facts):
        read_excel(rewritten(path, pattern, instead))


def test_blank_cells_far_out_that_are_but_painted_count_for_nothing(save_workbook):
    path = save_workbook({"Sheet1": [["a"], [1]]})
    rewritten(path, "</row></sheetData>", '<c r="XFD2" s="0"/></row><row r="1048576"><c r="XFD9"/></row></sheetData>')
    assert read_excel(path).to_pydict() == {"a": ["1"]}
