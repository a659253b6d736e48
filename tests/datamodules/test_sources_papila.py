"""PAPILA on miniatures: workbooks with different headers, and outlines of the disc and the cup."""

import pytest
from glaucoma_miniatures import glaucoma, masks_of, save_workbook
from refusals import refuses

from datamodules.manifest import ManifestError
from datamodules.sources.papila import PAPILA
from datamodules.sources.public import LayoutError

HEADERS = {
    "three rows": None,
    "the id's name in the second": [[None, "Age", "Gender", "Diagnosis"], ["ID", None, None, None, "dioptre_1"]],
    "saved by pandas": [["Unnamed: 0", "Age", "Gender", "Diagnosis"], [None, None, None, None, "dioptre_1"], ["ID"]],
    "one row": [["ID", "Age", "Gender", "Diagnosis"]],
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_papila_suspects_are_unknown_whatever_the_header_rows(made, labels_of, header):
    manifest = PAPILA(made(PAPILA, header=header)).index()
    labels = labels_of(manifest)
    assert glaucoma(labels) == {
        "RET002OD": 0, "RET004OD": 1, "RET015OD": None, "RET002OS": 0, "RET004OS": None, "RET015OS": 1
    }  # fmt: skip
    assert labels["RET015OD"] == {"eye_side": 0, "is_fundus": 1}
    assert labels["RET015OS"] == {"eye_side": 1, "is_gc": 1, "is_fundus": 1}
    assert manifest.patients == ["002", "004", "015"] * 2


def test_papila_takes_the_first_expert_and_no_mask_where_an_outline_is_not_there(made):
    root = made(PAPILA)
    (root / "ExpertsSegmentations" / "Contours" / "RET002OD_cup_exp1.txt").unlink()
    contours = "ExpertsSegmentations/Contours/RET004OD"
    assert masks_of(PAPILA(root).index())[:2] == ["", f"{contours}_disc_exp1.txt|{contours}_cup_exp1.txt"]


@pytest.mark.parametrize("text", ["no numbers", "1 2 3\n4 5 6\n7 8 9\n", "1 2\n3 4\n", "1 2\n3 4\n5 400\n"])
def test_papila_names_an_outline_that_does_not_fit_its_photograph(made, save_photograph, text):
    reader = PAPILA(made(PAPILA, save=save_photograph))
    manifest = reader.index()
    mask = masks_of(manifest)[0]
    (reader.root / mask.split("|")[0]).write_text(text)
    with refuses(ManifestError, "RET002OD_disc_exp1.txt"):
        reader.read_mask(manifest.paths[0], mask, 64)


@pytest.mark.parametrize(("header", "row"), list(zip(HEADERS.values(), (5, 4, 5, 3), strict=True)), ids=HEADERS)
def test_papila_names_the_row_of_the_workbook(made, header, row):
    root = made(PAPILA, header=header)
    (root / "FundusImages" / "RET004OS.jpg").unlink()
    with refuses(LayoutError, "ClinicalData/patient_data_os.xlsx", f"row {row}", "'RET004OS'"):
        PAPILA(root).index()


def test_papila_without_the_columns_or_without_patients(made):
    root = made(PAPILA, header=[[None, "Age", "Gender", "Diagnosis"], [None] * 3, ["number"]])
    with refuses(LayoutError, "patient_data_od.xlsx", "'ID'", "'Diagnosis'", "figshare"):
        PAPILA(root).index()
    header = [["ID", "Age", "Gender", "Diagnosis"], ["years"], ["units"]]
    save_workbook(root / "ClinicalData" / "patient_data_od.xlsx", header)
    with refuses(LayoutError, "patient_data_od.xlsx", "#002"):
        PAPILA(root).index()
