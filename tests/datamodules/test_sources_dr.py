"""Readers of sets of diabetic retinopathy and of two sets of classes in folders, on miniatures in the real layouts."""

import logging

import numpy as np
import openpyxl
import pytest
from PIL import Image

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
from datamodules.sources.union import UnionSource
from datamodules.splits import split_by_patient

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
SOURCES = (EyePACS, Messidor2, IDRiD, DDR, DDRSegmentation, DeepDRiD, JSIEC, RetinaKaggle)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def save_all(tmp_path, save_small):
    """`save_all(*names)` draws photographs below the test's root, with junk beside the first, and gives the root."""

    def save(*names):
        for name in names:
            save_small(tmp_path / name)
        beside = (tmp_path / names[0]).parent
        write(beside / "Thumbs.db", "")
        write(beside / "._hidden.jpg", "")
        write(beside / "__MACOSX" / "._a.jpg", "")
        return tmp_path

    return save


# -- EyePACS


@pytest.fixture
def eyepacs(save_all):
    root = save_all("train/10_left.jpeg", "train/10_right.jpeg", "train/13_left.jpeg", "test/1_left.jpeg",
                    "test/1_right.jpeg")  # fmt: skip
    write(root / "trainLabels.csv", "image,level\n10_left,0\n10_right,4\n13_left,1\n")
    write(root / "retinopathy_solution.csv", "image,level,Usage\n1_left,2,Private\n1_right,0,Public\n")
    return root


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
    with pytest.raises(
        LayoutError, match="trainLabels.csv, row 3: image '13' is not named <patient>_left or <patient>_r"
    ):
        EyePACS(eyepacs).index()


# -- Messidor-2


@pytest.fixture
def messidor2(save_all):
    root = save_all("IMAGES/20051020_43808_0100_PP.png", "IMAGES/20051020_43832_0100_PP.png", "IMAGES/IM000001.JPG",
                    "IMAGES/IM000002.JPG")  # fmt: skip
    write(
        root / "messidor_data.csv",
        "image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable\n"
        "20051020_43808_0100_PP.png,0,0,1\n20051020_43832_0100_PP.png,2,1,1\n"
        "IM000001.jpg,,,0\nIM000002.jpg,4,0,1\n",
    )
    write(
        root / "messidor-2.csv",
        "left;right\n20051020_43808_0100_PP.png;20051020_43832_0100_PP.png\nIM000002.JPG;IM000001.JPG\n",
    )
    return root


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
    with pytest.raises(ManifestError, match="messidor_data.csv, row 5, column 'adjudicated_dr_grade': '5' is not"):
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


@pytest.fixture
def idrid(save_all):
    images = "B. Disease Grading/1. Original Images"
    root = save_all(f"{images}/a. Training Set/IDRiD_001.jpg", f"{images}/a. Training Set/IDRiD_002.jpg",
                    f"{images}/b. Testing Set/IDRiD_001.jpg", f"{images}/b. Testing Set/IDRiD_002.jpg")  # fmt: skip
    truth = root / "B. Disease Grading" / "2. Groundtruths"
    write(
        truth / "a. IDRiD_Disease Grading_Training Labels.csv",
        "Image name,Retinopathy grade,Risk of macular edema ,,,,,\nIDRiD_001,3,2,,,,,\nIDRiD_002,0,0,,,,,\n,,,,,,,\n",
    )
    write(
        truth / "b. IDRiD_Disease Grading_Testing Labels.csv",
        "Image name,Retinopathy grade,Risk of macular edema \nIDRiD_001,4,1\nIDRiD_002,2,2\n",
    )
    return root


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
    with pytest.raises(ManifestError, match=f"b. IDRiD_Disease Grading_Testing Labels.csv, row 3, column '{column}"):
        IDRiD(idrid).index()


def test_idrid_without_the_outer_folder(idrid):
    paths = IDRiD(idrid / "B. Disease Grading").index().paths
    assert paths[2] == "1. Original Images/b. Testing Set/IDRiD_001.jpg"


# -- DDR


@pytest.fixture
def ddr(save_all):
    names = ("train/007-0004-000", "train/007-0007-000", "valid/007-0025-000", "test/20170323173213125")
    root = save_all(*(f"DR_grading/{name}.jpg" for name in names))
    write(root / "DR_grading" / "train.txt", "007-0004-000.jpg 0\n007-0007-000.jpg 5\n")
    write(root / "DR_grading" / "valid.txt", "\ufeff007-0025-000.jpg 2\n\n")
    write(root / "DR_grading" / "test.txt", "20170323173213125.jpg 4")
    return root


def test_ddr_takes_label_5_for_ungradable(ddr, labels_of):
    manifest = DDR(ddr).index()
    assert manifest.splits == ["train", "train", "val", "test"]
    assert labels_of(manifest) == {
        "train/007-0004-000": {"dr_grade": 0, "is_fundus": 1, "is_retinal_region_readable": 1},
        "train/007-0007-000": {"is_fundus": 1, "is_retinal_region_readable": 0},
        "valid/007-0025-000": {"dr_grade": 2, "is_fundus": 1, "is_retinal_region_readable": 1},
        "test/20170323173213125": {"dr_grade": 4, "is_fundus": 1, "is_retinal_region_readable": 1},
    }
    assert DDR(ddr / "DR_grading").index().paths[0] == "train/007-0004-000.jpg"


def test_ddr_refuses_a_line_that_is_no_name_and_label(ddr):
    write(ddr / "DR_grading" / "valid.txt", "\n007-0025-000.jpg\n")
    with pytest.raises(LayoutError, match="valid.txt, row 2: '007-0025-000.jpg' is not a name and a label"):
        DDR(ddr).index()


def test_ddr_refuses_a_label_that_is_not_its(ddr):
    write(ddr / "DR_grading" / "valid.txt", "\n\n007-0025-000.jpg 6\n")
    with pytest.raises(ManifestError, match="DR_grading/valid.txt, row 3, column 'label': '6' is not a label of this"):
        DDR(ddr).index()


def test_ddr_names_the_line_of_a_photograph_that_is_not_there(ddr):
    write(ddr / "DR_grading" / "valid.txt", "007-0025-000.jpg 2\n\n007-0026-000.jpg 2\n")
    with pytest.raises(LayoutError, match="DR_grading/valid.txt, row 3: there is no image '007-0026-000.jpg'"):
        DDR(ddr).index()


@pytest.fixture
def ddr_segmentation(tmp_path, save_photograph):
    """One photograph of 300 x 200 a split; lesions in the left half, the soft exudate above the haemorrhage."""
    boxes = {"EX": (0, 0), "HE": (80, 110), "MA": (0, 0), "SE": (100, 140)}
    folders = {"train": "label", "valid": "segmentation label", "test": "label"}
    for split, folder in folders.items():
        base = tmp_path / "lesion_segmentation" / split
        save_photograph(base / "image" / f"007-{split}-100.jpg", width=300, height=200, radius=90)
        for lesion, (start, stop) in boxes.items():
            mask = np.zeros((200, 300), np.uint8)
            mask[start:stop, 100:140] = 255
            (base / folder / lesion).mkdir(parents=True)
            Image.fromarray(mask).save(base / folder / lesion / f"007-{split}-100.tif")
    write(tmp_path / "lesion_segmentation" / "valid" / "label" / "007-valid-100.xml", "<annotation/>")
    return tmp_path


def test_ddr_segmentation_finds_the_masks_of_the_validation_split(ddr_segmentation):
    manifest = DDRSegmentation(ddr_segmentation).index()
    assert manifest.ids == ["train/007-train-100", "valid/007-valid-100", "test/007-test-100"]
    assert manifest.splits == ["train", "val", "test"]
    masks = manifest.table.column("mask").to_pylist()
    base = "lesion_segmentation/valid/segmentation label"
    assert masks[1] == "|".join(f"{base}/{lesion}/007-valid-100.tif" for lesion in ("EX", "HE", "MA", "SE"))
    assert [mask.count("|") for mask in masks] == [3, 3, 3]


def test_ddr_segmentation_tells_the_lesion_from_the_folder(ddr_segmentation):
    source = DDRSegmentation(ddr_segmentation / "lesion_segmentation")
    manifest = source.index()
    levels = source.read_mask(manifest.paths[0], manifest.table.column("mask").to_pylist()[0], 180)
    assert [source.mask_levels[level] for level in np.unique(levels)] == ["background", "haemorrhage", "soft exudate"]
    column = levels[:, 60]  # of the square that begins 60 pixels from the left of the photograph and 10 from the top
    assert set(column[74:86]) == {2} and set(column[94:126]) == {4}


@pytest.mark.parametrize("lesion", ["EX", "HE", "MA", "SE"])
def test_ddr_segmentation_takes_no_lesion_without_a_file_for_absent(ddr_segmentation, lesion, caplog):
    there = ddr_segmentation / "lesion_segmentation" / "test" / "label" / lesion / "007-test-100.tif"
    there.rename(there.with_name("007-other-100.tif"))
    missing = f"'lesion_segmentation/test/image/007-test-100.jpg' has no mask of {lesion} \\(1 of 3.*data.partial=true"
    with pytest.raises(LayoutError, match=missing):
        DDRSegmentation(ddr_segmentation).index()
    masks = DDRSegmentation(ddr_segmentation, partial=True).index().table.column("mask").to_pylist()
    assert [mask.count("|") for mask in masks] == [3, 3, 0] and masks[2] == ""
    assert "1 of 3 images lack one of the four masks" in caplog.text


def test_a_photograph_of_both_sets_of_ddr_is_on_one_side_of_a_union(ddr, ddr_segmentation, save_photograph):
    """That of the lesions' test split is among the grades' training images; both sets name it after its file."""
    grades = ddr / "DR_grading"
    save_photograph(grades / "train" / "007-test-100.jpg")
    with (grades / "train.txt").open("a") as table:
        table.write("007-test-100.jpg 2\n")
    union = UnionSource({"ddr": DDR(ddr), "ddr_segmentation": DDRSegmentation(ddr_segmentation)})
    manifest = split_by_patient(union.index(), FRACTIONS, seed=0)
    split = dict(zip(manifest.ids, manifest.splits, strict=True))
    assert split["ddr/train/007-test-100"] == split["ddr_segmentation/test/007-test-100"] == "test"
    assert split["ddr/train/007-0004-000"] == "train" and split["ddr_segmentation/train/007-train-100"] == "train"
    assert len(manifest) == 8 and manifest.num_patients == 7
    assert DDR.patient_space == DDRSegmentation.patient_space == "ddr"


# -- DeepDRiD

HEADER = (
    "patient_id,image_id,image_path,Overall quality,left_eye_DR_Level,right_eye_DR_Level,patient_DR_Level,Clarity,"
    "Field definition,Artifact\n"
)


@pytest.fixture
def deepdrid(save_all):
    base = "regular_fundus_images"
    training, validation = f"{base}/regular-fundus-training", f"{base}/regular-fundus-validation"
    evaluation = f"{base}/Online-Challenge1&2-Evaluation"
    root = save_all(f"{training}/Images/56/56_l1.jpg", f"{training}/Images/56/56_r3.jpg",
                    f"{training}/Images/56/56_r2.jpg", f"{validation}/Images/265/265_l1.jpg",
                    f"{evaluation}/Images/347/347_l1.jpg", f"{evaluation}/Images/347/347_r1.jpg")  # fmt: skip
    write(
        root / training / "regular-fundus-training.csv",
        HEADER + "56,56_l1,\\regular-fundus-training\\56\\56_l1.jpg,0,1,,2,8,8,0\n"
        "56,56_r3,\\regular-fundus-training\\56\\56_r3.jpg,0,1,,2,4,8,1\n"
        "56,56_r2,\\regular-fundus-training\\56\\56_r2.jpg,1,,2,2,10,8,0\n",
    )
    write(
        root / validation / "regular-fundus-validation.csv",
        HEADER + "265,265_l1,\\regular-fundus-validation\\265\\265_l1.jpg,1,3,,4,4,8,10\n",
    )
    book = openpyxl.Workbook()
    for row in (("image_id", "DR_Levels"), ("347_l1", 0), ("347_r1", 4)):
        book.active.append(row)
    book.save(root / evaluation / "Challenge1_labels.xlsx")
    return root


def test_deepdrid_takes_the_eye_from_the_column_that_is_filled(deepdrid, labels_of):
    manifest = DeepDRiD(deepdrid).index()
    assert manifest.patients == ["56", "56", "56", "265", "347", "347"]
    assert manifest.splits == ["train"] * 3 + ["val"] + ["test"] * 2
    assert manifest.paths[1] == "regular_fundus_images/regular-fundus-training/Images/56/56_r3.jpg"
    assert labels_of(manifest) == {
        "56_l1": {"dr_grade": 1, "is_fundus": 1, "is_retinal_region_readable": 1, "eye_side": 1},
        "56_r3": {"is_fundus": 1, "is_retinal_region_readable": 0, "eye_side": 1},
        "56_r2": {"dr_grade": 2, "is_fundus": 1, "is_retinal_region_readable": 1, "eye_side": 0},
        "265_l1": {"is_fundus": 1, "is_retinal_region_readable": 0, "eye_side": 1},
        "347_l1": {"dr_grade": 0, "is_fundus": 1},
        "347_r1": {"dr_grade": 4, "is_fundus": 1},
    }
    assert len(DeepDRiD(deepdrid / "regular_fundus_images").index()) == 6


@pytest.mark.parametrize(
    ("clarity", "artifact", "readable"),
    [
        ("6", "6", 1), ("10", "0", 1), ("6.0", "1", 1),
        ("4", "0", 0), ("1", "6", 0), ("10", "8", 0), ("6", "10", 0), ("4", "8", 0), ("4", "", 0), ("", "8", 0),
        ("", "", None), ("", "0", None), ("10", "", None), ("5", "0", None), ("10", "7", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("overall", ["0", "1"])
def test_deepdrid_goes_by_the_photographs_own_scores(deepdrid, labels_of, clarity, artifact, readable, overall):
    table = deepdrid / "regular_fundus_images" / "regular-fundus-validation" / "regular-fundus-validation.csv"
    write(table, f"{HEADER}265,265_l1,x,{overall},3,,4,{clarity},8,{artifact}\n")
    known = labels_of(DeepDRiD(deepdrid).index())["265_l1"]
    assert known.get("is_retinal_region_readable") == readable
    assert known.get("dr_grade") == (None if readable == 0 else 3)


@pytest.mark.parametrize("score", ["11", "-1", "6.5", "good"])
def test_deepdrid_refuses_a_score_that_is_none(deepdrid, score):
    table = deepdrid / "regular_fundus_images" / "regular-fundus-validation" / "regular-fundus-validation.csv"
    write(table, f"{HEADER}265,265_l1,x,1,3,,4,8,8,{score}\n")
    with pytest.raises(
        ManifestError, match=f"validation.csv, row 2, column 'Artifact': '{score}' is no score.*0 to 10"
    ):
        DeepDRiD(deepdrid).index()


def test_deepdrid_prints_its_rules():
    grade, readable = (rule for rule in DeepDRiD.rules if rule.finding in ("dr_grade", "is_retinal_region_readable"))
    assert list(readable.lines()) == [
        ("`Clarity` ≥ 6 and `Artifact` ≤ 6", "1"),
        ("`Clarity` ≤ 4 or `Artifact` ≥ 8", "0"),
    ]
    assert list(grade.lines())[-2:] == [("`grade` = 4", "4"), ("`Clarity` ≤ 4 or `Artifact` ≥ 8", "unknown")]
    assert grade.columns == ("grade", "Clarity", "Artifact")


def test_deepdrid_refuses_a_row_with_the_grades_of_both_eyes(deepdrid):
    table = deepdrid / "regular_fundus_images" / "regular-fundus-training" / "regular-fundus-training.csv"
    table.write_text(table.read_text().replace("1,,2,2,10,8,0", "1,1,2,2,10,8,0"))
    with pytest.raises(
        LayoutError, match="training.csv, row 4: left_eye_DR_Level and right_eye_DR_Level are both filled"
    ):
        DeepDRiD(deepdrid).index()


def test_deepdrid_names_a_column_that_the_workbook_lacks(deepdrid):
    book = openpyxl.Workbook()
    book.active.append(("image_id", "Grade"))
    book.save(deepdrid / "regular_fundus_images" / "Online-Challenge1&2-Evaluation" / "Challenge1_labels.xlsx")
    missing = "Challenge1_labels.xlsx has no column 'DR_Levels'.*Its columns are: image_id, Grade"
    with pytest.raises(LayoutError, match=missing):
        DeepDRiD(deepdrid).index()


def test_deepdrid_names_the_row_of_the_workbook(deepdrid):
    book = openpyxl.Workbook()
    for row in (("image_id", "DR_Levels"), ("347_l1", 0), (None, None), ("347_r1", 5)):
        book.active.append(row)
    book.save(deepdrid / "regular_fundus_images" / "Online-Challenge1&2-Evaluation" / "Challenge1_labels.xlsx")
    with pytest.raises(ManifestError, match="Challenge1_labels.xlsx, row 4, column 'grade': '5'"):
        DeepDRiD(deepdrid).index()


# -- JSIEC


@pytest.fixture
def jsiec(save_all):
    folders = ("0.0.Normal", "0.3.DR1", "2.0.BRVO", "2.1.CRVO", "7.ERM", "9.Pathological myopia",
               "10.0.Possible glaucoma", "10.1.Optic atrophy", "29.1.Blur fundus with suspected PDR",
               "17.Something new")  # fmt: skip
    return save_all(*(f"{folder}/a.JPG" for folder in folders), "1000images/a.JPG")


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


@pytest.fixture
def retina_kaggle(save_all):
    return save_all("dataset/1_normal/NL_001.png", "dataset/2_cataract/cataract_001.png",
                    "dataset/3_glaucoma/Glaucoma_001.png", "dataset/4_retina_disease/Retina_001.png")  # fmt: skip


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
    people = PEOPLE.get(source, tuple((name,) for name in index.ids))
    assert sorted(name for person in people for name in person) == sorted(index.ids)
    assert index.num_patients == len(people)
    for seed in range(20):
        manifest = split_by_patient(index, FRACTIONS, seed)
        split = dict(zip(manifest.ids, manifest.splits, strict=True))
        assert all(len({split[name] for name in person}) == 1 for person in people)
        drawn = {("train", "val")} if "val" not in index.splits else set()  # validation is drawn from training
        moved = {(was, now) for was, now in zip(index.splits, manifest.splits, strict=True) if was and was != now}
        assert moved <= drawn


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_images_are_read(source, request):
    read = source(request.getfixturevalue(source.name))
    assert read.read(read.index().paths[0], 16).shape == (16, 16, 3)
    assert all((source.title, source.licence, source.address, source.layout, source.trap, source.published))
