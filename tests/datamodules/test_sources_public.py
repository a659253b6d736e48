"""What the readers of public datasets share: rules, layouts that are not as described, masks, counts."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from datamodules.manifest import ManifestError
from datamodules.sources.aptos2019 import Aptos2019
from datamodules.sources.harmonise import AnyOf, Levels, harmonise
from datamodules.sources.idrid_segmentation import IDRiDSegmentation
from datamodules.sources.public import LayoutError


@pytest.fixture
def aptos(tmp_path, save_small):
    root = tmp_path / "aptos"
    save_small(root / "train_images" / "0a1b.png")
    save_small(root / "train_images" / "ff00.JPG")
    (root / "train.csv").write_text("id_code,diagnosis\n0a1b,2\nff00,4\n")
    return root


def test_aptos_finds_images_whatever_their_extension(aptos, labels_of, caplog):
    manifest = Aptos2019(aptos).index()
    assert manifest.paths == ["train_images/0a1b.png", "train_images/ff00.JPG"]
    assert labels_of(manifest) == {"0a1b": {"dr_grade": 2, "is_fundus": 1}, "ff00": {"dr_grade": 4, "is_fundus": 1}}
    assert "APTOS 2019: images: 2 found, 3662 published" in caplog.text


def test_a_row_without_its_image_is_an_error_unless_partial(aptos, caplog):
    (aptos / "train_images" / "ff00.JPG").unlink()
    with pytest.raises(LayoutError, match=r"row 3: there is no image 'ff00' \(1 of 2 rows.*data.partial=true"):
        Aptos2019(aptos).index()
    assert Aptos2019(aptos, partial=True).index().ids == ["0a1b"]
    assert "1 of 2 rows" in caplog.text


def test_a_layout_that_is_not_as_described_says_what_was_sought_and_found(aptos):
    (aptos / "train.csv").rename(aptos / "labels.csv")
    with pytest.raises(LayoutError, match=r"looked for train.csv. Found: \['labels.csv', 'train_images'\].*kaggle.com"):
        Aptos2019(aptos).index()


def test_a_column_that_is_not_there_is_named_with_the_nearest(aptos):
    (aptos / "train.csv").write_text("id_code,diagnoses\n0a1b,2\n")
    with pytest.raises(LayoutError, match="no column 'diagnosis'. Is it 'diagnoses'?"):
        Aptos2019(aptos).index()


def test_a_grade_that_the_dataset_does_not_define_is_named_by_row(aptos):
    (aptos / "train.csv").write_text("id_code,diagnosis\n0a1b,2\nff00,7\n")
    with pytest.raises(ManifestError, match="row 3, column 'diagnosis': '7' is not a label of this dataset"):
        Aptos2019(aptos).index()


def test_whole_numbers_are_compared_as_numbers_and_blanks_are_unknown():
    table = pa.table({"grade": ["0", "1.0", " 2", "", "2.50"]}).slice(0, 4)
    rule = Levels("dr_grade", "grade", {"0": 0, "1": 1, "2": None})
    assert harmonise([rule], table, "t")["dr_grade"].to_pylist() == [0, 1, -1, -1]
    with pytest.raises(ManifestError, match="'2.50'"):
        harmonise([rule], pa.table({"grade": ["2.50"]}), "t")


def test_any_of_is_absent_only_where_all_are():
    table = pa.table({"a": ["1", "0", "0", ""], "b": ["", "0", "", "0"]})
    assert harmonise([AnyOf("is_rvo", ("a", "b"))], table, "t")["is_rvo"].to_pylist() == [1, 0, -1, -1]


@pytest.fixture
def idrid(tmp_path):
    """Two photographs of 300 x 200 with a disc of radius 90; in the first a lesion over the optic disc."""
    y, x = np.mgrid[:200, :300]
    inside = np.hypot(x - 150, y - 100) < 90
    photograph = (inside[..., None] * np.array([200, 90, 40]) + 10 * ((x + y) % 7 == 0)[..., None]).clip(0, 255)
    for split, number in (("a. Training Set", "01"), ("b. Testing Set", "55")):
        folder = tmp_path / "A. Segmentation" / "1. Original Images" / split
        folder.mkdir(parents=True)
        Image.fromarray(photograph.astype(np.uint8)).save(folder / f"IDRiD_{number}.jpg", quality=95)
        truth = tmp_path / "A. Segmentation" / "2. All Segmentation Groundtruths" / split
        for name, suffix, box in (("5. Optic Disc", "OD", (100, 100, 50)), ("1. Microaneurysms", "MA", (120, 100, 20))):
            if suffix == "MA" and number == "55":
                continue
            (truth / name).mkdir(parents=True)
            mask = np.zeros((200, 300, 3), np.uint8)
            mask[box[1] - box[2] : box[1] + box[2], box[0] - box[2] : box[0] + box[2], 0] = 76  # red, dark
            Image.fromarray(mask).save(truth / name / f"IDRiD_{number}_{suffix}.tif")
    return tmp_path


def test_idrid_masks_are_cropped_as_their_image_and_lesions_cover_the_disc(idrid):
    source = IDRiDSegmentation(idrid)
    manifest = source.index()
    assert manifest.splits == ["train", "test"]
    masks = manifest.table.column("mask").to_pylist()
    assert [mask.count("|") for mask in masks] == [1, 0]
    levels = source.read_mask(manifest.paths[0], masks[0], 180)
    assert levels.shape == (180, 180) and set(np.unique(levels)) == {0, 1, 4}
    image = source.read(manifest.paths[0], 180)
    assert levels[image.max(2) == 0].max() == 0
    left = 150 - 90  # of the square, in the photograph's pixels
    assert (levels[73:107, 100 - left + 3 : 140 - left - 3] == 4).all()
    assert levels[90, 90 - left] == 1
    assert set(np.unique(source.read_mask(manifest.paths[1], masks[1], 180))) == {0, 1}


def test_a_mask_of_another_size_than_its_image_is_named(idrid):
    source = IDRiDSegmentation(idrid)
    manifest = source.index()
    mask = manifest.table.column("mask").to_pylist()[1]
    Image.new("RGB", (30, 20)).save(idrid / mask)
    with pytest.raises(ManifestError, match="IDRiD_55_OD.tif' has 30 x 20 pixels, its image 300 x 200"):
        source.read_mask(manifest.paths[1], mask, 64)


def test_a_mask_that_lies_outside_the_root_is_refused(idrid, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "m.tif"
    folder = idrid / "A. Segmentation" / "2. All Segmentation Groundtruths" / "b. Testing Set" / "5. Optic Disc"
    (folder / "IDRiD_55_OD.tif").rename(elsewhere)
    (folder / "IDRiD_55_OD.tif").symlink_to(elsewhere)
    with pytest.raises(ManifestError, match="a link that leads outside the root"):
        IDRiDSegmentation(idrid).index()
