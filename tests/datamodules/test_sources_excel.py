"""Excel workbooks as tables of texts."""

import re
import zipfile

import openpyxl
import pytest

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
        with pytest.raises(ManifestError, match=f"labels.xlsx has no sheet {missing!r}. Its sheets are: 'train', 'te"):
            read_excel(path, missing)


def test_a_header_alone_is_a_table_without_rows_and_no_header_an_error(save_workbook):
    path = save_workbook({"Sheet1": [["a", "b"]]})
    assert read_excel(path).num_rows == 0 and read_excel(path).column_names == ["a", "b"]
    with pytest.raises(ManifestError, match="has 1 rows: there is no header in row 3"):
        read_excel(path, header=2)


def test_a_name_that_is_there_twice_is_named(save_workbook):
    with pytest.raises(ManifestError, match="has the column 'a' twice; its columns are: a, b, a"):
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
    with pytest.raises(ManifestError, match=r"labels.xlsx cannot be read as an Excel workbook"):
        read_excel(path)


def test_a_workbook_with_a_damaged_sheet_is_named(save_workbook, tmp_path):
    path = save_workbook({"Sheet1": [["a"], [1]]})
    with zipfile.ZipFile(path) as there, zipfile.ZipFile(tmp_path / "broken.xlsx", "w") as broken:
        for name in there.namelist():
            content = there.read(name)
            broken.writestr(name, content[: len(content) // 2] if name.endswith("sheet1.xml") else content)
    with pytest.raises(ManifestError, match=r"broken.xlsx cannot be read as an Excel workbook"):
        read_excel(tmp_path / "broken.xlsx")
