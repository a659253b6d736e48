"""BRSET and mBRSET on miniatures in the real layouts."""

import pytest
from multi_miniatures import LEFT, RIGHT
from refusals import refuses

from datamodules.manifest import ManifestError
from datamodules.sources.brset import BRSET
from datamodules.sources.mbrset import MBRSET

# -- BRSET

BRSET_NORMAL = {
    "dr_grade": 0, "is_amd": 0, "is_aon": 0, "is_dm": 0, "is_dme": 0, "is_htr": 0, "is_pm": 0, "is_rvo": 0,
    "is_fundus": 1, "is_retinal_region_readable": 1,
}  # fmt: skip


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


def test_a_cell_that_a_set_does_not_define_is_named(brset):
    table = brset / "labels.csv"
    table.write_text(table.read_text(encoding="utf-8-sig").replace("bv", "bw"), encoding="utf-8")
    with refuses(ManifestError, "labels.csv", "row 6", "'optic_disc'", "'bw'", "'bv'"):
        BRSET(brset).index()


# -- mBRSET


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
