"""Readers of sets of diabetic retinopathy and of two sets of classes in folders, on miniatures in the real layouts."""

import logging

import pytest
from dr_miniatures import write
from people import check_no_person_is_on_two_sides
from refusals import refuses

from datamodules.manifest import ManifestError
from datamodules.sources.ddr import DDR
from datamodules.sources.ddr_segmentation import DDRSegmentation
from datamodules.sources.deepdrid import DeepDRiD
from datamodules.sources.eyepacs import EyePACS
from datamodules.sources.idrid import IDRiD
from datamodules.sources.jsiec import JSIEC
from datamodules.sources.messidor2 import Messidor2
from datamodules.sources.public import LayoutError
from datamodules.sources.retina_kaggle import RetinaKaggle

SOURCES = (EyePACS, Messidor2, IDRiD, DDR, DDRSegmentation, DeepDRiD, JSIEC, RetinaKaggle)


# -- all of them


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_a_folder_with_something_else_in_it_names_the_address(source, tmp_path, save_small):
    save_small(tmp_path / "photographs" / "a.png")
    write(tmp_path / "notes.txt", "")
    with pytest.raises(LayoutError) as caught:
        source(tmp_path).index()
    assert source.address in str(caught.value) and "'notes.txt', 'photographs'" in str(caught.value)


PEOPLE = {  # of each source the images of one person; of a source that is not here, every image is its own
    EyePACS: (("10_left", "10_right"), ("13_left",), ("1_left", "1_right")),
    Messidor2: (
        ("20051020_43808_0100_PP.png", "20051020_43832_0100_PP.png"),
        ("IM000001.jpg", "IM000002.jpg"),
    ),
    DeepDRiD: (("56_l1", "56_r3", "56_r2"), ("265_l1",), ("347_l1", "347_r1")),
}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_no_person_is_on_two_sides_of_the_split(source, request, caplog):
    caplog.set_level(logging.ERROR)
    index = source(request.getfixturevalue(source.name)).index()
    check_no_person_is_on_two_sides(index, PEOPLE.get(source))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_images_are_read(source, request):
    read = source(request.getfixturevalue(source.name))
    assert read.read(read.index().paths[0], 16).shape == (16, 16, 3)
    assert all((source.title, source.licence, source.address, source.layout, source.trap, source.published))


# -- EyePACS


def test_eyepacs_takes_patient_and_eye_from_the_name(eyepacs, labels_of):
    manifest = EyePACS(eyepacs).index()
    assert manifest.ids == ["10_left", "10_right", "13_left", "1_left", "1_right"]
    assert manifest.patients == ["10", "10", "13", "1", "1"]
    assert manifest.splits == ["train"] * 3 + ["test"] * 2
    assert manifest.paths[0] == "train/10_left.jpeg"
    labels = labels_of(manifest)
    assert labels["10_right"] == {"dr_grade": 4, "is_fundus": 1, "eye_side": 0}
    assert labels["1_left"] == {"dr_grade": 2, "is_fundus": 1, "eye_side": 1}


def test_eyepacs_in_the_layout_with_folders_of_images(eyepacs):
    for split in ("train", "test"):
        (eyepacs / split).rename(eyepacs / "images")
        (eyepacs / split).mkdir()
        (eyepacs / "images").rename(eyepacs / split / "images")
    (eyepacs / "retinopathy_solution.csv").rename(eyepacs / "testLabels.csv")
    assert EyePACS(eyepacs).index().paths[3] == "test/images/1_left.jpeg"


def test_eyepacs_without_the_test_grades_is_its_training_images(eyepacs, caplog):
    (eyepacs / "retinopathy_solution.csv").unlink()
    assert EyePACS(eyepacs).index().splits == ["train"] * 3
    assert "the test split is left out: there is no retinopathy_solution.csv or testLabels.csv" in caplog.text


def test_eyepacs_with_training_images_alone_warns_of_nothing_but_the_counts(save_all, caplog):
    root = save_all("train/10_left.jpeg")
    write(root / "trainLabels.csv", "image,level\n10_left,0\n")
    assert EyePACS(root).index().ids == ["10_left"]
    assert "left out" not in caplog.text


def test_eyepacs_names_the_file_of_a_row_that_is_there_twice(eyepacs):
    table = eyepacs / "retinopathy_solution.csv"
    write(table, table.read_text() + "1_left,2,Public\n")
    with pytest.raises(ManifestError) as raised:
        EyePACS(eyepacs).index()
    assert "EyePACS: retinopathy_solution.csv, row 4, column 'id': '1_left' is already" in str(raised.value)
    assert "already the id of retinopathy_solution.csv, row 2. Remedy" in str(raised.value)


def test_eyepacs_refuses_a_name_without_an_eye(eyepacs):
    write(eyepacs / "trainLabels.csv", "image,level\n10_left,0\n13,1\n")
    with refuses(LayoutError, "trainLabels.csv", "row 3", "'13'", "<patient>_left"):
        EyePACS(eyepacs).index()


# -- Messidor-2


def test_messidor2_finds_jpg_for_JPG_and_leaves_the_ungradable_without_a_grade(messidor2, labels_of):
    manifest = Messidor2(messidor2).index()
    assert manifest.paths[2:] == ["IMAGES/IM000001.JPG", "IMAGES/IM000002.JPG"]
    assert manifest.splits == [""] * 4
    labels = list(labels_of(manifest).values())
    readable = {"is_fundus": 1, "is_retinal_region_readable": 1}
    assert labels == [
        {"dr_grade": 0, "is_dme": 0, "eye_side": 1, **readable},
        {"dr_grade": 2, "is_dme": 1, "eye_side": 0, **readable},
        {"is_fundus": 1, "is_retinal_region_readable": 0, "eye_side": 0},
        {"dr_grade": 4, "is_dme": 0, "eye_side": 1, **readable},
    ]


def test_messidor2_names_the_row_of_a_bad_cell(messidor2):
    table = messidor2 / "messidor_data.csv"
    table.write_text(table.read_text().replace("IM000002.jpg,4", "IM000002.jpg,5"))
    with refuses(ManifestError, "messidor_data.csv", "row 5", "'adjudicated_dr_grade'", "'5'"):
        Messidor2(messidor2).index()


def test_messidor2_never_grades_what_is_ungradable(messidor2, labels_of):
    table = messidor2 / "messidor_data.csv"
    table.write_text(table.read_text().replace("IM000001.jpg,,,0", "IM000001.jpg,0.0,0.0,0.0"))
    assert "dr_grade" not in labels_of(Messidor2(messidor2).index())["IM000001.jpg"]


def test_messidor2_pairs_the_eyes_of_a_person(messidor2, caplog):
    patients = Messidor2(messidor2).index().patients
    assert patients[0] == patients[1] != patients[2] == patients[3]
    assert "its own patient" not in caplog.text
    (messidor2 / "messidor-2.csv").unlink()
    assert Messidor2(messidor2).index().num_patients == 4
    assert "there is no messidor-2.csv, which tells which two photographs are of one person" in caplog.text
    assert "every image counts as its own patient" in caplog.text


# -- IDRiD


def test_idrid_reads_the_column_whose_name_ends_in_a_space(idrid, labels_of):
    manifest = IDRiD(idrid).index()
    assert manifest.splits == ["train", "train", "test", "test"]
    assert labels_of(manifest) == {
        "train/IDRiD_001": {"dr_grade": 3, "is_dme": 1, "is_fundus": 1},
        "train/IDRiD_002": {"dr_grade": 0, "is_dme": 0, "is_fundus": 1},
        "test/IDRiD_001": {"dr_grade": 4, "is_fundus": 1},  # exudates far from the macula: neither
        "test/IDRiD_002": {"dr_grade": 2, "is_dme": 1, "is_fundus": 1},
    }


@pytest.mark.parametrize(
    ("cell", "column"), [("IDRiD_002,5,2", "Retinopathy grade"), ("IDRiD_002,2,3", "Risk of macu")]
)
def test_idrid_names_the_table_and_the_row_in_it_that_has_a_bad_cell(idrid, cell, column):
    table = idrid / "B. Disease Grading" / "2. Groundtruths" / "b. IDRiD_Disease Grading_Testing Labels.csv"
    table.write_text(table.read_text().replace("IDRiD_002,2,2", cell))
    with refuses(ManifestError, "b. IDRiD_Disease Grading_Testing Labels.csv", "row 3", f"'{column}"):
        IDRiD(idrid).index()


def test_idrid_without_the_outer_folder(idrid):
    paths = IDRiD(idrid / "B. Disease Grading").index().paths
    assert paths[2] == "1. Original Images/b. Testing Set/IDRiD_001.jpg"


# -- JSIEC


def test_jsiec_says_nothing_of_what_a_folder_does_not_name(jsiec, labels_of):
    manifest = JSIEC(jsiec).index()
    labels = labels_of(manifest)
    normal = labels.pop("0.0.Normal/a")
    assert {name: level for name, level in normal.items() if level} == {"is_fundus": 1}
    assert len(normal) == 12 and normal["dr_grade"] == normal["is_gc"] == 0
    told = {name: {f: level for f, level in known.items() if f != "is_fundus"} for name, known in labels.items()}
    assert all(known["is_fundus"] == 1 for known in labels.values())
    assert told == {
        "0.3.DR1/a": {},
        "2.0.BRVO/a": {"is_rvo": 1},
        "2.1.CRVO/a": {"is_rvo": 1},
        "7.ERM/a": {"is_em": 1},
        "9.Pathological myopia/a": {"is_pm": 1},
        "10.0.Possible glaucoma/a": {},
        "10.1.Optic atrophy/a": {"is_aon": 1},
        "29.1.Blur fundus with suspected PDR/a": {},
        "17.Something new/a": {},
    }


def test_jsiec_prints_its_rules():
    rule = next(rule for rule in JSIEC.rules if rule.finding == "is_rvo")
    assert list(rule.lines()) == [
        ("folder `0.0.Normal`", "0"),
        ("folder `2.0.BRVO`", "1"),
        ("folder `2.1.CRVO`", "1"),
    ]
    assert rule.columns == ("folder",)


# -- Retina


def test_retina_kaggle_tells_only_glaucoma(retina_kaggle, labels_of):
    assert labels_of(RetinaKaggle(retina_kaggle).index()) == {
        "normal/NL_001": {"is_fundus": 1, "is_gc": 0},
        "cataract/cataract_001": {"is_fundus": 1},
        "glaucoma/Glaucoma_001": {"is_fundus": 1, "is_gc": 1},
        "retina_disease/Retina_001": {"is_fundus": 1},
    }


def test_retina_kaggle_goes_by_the_end_of_a_folders_name(retina_kaggle, labels_of):
    before = labels_of(RetinaKaggle(retina_kaggle).index())
    (retina_kaggle / "dataset" / "3_glaucoma").rename(retina_kaggle / "dataset" / "2_glaucoma")
    (retina_kaggle / "dataset" / "4_retina_disease").rename(retina_kaggle / "dataset" / "3_retina_disease")
    assert labels_of(RetinaKaggle(retina_kaggle / "dataset").index()) == before
