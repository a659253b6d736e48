"""Readers of sets of several diseases and of image quality, on miniatures in the real layouts."""

import logging

import openpyxl
import pytest
from multi_miniatures import LEFT, ODIR_COLUMNS, ODIR_PATIENTS, RFMID_COLUMNS, RIGHT, rfmid_table, write
from people import check_no_person_is_on_two_sides
from refusals import refuses

from datamodules.sources.brset import BRSET
from datamodules.sources.eyepacs import EyePACS
from datamodules.sources.eyeq import EyeQ
from datamodules.sources.mbrset import MBRSET
from datamodules.sources.odir5k import ODIR5K
from datamodules.sources.public import LayoutError
from datamodules.sources.rfmid import RFMiD

SOURCES = {"odir5k": ODIR5K, "rfmid": RFMiD, "brset": BRSET, "mbrset": MBRSET, "eyeq": EyeQ}


# -- all of them


@pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
def test_a_folder_that_holds_something_else_is_answered_with_the_address(source, tmp_path, save_small):
    save_small(tmp_path / "holiday" / "beach.jpg")
    with pytest.raises(LayoutError) as refused:
        source(tmp_path).index()
    assert source.address in str(refused.value) and "Found: ['holiday']" in str(refused.value)


PEOPLE = {  # of each source the images of one person; of a source that is not here, every image is its own
    ODIR5K: tuple((f"{number}_left", f"{number}_right") for number in range(4)),
    BRSET: tuple((f"img0000{odd}", f"img0000{odd + 1}") for odd in (1, 3, 5, 7)),
    MBRSET: (("1.1", "1.2", "1.3", "1.10"), ("11.1", "11.2")),
    EyeQ: (("10_left", "10_right"), ("13_left",), ("1_left", "1_right")),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
def test_no_person_is_on_two_sides_of_the_split(source, request, caplog):
    caplog.set_level(logging.ERROR)
    index = source(request.getfixturevalue(source.name)).index()
    check_no_person_is_on_two_sides(index, PEOPLE.get(source))


LAST = {  # of each source an image, and where the table names it
    ODIR5K: ("ODIR-5K/ODIR-5K/Training Images/3_left.jpg", "full_df.csv, row 9"),
    RFMiD: ("1. Original Images/c. Testing Set/6.png", "2. Groundtruths/c. RFMiD_Testing_Labels.csv, row 7"),
    BRSET: ("fundus_photos/img00008.jpg", "labels.csv, row 9"),
    MBRSET: ("images/11.2.jpg", "labels_mbrset.csv, row 7"),
    EyeQ: ("test/1_right.jpeg", "Label_EyeQ_test.csv, row 3"),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
def test_an_image_that_is_not_there_is_told_by_the_file_and_the_row_in_it(source, request):
    image, place = LAST[source]
    root = request.getfixturevalue(source.name)
    (root / image).unlink()
    with pytest.raises(LayoutError) as raised:
        source(root).index()
    assert str(raised.value).startswith(f"{source.title}: {place}: there is no image")


@pytest.mark.parametrize("name", SOURCES)
def test_images_are_read_and_everything_is_stated(name, request):
    source = SOURCES[name](request.getfixturevalue(name))
    assert source.read(source.index().paths[0], 16).shape == (16, 16, 3)
    assert source.name == name
    assert all((source.title, source.licence, source.address, source.layout, source.trap, source.published))
    assert all(list(rule.lines()) for rule in source.rules)


# -- ODIR-5K

NORMAL = {"dr_grade": 0, "is_amd": 0, "is_gc": 0, "is_htr": 0, "is_pm": 0, "is_fundus": 1}


def test_odir5k_takes_an_eyes_own_label_and_not_the_patients(odir5k, labels_of):
    manifest = ODIR5K(odir5k).index()
    assert manifest.ids[:4] == ["0_right", "1_right", "2_right", "3_right"]
    assert manifest.patients == ["0", "1", "2", "3"] * 2 and set(manifest.splits) == {""}
    labels = labels_of(manifest)
    assert labels["0_right"] == {**NORMAL, **RIGHT}
    assert labels["0_left"] == {"is_gc": 1, "is_fundus": 1, **LEFT}
    assert labels["1_left"] == {"is_htr": 1, "is_fundus": 1, **LEFT}
    assert labels["2_left"] == {"is_amd": 1, "is_fundus": 1, **LEFT}
    assert labels["2_right"] == {"is_fundus": 1, **RIGHT}
    assert labels["3_left"] == {"is_fundus": 0, **LEFT}


def test_odir5k_takes_what_keywords_name_exactly_where_there_is_only_the_workbook(odir_images, labels_of, caplog):
    book = openpyxl.Workbook()
    for line in (ODIR_COLUMNS, *ODIR_PATIENTS):
        book.active.append([int(cell) if cell.isdecimal() else cell for cell in line.split(",")])
    book.save(odir_images / "ODIR-5K/ODIR-5K/data.xlsx")
    manifest = ODIR5K(odir_images).index()
    assert manifest.ids[:4] == ["0_left", "0_right", "1_left", "1_right"] and manifest.num_patients == 4
    labels = labels_of(manifest)
    assert labels["0_left"] == {"is_gc": 1, "is_fundus": 1, **LEFT}
    assert labels["0_right"] == {**NORMAL, **RIGHT} == labels["1_right"]
    assert labels["1_left"] == {"is_htr": 1, "is_fundus": 1, **LEFT}
    assert labels["2_left"] == {"is_amd": 1, "is_pm": 1, "is_fundus": 1, **LEFT}
    assert labels["2_right"] == {"is_fundus": 1, **RIGHT}
    assert labels["3_left"] == {"is_fundus": 0, **LEFT}
    assert "8 found, 7000 published" in caplog.text


def test_odir5k_reads_the_preprocessed_images_where_there_are_no_others(odir5k):
    (odir5k / "ODIR-5K/ODIR-5K/Training Images").rename(odir5k / "preprocessed_images")
    assert ODIR5K(odir5k).index().paths[0] == "preprocessed_images/0_right.jpg"


def test_odir5k_names_a_letter_that_it_does_not_know(odir5k):
    table = odir5k / "full_df.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("['G']", "['X']"), encoding="utf-8")
    with refuses(LayoutError, "full_df.csv", "row 4", "'2_right.jpg'", "'X'", "kaggle.com"):
        ODIR5K(odir5k).index()


def test_odir5k_names_a_column_that_the_workbook_lacks(odir_images):
    book = openpyxl.Workbook()
    book.active.append(["ID", "Left-Fundus"])
    book.active.append([0, "0_left.jpg"])
    book.save(odir_images / "data.xlsx")
    with refuses(LayoutError, "data.xlsx", "'Right-Fundus'", "kaggle.com"):
        ODIR5K(odir_images).index()


# -- RFMiD

RFMID_NOTHING = {
    "dr_grade": 0, "is_amd": 0, "is_aon": 0, "is_dm": 0, "is_em": 0, "is_pm": 0, "is_rvo": 0, "is_fundus": 1
}  # fmt: skip


def test_rfmid_labels_and_splits(rfmid, labels_of):
    manifest = RFMiD(rfmid).index()
    assert manifest.splits == ["train"] * 4 + ["val"] * 2 + ["test"] * 6
    labels = labels_of(manifest)
    unknown = {name: {k: level for k, level in RFMID_NOTHING.items() if k != name} for name in RFMID_NOTHING}
    assert labels["train_1"] == RFMID_NOTHING
    assert labels["train_2"] == unknown["dr_grade"]
    assert labels["train_3"] == {**RFMID_NOTHING, "is_amd": 1}
    assert labels["train_4"] == {**unknown["is_dm"], "is_rvo": 1}
    assert labels["val_1"] == {**unknown["is_pm"], "is_rvo": 1}
    assert labels["val_2"] == unknown["is_amd"]
    assert labels["test_3"] == {**RFMID_NOTHING, "is_aon": 1, "is_em": 1}
    assert labels["test_4"] == unknown["is_aon"]
    assert labels["test_5"] == {**RFMID_NOTHING, "is_crp": 1}
    assert labels["test_6"] == unknown["is_rvo"]


RFMID_TELLS = {  # what a label alone changes; a finding that it leaves open is None. The others change nothing
    "DR": {"dr_grade": None}, "ARMD": {"is_amd": 1}, "DN": {"is_amd": None}, "TSLN": {"is_dm": None},
    "ERM": {"is_em": 1}, "MYA": {"is_pm": None}, "CRS": {"is_crp": 1},
    "BRVO": {"is_rvo": 1}, "CRVO": {"is_rvo": 1}, "HR": {"is_rvo": None}, "ODP": {"is_aon": 1},
    **dict.fromkeys(("ODPM", "ODC", "ODE", "ST", "AION", "CB", "MNF", "TD"), {"is_aon": None}),
}  # fmt: skip


def test_rfmid_each_label_changes_its_own_finding_alone(save_all, labels_of):
    names = RFMID_COLUMNS.split(",")[2:]
    folders = {"a. Training Set": len(names), "b. Validation Set": 1, "c. Testing Set": 1}
    root = save_all(*(f"1. Original Images/{f}/{n}.png" for f, number in folders.items() for n in range(1, number + 1)))
    truth = root / "2. Groundtruths"
    rfmid_table(truth / "a. RFMiD_Training_Labels.csv", *((name,) for name in names))
    for table in ("b. RFMiD_Validation_Labels.csv", "c. RFMiD_Testing_Labels.csv"):
        rfmid_table(truth / table, ())
    labels = labels_of(RFMiD(root).index())
    for number, name in enumerate(names, start=1):
        expected = {**RFMID_NOTHING, **RFMID_TELLS.get(name, {})}
        assert labels[f"train_{number}"] == {f: level for f, level in expected.items() if level is not None}, name
    assert {"MH", "MHL"} <= set(names) - set(RFMID_TELLS)


def test_rfmid_tells_images_of_the_same_number_in_different_splits_apart(rfmid):
    manifest = RFMiD(rfmid).index()
    assert {"train_1", "val_1", "test_1"} <= set(manifest.ids) and manifest.num_patients == 12
    path = dict(zip(manifest.ids, manifest.paths, strict=True))
    assert path["val_1"] == "1. Original Images/b. Validation Set/1.png"


@pytest.mark.parametrize("validation", ["Validation_Set", "Evaluation_Set"])
@pytest.mark.parametrize("doubled", [False, True])
def test_rfmid_in_folders_of_splits(save_all, validation, doubled):
    homes = [name + f"/{name}" * doubled for name in ("Training_Set", validation, "Test_Set")]
    root = save_all(*(f"{home}/{n}/1.png" for home, n in zip(homes, ("Training", "Validation", "Test"), strict=True)))
    for home, name in zip(homes, ("Training", "Validation", "Testing"), strict=True):
        rfmid_table(root / home / f"RFMiD_{name}_Labels.csv", ("MYA",))
    manifest = RFMiD(root).index()
    assert manifest.splits == ["train", "val", "test"]
    assert manifest.paths[2] == f"{homes[2]}/Test/1.png"


# -- EyeQ


def test_eyeq_quality_grades_and_splits(eyeq, labels_of, caplog):
    manifest = EyeQ(eyeq).index()
    assert manifest.splits == ["train"] * 3 + ["test"] * 2 and manifest.patients == ["10", "10", "13", "1", "1"]
    labels = labels_of(manifest)
    assert labels["10_left"] == {"dr_grade": 2, "is_fundus": 1, "is_retinal_region_readable": 1, **LEFT}
    assert labels["10_right"] == {"dr_grade": 0, "is_fundus": 1, **RIGHT}
    assert labels["1_left"] == {"dr_grade": 0, "is_fundus": 1, "is_retinal_region_readable": 1, **LEFT}
    assert "1 images are in no row" in caplog.text


def test_eyeq_rejected_images_have_no_grade(eyeq, labels_of):
    labels = labels_of(EyeQ(eyeq).index())
    assert labels["13_left"] == {"is_fundus": 1, "is_retinal_region_readable": 0, **LEFT}
    assert labels["1_right"] == {"is_fundus": 1, "is_retinal_region_readable": 0, **RIGHT}


def test_eyeq_calls_images_and_patients_as_eyepacs_does(eyeq):
    names = ("10_left", "10_right", "13_left", "15_left")
    write(eyeq / "trainLabels.csv", "image,level", *(f"{name},0" for name in names))
    write(eyeq / "retinopathy_solution.csv", "image,level,Usage", "1_left,0,Public", "1_right,0,Private")
    theirs = EyePACS(eyeq).index()
    patient = dict(zip(theirs.ids, theirs.patients, strict=True))
    ours = EyeQ(eyeq).index()
    assert [patient[name] for name in ours.ids] == ours.patients
    assert EyeQ.patient_space == EyePACS.patient_space == "eyepacs"


def test_eyeq_with_its_tables_in_data_and_without_test_images(eyeq, caplog):
    (eyeq / "data").mkdir()
    for split in ("train", "test"):
        (eyeq / f"Label_EyeQ_{split}.csv").rename(eyeq / "data" / f"Label_EyeQ_{split}.csv")
    (eyeq / "test").rename(eyeq / "elsewhere")
    assert EyeQ(eyeq).index().ids == ["10_left", "10_right", "13_left"]
    assert "the test split is left out" in caplog.text


def test_eyeq_names_an_image_that_is_not_called_after_patient_and_eye(eyeq):
    write(eyeq / "Label_EyeQ_test.csv", ",image,quality,DR_grade", "0,1_left.jpeg,0,0", "1,IMG7.jpeg,2,0")
    with refuses(LayoutError, "Label_EyeQ_test.csv", "row 3", "'IMG7.jpeg'", "github.com/HzFu/EyeQ"):
        EyeQ(eyeq).index()
