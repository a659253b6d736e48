"""A table of one's own: how it may be written, and that a wrong one is refused by the cell."""

import os
import pickle
import re

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from refusals import refuses

from datamodules.field_of_view import NotAFundusError
from datamodules.manifest import ManifestError
from datamodules.sources.csv import CsvSource

PLAIN = "path,patient,split,dr_grade,is_dme\na.png,P1,train,0,\nb/c.png,P1,train,4,1\nd.png,,,,0\n"


def index_csv(root, text: str, encoding: str = "utf-8"):
    (root / "labels.csv").write_bytes(text.encode(encoding))
    return CsvSource(root, "labels.csv").index()


@pytest.mark.parametrize("change", ["plain", "semicolon", "tab", "bom", "spaces", "crlf", "quotes", "latin", "floats"])
def test_a_table_may_be_written_in_many_ways(table_root, labels_of, change):
    text, encoding = PLAIN, "utf-8"
    if change in ("semicolon", "tab"):
        text = text.replace(",", {"semicolon": ";", "tab": "\t"}[change])
    elif change == "bom":
        encoding = "utf-8-sig"
    elif change == "spaces":
        text = text.replace(",", " , ").replace("dr_grade", "dr_grade ")
    elif change == "crlf":
        text = text.replace("\n", "\r\n")
    elif change == "quotes":
        text = '"path","patient","split","dr_grade","is_dme"\n' + text.split("\n", 1)[1].replace("a.png", '"a.png"')
    elif change == "latin":
        text, encoding = text.replace("P1", "Müller"), "latin-1"
    elif change == "floats":
        text = text.replace("4,1", "4.0,1.0").replace(",,0\n", ",nan,0.0\n")
    manifest = index_csv(table_root, text, encoding)
    labels = labels_of(manifest)
    assert labels == {"a.png": {"dr_grade": 0}, "b/c.png": {"dr_grade": 4, "is_dme": 1}, "d.png": {"is_dme": 0}}
    assert manifest.splits == ["train", "train", ""]
    first = "Müller" if change == "latin" else "P1"
    assert manifest.patients == [first, first, "image:d.png"]


def test_a_parquet_table_does_as_well(table_root, labels_of):
    columns = {"path": ["a.png", "d.png"], "id": [7, 8], "dr_grade": [2.0, None], "is_amd": pa.array([1, 0], pa.int8())}
    pq.write_table(pa.table(columns), table_root / "labels.parquet")
    manifest = CsvSource(table_root, "labels.parquet").index()
    assert labels_of(manifest) == {"7": {"dr_grade": 2, "is_amd": 1}, "8": {"is_amd": 0}}


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("image,dr_grade\na.png,1\n", ("column path", ": image, dr_grade", "patient, id, split")),
        ("paths\na.png\n", ("column path", "'paths'")),
        ("path,dr_grade\na.png,1\nd.png,7\n", ("row 3", "'dr_grade'", "'7'", "0 (none)")),
        ("path,dr_grade\na.png,mild\n", ("row 2", "'dr_grade'", "'mild'")),
        ("path,is_dme\na.png,0.5\n", ("row 2", "'is_dme'", "'0.5'")),
        ("path,id\na.png,x\nb/c.png,y\nd.png,x\n", ("row 4", "'id'", "'x'", "row 2")),
        ("path,dr_grade\na.png,None\n", ("row 2", "'dr_grade'", "'None'", "0 (none)")),
        ("path\na.png\nd.png\na.png\n", ("row 4", "'path'", "'a.png'", "row 2")),
        ("path,id\na.png,x\na.png,y\n", ("row 3", "'path'", "'a.png'", "row 2")),
        ("path\na.png\n../secret.png\n", ("row 3", "'path'", "'../secret.png'", "'..'")),
        ("path\n/etc/passwd\n", ("row 2", "'path'", "'/etc/passwd'", "'..'")),
        ("path\na.png\ne.png\n", ("row 3", "'path'", "'e.png'", "data.root")),
        ("path,split\na.png,training\n", ("row 2", "'split'", "'training'", "train, val, test")),
        ("path,path\na.png,d.png\n", ("'path'", ": path, path")),
        ("path,dr_grade\na.png,1,2\n", ("row 2", "3 cells", "header 2")),
        ("path\n", ("no row", "header")),
        ("", ("empty",)),
    ],
)
def test_a_wrong_table_is_refused_by_cell(table_root, text, facts):
    with refuses(ManifestError, "labels.csv", *facts):
        index_csv(table_root, text)


def test_columns_that_are_not_used_are_reported(table_root, caplog):
    index_csv(table_root, "path,dr_grde,camera\na.png,1,Canon\n")
    assert "column 'dr_grde' is not used; did you mean 'dr_grade'?" in caplog.text
    assert re.search("column 'camera' is not used$", caplog.text, re.MULTILINE)


def test_a_table_is_found_below_the_root_or_from_here(table_root, tmp_path, monkeypatch):
    (tmp_path / "here.csv").write_text("path\na.png\n")
    with refuses(FileNotFoundError, "data.table", "'here.csv'", "data.root", table_root):
        CsvSource(table_root, "here.csv").index()
    monkeypatch.chdir(tmp_path)
    assert len(CsvSource(table_root, "here.csv").index()) == 1
    assert len(CsvSource(table_root, tmp_path / "here.csv").index()) == 1


def test_an_image_that_the_table_calls_no_fundus_is_read_whole(table_root):
    for name in ("a.png", "d.png"):
        Image.fromarray(np.random.default_rng(0).integers(1, 255, (40, 40, 3), dtype=np.uint8)).save(table_root / name)
    (table_root / "labels.csv").write_text("path,is_fundus\na.png,0\nd.png,\n")
    source = CsvSource(table_root, "labels.csv")
    source.index()
    source = pickle.loads(pickle.dumps(source))
    assert source.read("a.png", 16).min() > 0
    with pytest.raises(NotAFundusError):
        source.read("d.png", 16)


def test_links_out_of_the_root_are_refused_and_links_within_are_not(table_root, tmp_path, save_small):
    outside = save_small(tmp_path / "outside" / "x.png")
    os.symlink(table_root / "a.png", table_root / "inner.png")
    assert len(index_csv(table_root, "path\ninner.png\nd.png\n")) == 2
    os.symlink(outside, table_root / "outer.png")
    os.symlink(outside.parent, table_root / "folder")
    for path in ("outer.png", "folder/x.png"):
        with refuses(ManifestError, "row 3", "'path'", f"'{path}'", "a link", "data.root"):
            index_csv(table_root, f"path\na.png\n{path}\n")
    os.symlink(table_root, tmp_path / "alias")
    assert len(CsvSource(tmp_path / "alias", table_root / "labels.csv").root.name) > 0
    assert len(index_csv(tmp_path / "alias", "path\na.png\n")) == 1


def test_none_is_the_grade_of_that_name_and_elsewhere_a_blank(table_root, labels_of):
    manifest = index_csv(table_root, "path,dr_grade,is_dme\na.png,none,none\nb/c.png,NaN,None\nd.png,n/a,NA\n")
    assert labels_of(manifest) == {"a.png": {"dr_grade": 0}, "b/c.png": {}, "d.png": {}}


@pytest.mark.parametrize("blanks", [("NaN", "nan"), ("NA", "None"), ("null", "-1")])
def test_a_blank_in_the_column_of_patients_is_no_patient(table_root, blanks):
    manifest = index_csv(table_root, f"path,patient\na.png,{blanks[0]}\nb/c.png,{blanks[1]}\nd.png,Nana\n")
    assert manifest.patients == ["image:a.png", "image:b/c.png", "Nana"]


def test_identity_follows_what_is_read_whole(table_root):
    def identity(column):
        rows = [f"{name},{level}\n" for name, level in zip(("a.png", "b/c.png", "d.png"), column, strict=True)]
        (table_root / "labels.csv").write_text("path,is_fundus\n" + "".join(rows))
        return CsvSource(table_root, "labels.csv").identity()

    assert len({identity(column) for column in ("111", "011", "101", "001")}) == 4
    assert identity("111") == identity(("", "1", ""))
    assert identity("011") == identity("011")


def test_capitals_of_the_columns_names_do_not_matter(table_root):
    rows = "a.png,p,2,test\nb/c.png,p,0,test\nd.png,q,,\n"
    for name, header in (("plain", "path,patient,dr_grade,split"), ("capitals", "PATH,Patient,DR_grade,Split")):
        (table_root / f"{name}.csv").write_text(f"{header}\n{rows}")
    found = CsvSource(table_root, "capitals.csv").index()
    assert found.table.equals(CsvSource(table_root, "plain.csv").index().table)
    assert found.patients == ["p", "p", "q"] and found.splits == ["test", "test", ""]


@pytest.mark.parametrize("name", ["labels.xlsx", "labels.csv"])
def test_a_workbook_does_as_well_whatever_it_is_called(table_root, labels_of, name):
    book = openpyxl.Workbook()
    for row in ("path", "patient", "dr_grade"), ("a.png", "P1", 2), ("b/c.png", 17, None):
        book.active.append(row)
    book.save(table_root / name)
    manifest = CsvSource(table_root, name).index()
    assert manifest.patients == ["P1", "17"] and labels_of(manifest)["a.png"] == {"dr_grade": 2}


@pytest.mark.parametrize(
    ("written", "facts"),
    [(PLAIN.encode("utf-16"), ("UTF-16", "UTF-8")), (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ("2007", ".xlsx"))],
)
def test_tables_as_excel_also_writes_them_are_refused_with_the_remedy(table_root, written, facts):
    (table_root / "labels.csv").write_bytes(written)
    with refuses(ManifestError, "labels.csv", *facts):
        CsvSource(table_root, "labels.csv").index()


def test_all_files_that_are_not_there_are_counted_and_the_first_named(table_root):
    text = "path\nA.png\na.jpg\nd.png\nb\\c.png\n" + "".join(f"{number}.png\n" for number in range(9))
    with pytest.raises(ManifestError) as refused:
        index_csv(table_root, text)
    said = str(refused.value)
    assert "row 2, column 'path': 'A.png'" in said and "perhaps 'a.png' is meant" in said
    assert "In all 12 of 13 files are not there" in said and "row 3, column 'path': 'a.jpg'" in said
    assert "row 7" in said and "row 8" not in said and "row 4" not in said, "four more are named; d.png is there"


@pytest.mark.parametrize(("path", "hint"), [("a.jpg", "perhaps 'a.png' is meant"), ("b\\c.png", "parted by /")])
def test_what_is_meant_by_a_path(table_root, path, hint):
    with pytest.raises(ManifestError) as refused:
        index_csv(table_root, f"path\n{path}\n")
    assert hint in str(refused.value) and "In all" not in str(refused.value)


@pytest.mark.parametrize(
    ("path", "fact"),
    [
        ("./a.png", "row 2"),
        (".//a.png", "row 2"),
        ("././a.png", "row 2"),
        ("b/../a.png", "'..'"),
        ("symbolic.png", "'a.png'"),
        ("hard.png", "'a.png'"),
    ],
)
def test_one_photograph_is_one_row_however_its_path_is_written(table_root, path, fact):
    os.symlink("a.png", table_root / "symbolic.png")
    os.link(table_root / "a.png", table_root / "hard.png")
    for columns in ("path", "path,id"):
        rows = [f"{name},{number}" if "id" in columns else name for number, name in enumerate(("a.png", "d.png", path))]
        with refuses(ManifestError, "row 4", "'path'", fact):
            index_csv(table_root, "\n".join([columns, *rows, ""]))


def test_a_path_has_one_spelling(table_root):
    manifest = index_csv(table_root, "path\n./a.png\nb//c.png\nb/.././d.png\n".replace("b/../", ""))
    assert manifest.paths == manifest.ids == ["a.png", "b/c.png", "d.png"]


def test_equal_files_that_are_no_links_are_left_to_the_search_for_duplicates(table_root):
    (table_root / "copy.png").write_bytes((table_root / "a.png").read_bytes())
    assert len(index_csv(table_root, "path\na.png\ncopy.png\n")) == 2


@pytest.mark.parametrize(
    ("there", "asked", "facts"),
    [
        ("a b.png", "a%20b.png", ("'a%20b.png'", "'a b.png'")),
        ("e\u0301.png", "\u00e9.png", ("'\u00e9.png'", "accents", "--nfc")),
    ],
)
def test_what_is_meant_by_a_name_of_other_signs(table_root, save_small, there, asked, facts):
    save_small(table_root / there)
    with refuses(ManifestError, "row 2", "'path'", *facts):
        index_csv(table_root, f"path\n{asked}\n")
