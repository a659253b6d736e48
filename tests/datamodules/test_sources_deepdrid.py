"""DeepDRiD on a miniature: eyes, scores of quality, and a workbook for the test images."""

import openpyxl
import pytest
from dr_miniatures import HEADER, write
from refusals import refuses

from datamodules.manifest import ManifestError
from datamodules.sources.deepdrid import DeepDRiD
from datamodules.sources.public import LayoutError


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
    with refuses(ManifestError, "validation.csv", "row 2", "'Artifact'", f"'{score}'", "0 to 10"):
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
    with refuses(LayoutError, "training.csv", "row 4", "left_eye_DR_Level", "right_eye_DR_Level"):
        DeepDRiD(deepdrid).index()


def test_deepdrid_names_a_column_that_the_workbook_lacks(deepdrid):
    book = openpyxl.Workbook()
    book.active.append(("image_id", "Grade"))
    book.save(deepdrid / "regular_fundus_images" / "Online-Challenge1&2-Evaluation" / "Challenge1_labels.xlsx")
    with refuses(LayoutError, "Challenge1_labels.xlsx", "'DR_Levels'", "image_id, Grade"):
        DeepDRiD(deepdrid).index()


def test_deepdrid_names_the_row_of_the_workbook(deepdrid):
    book = openpyxl.Workbook()
    for row in (("image_id", "DR_Levels"), ("347_l1", 0), (None, None), ("347_r1", 5)):
        book.active.append(row)
    book.save(deepdrid / "regular_fundus_images" / "Online-Challenge1&2-Evaluation" / "Challenge1_labels.xlsx")
    with refuses(ManifestError, "Challenge1_labels.xlsx", "row 4", "'grade'", "'5'"):
        DeepDRiD(deepdrid).index()
