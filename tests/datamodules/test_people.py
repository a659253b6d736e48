"""Who is one person: names that are written in several ways, and what the log says where nothing tells."""

import openpyxl
import pytest

from datamodules.manifest import Manifest
from datamodules.sources import people
from datamodules.sources.csv import CsvSource
from datamodules.sources.folder import FolderSource
from datamodules.sources.people import alike, two_eyes


def patients(*names):
    return Manifest.from_rows({"path": f"{n}.png", "patient": name} for n, name in enumerate(names)).patients


@pytest.mark.parametrize(
    "names",
    [
        ("17", "17.0"),
        ("17", " 17.", "17.00"),
        ("Müller", "Mu\u0308ller"),
        ("P 17", "P\u00a017", "\ufeffP 17\u200b"),
        ("12345678901", "12345678901.0"),
    ],
)
def test_what_differs_in_how_a_program_wrote_it_is_one_person(names):
    assert len(set(patients(*names))) == 1


@pytest.mark.parametrize("names", [("17", "017"), ("17", "17.5"), ("P17", "p17"), ("1.0.0", "1"), ("1017", "1,017")])
def test_what_may_be_two_people_stays_two(names):
    assert len(set(patients(*names))) == 2


def test_a_number_is_one_patient_in_integers_in_floats_and_in_a_workbook(table_root):
    rows = [("a.png", 17), ("b/c.png", 17), ("d.png", 12345678901)]
    book = openpyxl.Workbook()
    book.active.append(["path", "patient"])
    for path, number in rows:
        book.active.append([path, float(number)])
    book.save(table_root / "floats.xlsx")
    for name, form in (("int.csv", "{}"), ("float.csv", "{}.0")):
        text = "".join(f"{path},{form.format(number)}\n" for path, number in rows)
        (table_root / name).write_text(f"path,patient\n{text}")
    found = {CsvSource(table_root, name).index().fingerprint for name in ("int.csv", "float.csv", "floats.xlsx")}
    assert len(found) == 1


@pytest.mark.parametrize(
    "names",
    [
        ("17", "017"),
        ("P-17", "p17"),
        ("P 017", "P17"),
        ("P001_OD", "P001_OS"),
        ("1,017", "1017"),
        ("Müller", "MÜLLER"),
        ("１７", "17"),
    ],
)
def test_names_that_may_be_one_person_are_alike(names):
    assert alike([*names, "other"]) == [list(names), ["other"]]


def test_names_of_two_people_are_not_alike():
    names = ["1-17", "11-7", "117", "P1", "P11", "P1-1", "--", "?"]
    assert alike(names) == [[name] for name in names]


def test_names_that_may_be_one_person_are_named_in_the_log(table_root, caplog):
    (table_root / "labels.csv").write_text("path,patient\na.png,017\nb/c.png,17\nd.png,7.00123E+11\n")
    assert len(set(CsvSource(table_root, "labels.csv").index().patients)) == 3
    assert "'017' and '17' count as different people" in caplog.text
    assert "'7.00123E+11' (and 0 more) is a number without its last digits" in caplog.text


@pytest.mark.parametrize(
    ("paths", "patients", "pair"),
    [
        (["P001_OD_1.jpg", "P001_OS_2.jpg"], ["a", "b"], ("P001_OD_1.jpg", "P001_OS_2.jpg")),
        (["OD_P001.jpg", "OD_P002.jpg", "OS_P001.jpg"], ["a", "b", "c"], ("OD_P001.jpg", "OS_P001.jpg")),
        (["left/7.jpg", "right/7.jpg"], ["a", "b"], ("left/7.jpg", "right/7.jpg")),
        (["P001/OD_1.jpg", "P001/OD_2.jpg"], ["a", "b"], ("P001/OD_1.jpg", "P001/OD_2.jpg")),
        (["P001_OD_1.jpg", "P001_OS_2.jpg"], ["a", "a"], None),
        (["study_L_001.jpg", "study_L_002.jpg"], ["a", "b"], None),
        (["model.jpg", "modl.jpg", "world.jpg"], ["a", "b", "c"], None),
    ],
)
def test_eyes_of_one_person_are_found_by_their_names(paths, patients, pair):
    assert two_eyes(paths, patients) == pair


def test_a_folder_whose_names_tell_eyes_but_not_people_says_so(tmp_path, save_small, caplog):
    for name in ("P001_OD_1.png", "P001_OS_1.png", "P002_OD_1.png"):
        save_small(tmp_path / name)
    assert len(set(FolderSource(tmp_path).index().patients)) == 3
    assert "'P001_OD_1.png' and 'P001_OS_1.png' may show the eyes of one person" in caplog.text
    assert "data.patient_pattern" in caplog.text and "every image counts as its own patient" in caplog.text
    caplog.clear()
    assert len(set(FolderSource(tmp_path, r"(?P<patient>P\d+)_").index().patients)) == 2
    assert "one person" not in caplog.text
    for name in ("x_L.png", "x_R.png"):
        save_small(tmp_path / name)
    FolderSource(tmp_path).index()
    assert "every image counts" not in caplog.text


@pytest.mark.parametrize(("most", "said"), [(2, False), (3, True)])
def test_eyes_are_looked_for_in_so_many_names_and_no_more(monkeypatch, caplog, most, said):
    monkeypatch.setattr(people, "MOST_NAMES", most)
    manifest = Manifest.from_rows([{"path": name} for name in ("P001_OD.png", "P002_OD.png", "P001_OS.png")])
    people.warn_of_patients("eyes", manifest)
    assert "every image counts" in caplog.text and ("may show the eyes of one person" in caplog.text) == said


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (None, "whose photographs they are is not told: every image counts as its own patient"),
        (("p", "", ""), "2 of 3 images have no patient"),
        (("p", "q", "q"), None),
    ],
)
def test_a_table_that_does_not_tell_whose_they_are_says_so(table_root, caplog, column, said):
    rows = [("a.png",), ("b/c.png",), ("d.png",)]
    rows = rows if column is None else [(*row, who) for row, who in zip(rows, column, strict=True)]
    header = "path\n" if column is None else "path,patient\n"
    (table_root / "labels.csv").write_text(header + "".join(",".join(row) + "\n" for row in rows))
    CsvSource(table_root, "labels.csv").index()
    assert (said in caplog.text) if said else ("one person" not in caplog.text)


def test_a_table_with_its_own_split_is_not_warned_of(table_root, caplog):
    (table_root / "labels.csv").write_text("path,split\na.png,train\nb/c.png,val\nd.png,test\n")
    CsvSource(table_root, "labels.csv").index()
    assert "one person" not in caplog.text
