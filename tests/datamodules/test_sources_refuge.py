"""REFUGE and its repack on miniatures: folders, classes, the index, and photographs that are in both."""

from pathlib import Path

import pytest
from glaucoma_miniatures import glaucoma, masks_of, refuge, refuge_repack, save_workbook
from refusals import refuses

from datamodules.manifest import ManifestError
from datamodules.sources.public import LayoutError
from datamodules.sources.refuge import REFUGE
from datamodules.sources.refuge_repack import RefugeRepack
from datamodules.sources.union import UnionSource

# -- REFUGE


def test_refuge_tells_classes_by_letter_and_by_table(made, labels_of):
    manifest = REFUGE(made(REFUGE)).index()
    assert glaucoma(labels_of(manifest)) == {
        "g0001": 1, "n0001": 0, "n0002": 0, "V0001": None, "V0002": None, "T0001": 1, "T0002": 0
    }  # fmt: skip
    assert manifest.splits == ["train"] * 3 + ["val"] * 2 + ["test"] * 2
    assert all(Path(p).stem == Path(m).stem for p, m in zip(manifest.paths, masks_of(manifest), strict=True))


@pytest.mark.parametrize("column", ["Label(Glaucoma=1)", "Glaucoma Label ", "Label"])
def test_refuge_finds_the_label_under_its_different_names(made, labels_of, column):
    root = made(REFUGE)
    for table, name in (
        ("REFUGE-Test-GT/Glaucoma_label_and_Fovea_location.xlsx", "T"),
        ("REFUGE-Validation400-GT/Fovea_locations.xlsx", "V"),
    ):
        save_workbook(root / table, [["ImgName", column], [f"{name}0001.jpg", 0], [f"{name}0002.jpg", 1]])
    found = glaucoma(labels_of(REFUGE(root).index()))
    assert [found[name] for name in ("V0001", "V0002", "T0001", "T0002")] == [0, 1, 0, 1]


DOUBLED = {
    "REFUGE-Validation400": "REFUGE-Validation400/REFUGE-Validation400",
    "REFUGE-Validation400-GT": "REFUGE-Validation400-GT/REFUGE-Validation400-GT",
    "REFUGE-Test-GT": "REFUGE-Test-GT/REFUGE-Test-GT",
    "Annotation-Training400": "Annotation-Training400/Annotation-Training400",
}


@pytest.mark.parametrize("test", ["REFUGE-Test400/Test400", "Test400/Test400", "Test400", "REFUGE-Test400"])
@pytest.mark.parametrize("doubled", [tuple(DOUBLED), ()], ids=["doubled", "plain"])
def test_refuge_reads_folders_within_folders_of_their_own_name(made, labels_of, test, doubled):
    root = made(REFUGE)
    plain = REFUGE(root).index()
    for name, inner in ((name, DOUBLED.get(name, test)) for name in (*doubled, "Test400")):
        (root / name).rename(root / "moved")
        (root / inner).parent.mkdir(exist_ok=True)
        (root / "moved").rename(root / inner)
    manifest = REFUGE(root).index()
    assert manifest.ids == plain.ids and labels_of(manifest) == labels_of(plain)
    assert manifest.paths[-1] == f"{test}/T0002.jpg" and all(masks_of(manifest))


def test_refuge_names_the_row_of_a_bad_label_in_its_workbook(made):
    root = made(REFUGE)
    table = root / "REFUGE-Test-GT" / "Glaucoma_label_and_Fovea_location.xlsx"
    save_workbook(table, [["ImgName", "Label"], ["T0001.jpg", 1], [None, None], ["T0002.jpg", 2]])
    with refuses(ManifestError, "REFUGE-Test-GT/Glaucoma_label_and_Fovea_location.xlsx", "row 4", "'glaucoma'", "'2'"):
        REFUGE(root).index()


def test_refuge_needs_labels_of_the_test_images(made):
    root = made(REFUGE)
    save_workbook(root / "REFUGE-Test-GT" / "Glaucoma_label_and_Fovea_location.xlsx", [["ImgName"], ["T0001.jpg"]])
    with refuses(LayoutError, "ImgName", "label(glaucoma=1)", "grand-challenge"):
        REFUGE(root).index()


def test_refuge_refuses_a_training_image_without_a_class(made, save_small):
    root = made(REFUGE)
    save_small(root / "REFUGE-Training400" / "Training400" / "V0001.jpg")
    with refuses(LayoutError, "'REFUGE-Training400/Training400/V0001.jpg'", "g (glaucoma)"):
        REFUGE(root).index()


# -- its repack


def test_refuge_repack_takes_masks_and_leaves_gts_and_knows_labels_of_training_only(made, labels_of):
    manifest = RefugeRepack(made(RefugeRepack)).index()
    assert glaucoma(labels_of(manifest)) == {"g0001": 1, "n0001": 0, "V0001": None, "T0001": None}
    assert manifest.splits == ["train", "train", "val", "test"]
    assert masks_of(manifest)[2] == "val/Masks/V0001.png" and manifest.paths[2] == "val/Images/V0001.jpg"


def test_refuge_repack_names_the_record_of_its_index(made):
    root = made(RefugeRepack)
    index = root / "train" / "index.json"
    index.write_text(index.read_text().replace('"Label": 0', '"Label": 3'))
    with refuses(ManifestError, "train/index.json", "record 2", "'Label'", "'3'"):
        RefugeRepack(root).index()


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"0": {"Name": "g0001.jpg"}}', "3", '[{"ImgName": 1}]'])
def test_refuge_repack_names_an_index_that_is_none(made, text):
    root = made(RefugeRepack)
    (root / "train" / "index.json").write_text(text)
    with refuses(LayoutError, "train/index.json", "'ImgName'", "kaggle.com"):
        RefugeRepack(root).index()


# -- both


def test_a_photograph_of_both_copies_of_refuge_is_one_patient_of_a_union(tmp_path, save_small):
    refuge(tmp_path / "refuge", save_small)
    refuge_repack(tmp_path / "refuge_repack", save_small)
    sources = {"refuge": REFUGE(tmp_path / "refuge"), "refuge_repack": RefugeRepack(tmp_path / "refuge_repack")}
    manifest = UnionSource(sources).index()
    patients = dict(zip(manifest.ids, manifest.patients, strict=True))
    both = ("g0001", "n0001", "V0001", "T0001")
    assert all(patients[f"refuge/{name}"] == patients[f"refuge_repack/{name}"] for name in both)
    assert manifest.num_patients == 7  # n0002, V0002 and T0002 are in one of the two
    assert REFUGE.patient_space == RefugeRepack.patient_space == "refuge"


def test_refuge_and_its_repack_call_a_photograph_alike_whatever_the_case(tmp_path, save_small):
    refuge(tmp_path / "refuge", save_small)
    refuge_repack(tmp_path / "repack", save_small)
    for folder, name in (("Images", "V0001.jpg"), ("Masks", "V0001.png")):
        (tmp_path / "repack" / "val" / folder / name).rename(tmp_path / "repack" / "val" / folder / name.lower())
    index = tmp_path / "repack" / "val" / "index.json"
    index.write_text(index.read_text().replace("V0001", "v0001"))
    patients = [source.index().patients for source in (REFUGE(tmp_path / "refuge"), RefugeRepack(tmp_path / "repack"))]
    assert patients[0][3] == patients[1][2] == "v0001"
