"""What the readers of public datasets share: rules, layouts that are not as described, masks, counts."""

import shutil

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from refusals import refuses

from datamodules.manifest import ManifestError
from datamodules.sources.aptos2019 import Aptos2019
from datamodules.sources.catalogue import public_sources
from datamodules.sources.harmonise import AnyOf, Levels, harmonise
from datamodules.sources.idrid_segmentation import SUFFIXES, IDRiDSegmentation
from datamodules.sources.public import LayoutError, count
from datamodules.sources.rows import read_rows

FOLDERS = {
    "OD": "5. Optic Disc", "MA": "1. Microaneurysms", "HE": "2. Haemorrhages", "EX": "3. Hard Exudates",
    "SE": "4. Soft Exudates",
}  # fmt: skip


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
    with refuses(LayoutError, "train.csv", "row 3", "'ff00'", "1 of 2", "data.partial=true"):
        Aptos2019(aptos).index()
    assert Aptos2019(aptos, partial=True).index().ids == ["0a1b"]
    assert "1 of 2 rows" in caplog.text


def test_an_error_of_a_missing_image_says_where_it_looked_and_what_is_there(aptos):
    (aptos / "train.csv").write_text("id_code,diagnosis\n0a1b,2\n1111,4\n")
    found = ["train_images/0a1b.png", "train_images/ff00.JPG"]
    with refuses(LayoutError, aptos / "train_images", found, "data.partial=true"):
        Aptos2019(aptos).index()


@pytest.mark.parametrize("partial", [False, True])
def test_where_every_row_misses_its_image_the_root_is_suspected_and_not_the_download(aptos, partial):
    (aptos / "train.csv").write_text("id_code,diagnosis\nx0a1b,2\nxff00,4\n")
    with refuses(LayoutError, "2 of 2", "data.root") as raised:
        Aptos2019(aptos, partial=partial).index()
    assert "partial" not in str(raised.value) and "complete the download" not in str(raised.value)


def test_rows_whose_cells_are_all_blank_are_left_out(aptos):
    (aptos / "train.csv").write_text("id_code,diagnosis\n0a1b,2\n,\n ,\nff00,4\n,\n")
    assert Aptos2019(aptos).index().ids == ["0a1b", "ff00"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("id_code,diagnosis\n0a1b,2\nff00,7\n", 3),
        ("id_code,diagnosis\n\n0a1b,2\n\n\nff00,7\n", 6),
        ("id_code,diagnosis\r\n0a1b,2\r\n,\r\nff00,7\r\n", 4),
        ('\ufeffid_code;diagnosis;note\n0a1b;2;"two\nlines, and a third\n"\nff00;7;\n', 5),
    ],
    ids=["plain", "blank lines", "blank cells", "lines within a cell"],
)
def test_an_error_of_a_cell_names_the_file_and_the_line_in_it(aptos, text, line):
    (aptos / "train.csv").write_bytes(text.encode())
    with refuses(ManifestError, "APTOS 2019", "train.csv", f"row {line}", "'diagnosis'", "'7'"):
        Aptos2019(aptos).index()
    (aptos / "train_images" / "ff00.JPG").unlink()
    with refuses(LayoutError, "APTOS 2019", "train.csv", f"row {line}", "'ff00'"):
        Aptos2019(aptos).index()


def test_a_row_behind_a_long_cell_is_named_by_its_line_too(tmp_path):
    (tmp_path / "t.csv").write_text(f"id,where\n\na,{'x' * 200_000}\nb,1\n")
    table = read_rows(tmp_path / "t.csv", "t.csv")
    assert table.column("where").to_pylist() == ["t.csv, row 3", "t.csv, row 4"] and table.num_columns == 2


def test_images_whose_patients_are_not_told_are_warned_of_once(aptos, caplog):
    warning = "APTOS 2019: whose photographs they are is not told: every image counts as its own patient"
    source = Aptos2019(aptos)
    source.index()
    source.index()
    assert caplog.text.count(warning) == 1


@pytest.mark.parametrize(
    ("patients", "splits", "warned"),
    [
        (None, ["", "test"], True),
        (["", ""], ["train", ""], True),
        (["0a1b", "ff00"], ["", ""], True),  # named after themselves
        (["P1", ""], ["", ""], False),
        (None, ["train", "val"], False),
        (None, ["test", "test"], False),
        (None, ["train", "test"], True),  # validation is drawn from training
    ],
)
def test_the_warning_is_of_images_that_are_shared_out_and_told_of_nobody(aptos, caplog, patients, splits, warned):
    class Told(Aptos2019):
        def _table(self):
            columns = {"patient": patients, "split": splits}
            table = super()._table()
            for name, column in ((name, column) for name, column in columns.items() if column):
                table = table.append_column(name, pa.array(column))
            return table

    Told(aptos).index()
    assert ("whose photographs they are is not told" in caplog.text) == warned


def test_what_a_set_contains_are_sources():
    known = public_sources()
    inside = {name: source.contains for name, source in known.items() if source.contains}
    assert inside == {"pranet": ("cvc_clinicdb", "cvc_colondb", "etis_larib")}
    assert all(name in known for names in inside.values() for name in names)


def test_a_layout_that_is_not_as_described_says_what_was_sought_and_found(aptos):
    (aptos / "train.csv").rename(aptos / "labels.csv")
    with refuses(LayoutError, "train.csv", ["labels.csv", "train_images"], "kaggle.com"):
        Aptos2019(aptos).index()


def test_a_column_that_is_not_there_is_named_with_the_nearest(aptos):
    (aptos / "train.csv").write_text("id_code,diagnoses\n0a1b,2\n")
    with refuses(LayoutError, "'diagnosis'", "'diagnoses'"):
        Aptos2019(aptos).index()


def test_a_grade_that_the_dataset_does_not_define_is_named_by_row(aptos):
    (aptos / "train.csv").write_text("id_code,diagnosis\n0a1b,2\nff00,7\n")
    with refuses(ManifestError, "train.csv", "row 3", "'diagnosis'", "'7'"):
        Aptos2019(aptos).index()


def test_whole_numbers_are_compared_as_numbers_and_blanks_are_unknown():
    table = pa.table({"grade": ["0", "1.0", " 2", "", "2.50"]}).slice(0, 4)
    rule = Levels("dr_grade", "grade", {"0": 0, "1": 1, "2": None})
    assert harmonise([rule], table, "t")["dr_grade"].to_pylist() == [0, 1, -1, -1]
    with refuses(ManifestError, "row 2", "'grade'", "'2.50'"):
        harmonise([rule], pa.table({"grade": ["2.50"]}), "t")


def test_any_of_is_absent_only_where_all_are():
    table = pa.table({"a": ["1", "0", "0", ""], "b": ["", "0", "", "0"]})
    assert harmonise([AnyOf("is_rvo", ("a", "b"))], table, "t")["is_rvo"].to_pylist() == [1, 0, -1, -1]


@pytest.fixture
def idrid(tmp_path):
    """Photographs of 300 x 200 with a disc of radius 90, two a split; in the first a lesion over the optic disc.

    The first of the test split has the optic disc alone; the second of each split has a file for everything.
    """
    y, x = np.mgrid[:200, :300]
    inside = np.hypot(x - 150, y - 100) < 90
    photograph = (inside[..., None] * np.array([200, 90, 40]) + 10 * ((x + y) % 7 == 0)[..., None]).clip(0, 255)
    boxes = {"OD": (100, 100, 50), "MA": (120, 100, 20), "EX": (200, 60, 5), "SE": (200, 100, 5), "HE": (200, 140, 5)}
    shown = {"01": ("OD", "MA"), "02": tuple(boxes), "55": ("OD",), "56": tuple(boxes)}
    for number, suffixes in shown.items():
        split = "a. Training Set" if number < "55" else "b. Testing Set"
        folder = tmp_path / "A. Segmentation" / "1. Original Images" / split
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph.astype(np.uint8)).save(folder / f"IDRiD_{number}.jpg", quality=95)
        for suffix in suffixes:
            truth = tmp_path / "A. Segmentation" / "2. All Segmentation Groundtruths" / split / FOLDERS[suffix]
            truth.mkdir(parents=True, exist_ok=True)
            mask, (x, y, half) = np.zeros((200, 300, 3), np.uint8), boxes[suffix]
            mask[y - half : y + half, x - half : x + half, 0] = 76  # red, dark
            Image.fromarray(mask).save(truth / f"IDRiD_{number}_{suffix}.tif")
    return tmp_path


def test_idrid_masks_are_cropped_as_their_image_and_lesions_cover_the_disc(idrid):
    source = IDRiDSegmentation(idrid)
    manifest = source.index()
    assert manifest.splits == ["train", "train", "test", "test"]
    masks = manifest.table.column("mask").to_pylist()
    assert [mask.count("|") for mask in masks] == [1, 4, 0, 4]
    assert count(manifest, "masks") == 4
    levels = source.read_mask(manifest.paths[0], masks[0], 180)
    assert levels.shape == (180, 180) and set(np.unique(levels)) == {0, 1, 4}
    image = source.read(manifest.paths[0], 180)
    assert levels[image.max(2) == 0].max() == 0
    left = 150 - 90  # of the square, in the photograph's pixels
    assert (levels[73:107, 100 - left + 3 : 140 - left - 3] == 4).all()
    assert levels[90, 90 - left] == 1
    assert set(np.unique(source.read_mask(manifest.paths[2], masks[2], 180))) == {0, 1}
    assert set(np.unique(source.read_mask(manifest.paths[3], masks[3], 180))) == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize("split", ["a. Training Set", "b. Testing Set"])
@pytest.mark.parametrize("suffix", [suffix.upper() for suffix in SUFFIXES])
def test_a_lesion_that_no_photograph_of_a_split_has_is_a_folder_that_is_missing(idrid, split, suffix):
    shutil.rmtree(idrid / "A. Segmentation" / "2. All Segmentation Groundtruths" / split / FOLDERS[suffix])
    with refuses(LayoutError, f"in _{suffix} ", f"/{split}'", "ieee-dataport.org"):
        IDRiDSegmentation(idrid).index()


def test_a_mask_of_another_size_than_its_image_is_named(idrid):
    source = IDRiDSegmentation(idrid)
    manifest = source.index()
    mask = manifest.table.column("mask").to_pylist()[2]
    Image.new("RGB", (30, 20)).save(idrid / mask)
    with refuses(ManifestError, "IDRiD_55_OD.tif'", "30 x 20", "300 x 200"):
        source.read_mask(manifest.paths[2], mask, 64)


def test_a_mask_that_lies_outside_the_root_is_refused(idrid, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "m.tif"
    folder = idrid / "A. Segmentation" / "2. All Segmentation Groundtruths" / "b. Testing Set" / "5. Optic Disc"
    (folder / "IDRiD_55_OD.tif").rename(elsewhere)
    (folder / "IDRiD_55_OD.tif").symlink_to(elsewhere)
    with refuses(ManifestError, "IDRiD_55_OD.tif'", "a link", idrid, "data.root"):
        IDRiDSegmentation(idrid).index()


def test_a_folder_that_unzipping_has_doubled_is_looked_into(aptos, tmp_path):
    """`train_images/train_images/`, as an archive unpacked into a folder of its own name, and the root likewise."""
    plain = Aptos2019(aptos).index()
    (tmp_path / "held").mkdir()
    (aptos / "train_images").rename(tmp_path / "held" / "train_images")
    (tmp_path / "held").rename(aptos / "train_images")
    (aptos / "train_images" / ".DS_Store").write_text("")
    twice = Aptos2019(aptos).index()
    assert twice.paths == [path.replace("train_images/", "train_images/train_images/") for path in plain.paths]
    (tmp_path / "outer").mkdir()
    aptos.rename(tmp_path / "outer" / "aptos")
    (tmp_path / "outer").rename(aptos)
    assert Aptos2019(aptos).index().paths == twice.paths
