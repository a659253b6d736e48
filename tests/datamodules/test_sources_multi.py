"""Readers of sets of several diseases and of image quality, on miniatures in the real layouts."""

import logging

import openpyxl
import pyarrow as pa
import pytest

from datamodules.manifest import ManifestError
from datamodules.sources.brset import BRSET
from datamodules.sources.cautious import IfReadable, Narrower, Score, Scored, Unless, UnlessAll
from datamodules.sources.eyepacs import EyePACS
from datamodules.sources.eyeq import EyeQ
from datamodules.sources.harmonise import YES_NO, Levels, harmonise
from datamodules.sources.mbrset import MBRSET
from datamodules.sources.odir5k import ODIR5K
from datamodules.sources.public import LayoutError
from datamodules.sources.rfmid import RFMiD
from datamodules.splits import split_by_patient

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
SOURCES = {"odir5k": ODIR5K, "rfmid": RFMiD, "brset": BRSET, "mbrset": MBRSET, "eyeq": EyeQ}


@pytest.fixture
def save_all(tmp_path, save_small):
    """`save_all(*names)` draws photographs below the test's root, with junk beside the first, and gives the root."""

    def save(*names):
        for name in names:
            save_small(tmp_path / name)
        beside = (tmp_path / names[0]).parent
        (beside / "__MACOSX").mkdir()
        for junk in ("Thumbs.db", "._hidden.jpg", "__MACOSX/._a.jpg"):
            (beside / junk).write_text("")
        return tmp_path

    return save


def write(path, *lines, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding=encoding)


# -- rules


def test_what_is_narrower_than_our_finding_is_absent_only_where_nothing_hints_at_it():
    rule = Narrower("is_amd", ("amd",), ("drusen",))
    table = pa.table({"amd": ["1", "1", "0", "0", "", "0"], "drusen": ["0", "1", "0", "1", "0", ""]})
    assert harmonise([rule], table, "t")["is_amd"].to_pylist() == [1, 1, 0, -1, -1, -1]
    assert list(rule.lines())[1] == ("all of `amd`, `drusen` = 0", "0")


def test_an_exception_makes_unknown_what_the_rule_says():
    rule = Unless(Levels("is_amd", "amd", YES_NO), "quality", "2")
    table = pa.table({"amd": ["1", "1", "0", "0"], "quality": ["0", "2", "2.0", ""]})
    assert harmonise([rule], table, "t")["is_amd"].to_pylist() == [1, -1, -1, 0]
    assert rule.columns == ("amd", "quality") and list(rule.lines())[-1] == ("`quality` = 2", "unknown")


def test_an_exception_of_two_columns_needs_both():
    rule = UnlessAll(Levels("is_dme", "oedema", YES_NO), {"dr": "0", "oedema": "1"})
    table = pa.table({"oedema": ["1", "1", "0", "1", ""], "dr": ["0.0", "2", "0", "", "0"]})
    assert harmonise([rule], table, "t")["is_dme"].to_pylist() == [-1, 1, 0, 1, -1]
    assert list(rule.lines())[-1] == ("`dr` = 0 and `oedema` = 1", "unknown")
    assert rule.columns == ("oedema", "dr", "oedema")


def test_scores_are_good_or_bad_from_a_bound_on_and_between_them_nothing():
    rule = Scored("is_fundus", (Score("up", good=6, bad=4), Score("down", good=2, bad=3)))
    rows = {("6", "2"): 1, ("10", "0"): 1, ("4", "0"): 0, ("10", "3"): 0, ("5", "2"): -1, ("", "2"): -1, ("", "3"): 0}
    table = pa.table(dict(zip(("up", "down"), zip(*rows, strict=True), strict=True)))
    assert harmonise([rule], table, "t")["is_fundus"].to_pylist() == list(rows.values())
    with pytest.raises(ManifestError, match="t, row 3, column 'down': '12' is no score"):
        harmonise([rule], pa.table({"up": ["6", "6"], "down": ["2", "12"]}), "t")


def test_nothing_is_said_of_what_cannot_be_seen():
    rule = IfReadable(Levels("is_amd", "amd", YES_NO), Levels("is_fundus", "seen", YES_NO))
    table = pa.table({"amd": ["1", "1", "0", "1"], "seen": ["1", "0", "0", ""]})
    assert harmonise([rule], table, "t")["is_amd"].to_pylist() == [1, -1, -1, 1]
    assert list(rule.lines())[-1] == ("`seen` = 0", "unknown") and rule.columns == ("amd", "seen")


# -- ODIR-5K

ODIR_COLUMNS = (
    "ID,Patient Age,Patient Sex,Left-Fundus,Right-Fundus,Left-Diagnostic Keywords,Right-Diagnostic Keywords,"
    "N,D,G,C,A,H,M,O"
)
ODIR_PATIENTS = (  # of the two eyes of patient 0, only the left has a disease
    "0,69,Female,0_left.jpg,0_right.jpg,glaucoma,normal fundus,0,0,1,0,0,0,0,0",
    "1,57,Male,1_left.jpg,1_right.jpg,moderate non proliferative retinopathy，hypertensive retinopathy,"
    "normal fundus，lens dust,0,1,0,0,0,1,0,0",
    "2,60,Male,2_left.jpg,2_right.jpg,dry age-related macular degeneration，pathological myopia,"
    "suspected glaucoma，normal fundus,0,0,0,0,1,0,1,1",
    "3,60,Male,3_left.jpg,3_right.jpg,anterior segment image,normal fundus,0,0,0,0,0,0,0,1",
)
NORMAL = {"dr_grade": 0, "is_amd": 0, "is_gc": 0, "is_htr": 0, "is_pm": 0, "is_fundus": 1}
RIGHT, LEFT = {"eye_side": 0}, {"eye_side": 1}


@pytest.fixture
def odir_images(save_all):
    folder = "ODIR-5K/ODIR-5K/Training Images"
    root = save_all(*(f"{folder}/{number}_{eye}.jpg" for number in range(4) for eye in ("left", "right")))
    (root / "ODIR-5K/ODIR-5K/Testing Images").mkdir()
    return root


@pytest.fixture
def odir5k(odir_images):
    letters = {0: "GN", 1: "HN", 2: "AG", 3: "ON"}
    rows = []
    for eye in (1, 0):  # right eyes first, as published
        for number, patient in enumerate(ODIR_PATIENTS):
            name = f"{number}_{('left', 'right')[eye]}.jpg"
            old = f"../input/ocular-disease-recognition-odir5k/ODIR-5K/Training Images/{name}"
            rows.append(f"{patient},{old},['{letters[number][eye]}'],\"[0, 0, 0, 0, 0, 0, 0, 0]\",{name}")
    write(odir_images / "full_df.csv", f"{ODIR_COLUMNS},filepath,labels,target,filename", *rows)
    return odir_images


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
    with pytest.raises(LayoutError, match=r"full_df.csv, row 4: filename '2_right.jpg'.*'X'.*kaggle.com"):
        ODIR5K(odir5k).index()


def test_odir5k_names_a_column_that_the_workbook_lacks(odir_images):
    book = openpyxl.Workbook()
    book.active.append(["ID", "Left-Fundus"])
    book.active.append([0, "0_left.jpg"])
    book.save(odir_images / "data.xlsx")
    with pytest.raises(LayoutError, match=r"data.xlsx has no column 'Right-Fundus'.*kaggle.com"):
        ODIR5K(odir_images).index()


# -- RFMiD

RFMID_COLUMNS = (
    "ID,Disease_Risk,DR,ARMD,MH,DN,MYA,BRVO,TSLN,ERM,LS,MS,CSR,ODC,CRVO,TV,AH,ODP,ODE,ST,AION,PT,RT,RS,CRS,EDN,RPEC,"
    "MHL,RP,CWS,CB,ODPM,PRH,MNF,HR,CRAO,TD,CME,PTCR,CF,VH,MCA,VS,BRAO,PLQ,HPED,CL"
)
RFMID_NOTHING = {
    "dr_grade": 0, "is_amd": 0, "is_aon": 0, "is_dm": 0, "is_em": 0, "is_pm": 0, "is_rvo": 0, "is_fundus": 1
}  # fmt: skip


def rfmid_table(path, *positives):
    """One row a tuple of positive columns; IDs from 1."""
    columns = RFMID_COLUMNS.split(",")
    rows = [RFMID_COLUMNS]
    for number, names in enumerate(positives, start=1):
        assert set(names) <= set(columns)
        rows.append(",".join([str(number), *(str(int(name in names)) for name in columns[1:])]))
    write(path, *rows)


@pytest.fixture
def rfmid(save_all):
    folders = {"a. Training Set": 4, "b. Validation Set": 2, "c. Testing Set": 6}
    root = save_all(*(f"1. Original Images/{f}/{n}.png" for f, number in folders.items() for n in range(1, number + 1)))
    truth = root / "2. Groundtruths"
    rfmid_table(truth / "a. RFMiD_Training_Labels.csv", (), ("DR", "MH"), ("MHL", "ARMD"), ("BRVO", "TSLN"))
    rfmid_table(truth / "b. RFMiD_Validation_Labels.csv", ("CRVO", "MYA"), ("DN",))
    rfmid_table(truth / "c. RFMiD_Testing_Labels.csv", ("MH",), ("MHL",), ("ODP", "ERM"), ("TD",), ("CRS",), ("HR",))
    return root


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


# -- BRSET

BRSET_COLUMNS = (
    "image_id,patient_id,camera,patient_age,comorbidities,diabetes_time_y,insuline,patient_sex,exam_eye,diabetes,"
    "nationality,optic_disc,vessels,macula,DR_SDRG,DR_ICDR,focus,iluminaton,image_field,artifacts,"
    "diabetic_retinopathy,macular_edema,scar,nevus,amd,vascular_occlusion,hypertensive_retinopathy,drusens,"
    "hemorrhage,retinal_detachment,myopic_fundus,increased_cup_disc,other,quality"
)
BRSET_NORMAL = {
    "dr_grade": 0, "is_amd": 0, "is_aon": 0, "is_dm": 0, "is_dme": 0, "is_htr": 0, "is_pm": 0, "is_rvo": 0,
    "is_fundus": 1, "is_retinal_region_readable": 1,
}  # fmt: skip


def brset_row(number, patient, eye, **cells):
    columns = BRSET_COLUMNS.split(",")
    usual = {name: "0" for name in columns[14:]} | {"camera": "Canon CR", "nationality": "Brazil"}
    usual |= dict.fromkeys(("optic_disc", "vessels", "macula", "focus", "iluminaton", "image_field", "artifacts"), "1")
    usual |= {"image_id": f"img{number:05d}", "patient_id": patient, "exam_eye": eye, "quality": "Adequate", **cells}
    assert set(usual) <= set(columns)
    return ",".join(usual.get(name, "") for name in columns)


@pytest.fixture
def brset(save_all):
    root = save_all(*(f"fundus_photos/img{number:05d}.jpg" for number in range(1, 9)))
    write(
        root / "labels.csv",
        BRSET_COLUMNS,
        brset_row(1, "1", "1"),
        brset_row(2, "1", "2", DR_ICDR="4", macular_edema="1", optic_disc="2", increased_cup_disc="1"),
        brset_row(
            3, "2", "1", quality="Inadequate", DR_ICDR="2", macular_edema="1", amd="1", hypertensive_retinopathy="1"
        ),
        brset_row(4, "2", "2", vascular_occlusion="1", myopic_fundus="1", hypertensive_retinopathy="1"),
        brset_row(5, "3", "2", drusens="1", optic_disc="bv"),
        brset_row(6, "3", "1", drusens="1", amd="1"),
        brset_row(7, "4", "1", quality="Inadequate"),
        brset_row(8, "4", "2", macular_edema="1"),
        encoding="utf-8-sig",
    )
    return root


def test_brset_labels_patients_and_eyes(brset, labels_of):
    manifest = BRSET(brset).index()
    assert manifest.patients == ["1", "1", "2", "2", "3", "3", "4", "4"] and set(manifest.splits) == {""}
    labels = labels_of(manifest)
    assert labels["img00001"] == {**BRSET_NORMAL, **RIGHT}
    expected = {**BRSET_NORMAL, "dr_grade": 4, "is_dme": 1, **LEFT}
    del expected["is_aon"]
    assert labels["img00002"] == expected
    assert labels["img00006"] == {**BRSET_NORMAL, "is_amd": 1, **RIGHT}


@pytest.mark.parametrize("name", ["img00003", "img00007"])
def test_brset_images_of_inadequate_quality_tell_of_no_disease_and_of_no_absence(brset, labels_of, name):
    labels = labels_of(BRSET(brset).index())[name]
    assert labels == {"is_fundus": 1, "is_retinal_region_readable": 0, **RIGHT}


def test_brset_oedema_without_retinopathy_is_unknown(brset, labels_of):
    labels = labels_of(BRSET(brset).index())
    assert set(BRSET_NORMAL) - set(labels["img00008"]) == {"is_dme"} and labels["img00008"]["dr_grade"] == 0
    assert labels["img00002"]["is_dme"] == 1 and labels["img00001"]["is_dme"] == 0


def test_brset_labels_that_are_wider_than_our_findings_are_unknown(brset, labels_of):
    labels = labels_of(BRSET(brset).index())
    assert set(BRSET_NORMAL) - set(labels["img00004"]) == {"is_rvo", "is_dm", "is_pm"}
    assert labels["img00004"]["is_htr"] == 1
    assert set(BRSET_NORMAL) - set(labels["img00005"]) == {"is_amd", "is_aon"}


# -- mBRSET

MBRSET_COLUMNS = (
    "patient,age,sex,dm_time,insulin,insulin_time,oraltreatment_dm,systemic_hypertension,insurance,educational_level,"
    "alcohol_consumption,smoking,obesity,vascular_disease,acute_myocardial_infarction,nephropathy,neuropathy,"
    "diabetic_foot,file,laterality,final_artifacts,final_quality,final_icdr,final_edema"
)


@pytest.fixture
def mbrset(save_all):
    names = ("1.1", "1.2", "1.3", "1.10", "11.1", "11.2")
    root = save_all(*(f"images/{name}.jpg" for name in names))
    ends = ("right,yes,yes,4,no", "right,no,yes,0,yes", "left,yes,no,,", "left,no,no,3,no", "left,no,yes,,no",
            "right,yes,yes,2.0,no")  # fmt: skip
    start = ",58,1,15,1,,1,1,0,3,1,0,0,0,1,1,0,0,"
    rows = [f"{name.split('.')[0]}{start}{name}.jpg,{end}" for name, end in zip(names, ends, strict=True)]
    write(root / "labels_mbrset.csv", MBRSET_COLUMNS, *rows)
    return root


def test_mbrset_labels_and_eyes(mbrset, labels_of):
    manifest = MBRSET(mbrset).index()
    assert manifest.patients == ["1"] * 4 + ["11"] * 2
    labels = labels_of(manifest)
    good = {"is_fundus": 1, "is_retinal_region_readable": 1}
    assert labels["1.1"] == {"dr_grade": 4, "is_dme": 0, **good, **RIGHT}
    assert labels["1.2"] == {"dr_grade": 0, "is_dme": 1, **good, **RIGHT}
    assert labels["1.3"] == {"is_fundus": 1, "is_retinal_region_readable": 0, **LEFT}
    assert labels["1.10"] == {"is_fundus": 1, "is_retinal_region_readable": 0, **LEFT}
    assert labels["11.1"] == {"is_dme": 0, **good, **LEFT}
    assert labels["11.2"]["dr_grade"] == 2


def test_mbrset_names_keep_the_dot_within_them(mbrset):
    manifest = MBRSET(mbrset).index()
    assert manifest.ids == ["1.1", "1.2", "1.3", "1.10", "11.1", "11.2"]
    assert manifest.paths == [f"images/{name}.jpg" for name in manifest.ids]


def test_mbrset_with_the_table_of_the_authors_repository(mbrset):
    (mbrset / "labels_mbrset.csv").rename(mbrset / "dataframe_brsetmobile.csv")
    assert len(MBRSET(mbrset).index()) == 6


# -- EyeQ


@pytest.fixture
def eyeq(save_all):
    root = save_all("train/10_left.jpeg", "train/10_right.jpeg", "train/13_left.jpeg", "train/15_left.jpeg",
                    "test/1_left.jpeg", "test/1_right.jpeg")  # fmt: skip
    write(root / "Label_EyeQ_train.csv", ",image,quality,DR_grade", "0,10_left.jpeg,0,2", "1,10_right.jpeg,1,0",
          "2,13_left.jpeg,2,4")  # fmt: skip
    write(root / "Label_EyeQ_test.csv", ",image,quality,DR_grade", "0,1_left.jpeg,0,0", "1,1_right.jpeg,2,0")
    return root


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
    with pytest.raises(LayoutError, match=r"Label_EyeQ_test.csv, row 3: image 'IMG7.jpeg'.*github.com/HzFu/EyeQ"):
        EyeQ(eyeq).index()


# -- all


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


@pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
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


@pytest.mark.parametrize("name", SOURCES)
def test_images_are_read_and_everything_is_stated(name, request):
    source = SOURCES[name](request.getfixturevalue(name))
    assert source.read(source.index().paths[0], 16).shape == (16, 16, 3)
    assert source.name == name
    assert all((source.title, source.licence, source.address, source.layout, source.trap, source.published))
    assert all(list(rule.lines()) for rule in source.rules)


def test_a_cell_that_a_set_does_not_define_is_named(brset):
    table = brset / "labels.csv"
    table.write_text(table.read_text(encoding="utf-8-sig").replace("bv", "bw"), encoding="utf-8")
    with pytest.raises(ManifestError, match="labels.csv, row 6, column 'optic_disc': 'bw' is not a label of this data"):
        BRSET(brset).index()
