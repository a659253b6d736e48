"""DDR's two sets, of grades and of lesions, on miniatures in the real layouts."""

import numpy as np
import pytest
from dr_miniatures import write
from people import FRACTIONS
from refusals import refuses

from datamodules.manifest import ManifestError
from datamodules.sources.ddr import DDR
from datamodules.sources.ddr_segmentation import DDRSegmentation
from datamodules.sources.public import LayoutError
from datamodules.sources.union import UnionSource
from datamodules.splits import split_by_patient

# -- grades


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
    with refuses(LayoutError, "valid.txt", "row 2", "'007-0025-000.jpg'"):
        DDR(ddr).index()


def test_ddr_refuses_a_label_that_is_not_its(ddr):
    write(ddr / "DR_grading" / "valid.txt", "\n\n007-0025-000.jpg 6\n")
    with refuses(ManifestError, "DR_grading/valid.txt", "row 3", "'label'", "'6'"):
        DDR(ddr).index()


def test_ddr_names_the_line_of_a_photograph_that_is_not_there(ddr):
    write(ddr / "DR_grading" / "valid.txt", "007-0025-000.jpg 2\n\n007-0026-000.jpg 2\n")
    with refuses(LayoutError, "DR_grading/valid.txt", "row 3", "'007-0026-000.jpg'"):
        DDR(ddr).index()


# -- lesions


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
    image = "'lesion_segmentation/test/image/007-test-100.jpg'"
    with refuses(LayoutError, image, f" {lesion} ", "1 of 3", "data.partial=true"):
        DDRSegmentation(ddr_segmentation).index()
    masks = DDRSegmentation(ddr_segmentation, partial=True).index().table.column("mask").to_pylist()
    assert [mask.count("|") for mask in masks] == [3, 3, 0] and masks[2] == ""
    assert "1 of 3 images lack one of the four masks" in caplog.text


# -- both


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
