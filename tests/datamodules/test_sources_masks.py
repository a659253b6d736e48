"""The sets with vessels traced by hand, on miniatures in their real layout."""

import gzip
import io

import numpy as np
import pytest
from people import check_no_person_is_on_two_sides
from PIL import Image
from refusals import refuses

from datamodules.images import ImageError
from datamodules.manifest import ManifestError
from datamodules.sources.chase_db1 import ChaseDB1
from datamodules.sources.drive import DRIVE
from datamodules.sources.fives import FIVES
from datamodules.sources.public import LayoutError
from datamodules.sources.stare import STARE

SOURCES = (DRIVE, ChaseDB1, STARE, FIVES)


def vessels(width=60, height=50, top=0.4, value=255):
    """A broad vessel across the image, uint8 [H, W]."""
    mask = np.zeros((height, width), np.uint8)
    mask[round(top * height) : round(top * height) + height // 10] = value
    return mask


def save_mask(path, mode="L", **drawing):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(vessels(**drawing)).convert(mode).save(path)


def save_packed(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PPM")
    path.write_bytes(gzip.compress(file.getvalue()))


@pytest.fixture
def drive(tmp_path, save_small):
    root = tmp_path / "drive"
    for part, number in (("training", "21"), ("training", "22"), ("test", "01"), ("test", "02")):
        save_small(root / part / "images" / f"{number}_{part}.tif")
        save_mask(root / part / "mask" / f"{number}_{part}_mask.gif", top=0)
        save_mask(root / part / "1st_manual" / f"{number}_manual1.gif")
        if part == "test":
            save_mask(root / part / "2nd_manual" / f"{number}_manual2.gif", top=0.6)
    (root / "test" / "images" / "Thumbs.db").write_bytes(b"x")
    return root


@pytest.fixture
def chase_db1(tmp_path, save_small):
    root = tmp_path / "chase"
    for name in ("Image_01L", "Image_01R", "Image_02L", "Image_02R", "Image_14L", "Image_14R"):
        save_small(root / f"{name}.jpg")
        save_mask(root / f"{name}_1stHO.png", "1")
        save_mask(root / f"{name}_2ndHO.png", "1", top=0.6)
    (root / "._Image_01L.jpg").write_bytes(b"x")
    return root


@pytest.fixture
def stare(tmp_path, photograph):
    root = tmp_path / "stare"
    for name in ("im0001", "im0002", "im0319"):
        save_packed(root / "stare-images" / f"{name}.ppm.gz", photograph(width=120, height=100, radius=46))
        for observer, top in (("ah", 0.4), ("vk", 0.6)):
            save_packed(root / f"labels-{observer}" / f"{name}.{observer}.ppm.gz", vessels(120, 100, top))
    (root / "stare-images" / "all-images.tar").write_bytes(b"x")
    return root


@pytest.fixture
def fives(tmp_path, save_small):
    root = tmp_path / "fives"
    for split, truth, names in (
        ("train", "Ground truth", ("1_A", "2_D", "3_G", "4_N")),
        ("test", "Groud truth", ("1_A", "2_N")),
    ):
        for name in names:
            save_small(root / split / "Original" / f"{name}.png")
            save_mask(root / split / truth / f"{name}.png", "RGB")
        (root / split / "Original" / "Thumbs.db").write_bytes(b"x")
        (root / split / truth / "Thumbs.db").write_bytes(b"x")
    (root / "Quality Assessment.xlsx").write_bytes(b"x")
    return root


def masks_of(manifest):
    return manifest.table.column("mask").to_pylist()


def rows_with_a_vessel(source, row=0, size=46):
    """Rows of the square mask that hold a vessel, as fractions of its side: the first and the last."""
    manifest = source.index()
    levels = source.read_mask(manifest.paths[row], masks_of(manifest)[row], size)
    assert levels.shape == (size, size) and set(np.unique(levels)) == {0, 1}
    found = np.flatnonzero(levels.any(axis=1))
    return found[0] / size, found[-1] / size


def test_drive_pairs_by_number_and_takes_the_first_observer(drive, labels_of, caplog):
    source = DRIVE(drive)
    manifest = source.index()
    assert manifest.ids == ["21", "22", "01", "02"]
    assert manifest.splits == ["train", "train", "test", "test"]
    assert manifest.paths[2] == "test/images/01_test.tif"
    assert masks_of(manifest)[0] == "training/1st_manual/21_manual1.gif"
    assert masks_of(manifest)[3] == "test/1st_manual/02_manual1.gif"
    assert labels_of(manifest)["21"] == {"is_fundus": 1}
    assert manifest.num_patients == 4
    assert "DRIVE: images: 4 found, 40 published" in caplog.text


def test_drive_without_tracings_of_its_test_images_has_no_mask_there(drive):
    (drive / "test" / "1st_manual").rename(drive / "elsewhere")
    assert masks_of(DRIVE(drive).index())[1:] == ["training/1st_manual/22_manual1.gif", "", ""]
    (drive / "training" / "1st_manual").rename(drive / "elsewhere too")
    with refuses(LayoutError, "vessels", "training/1st_manual", "'elsewhere too'"):
        DRIVE(drive).index()


def test_drive_without_its_test_images_is_a_partial_download(drive):
    (drive / "test").rename(drive / "elsewhere")
    with refuses(LayoutError, "DRIVE", "test/images", "'elsewhere'"):
        DRIVE(drive).index()
    assert DRIVE(drive, partial=True).index().splits == ["train", "train"]


def test_drive_does_not_take_the_field_of_view_for_vessels(drive):
    first, last = rows_with_a_vessel(DRIVE(drive), row=2)
    assert 0.3 < first < last < 0.55
    (drive / "training" / "1st_manual").rename(drive / "elsewhere")
    (drive / "training" / "mask").rename(drive / "training" / "1st_manual")
    with refuses(LayoutError, "21_manual1", "'training/1st_manual/21_training_mask.gif'"):
        DRIVE(drive).index()


@pytest.mark.parametrize("partial", [False, True])
def test_a_missing_tracing_is_an_error_unless_partial(drive, partial, caplog):
    (drive / "training" / "1st_manual" / "21_manual1.gif").unlink()
    (drive / "test" / "images" / "02_test.tif").unlink()
    source = DRIVE(drive, partial=partial)
    if not partial:
        with refuses(LayoutError, "'training/images/21_training.tif'", "1 of 2", "22_manual1", "data.partial=true"):
            source.index()
        return
    assert masks_of(source.index())[:2] == ["", "training/1st_manual/22_manual1.gif"]
    assert "1 of 2 images have no mask" in caplog.text
    assert "1 masks in" in caplog.text


def test_drive_on_the_real_photographs(shared_data):
    source = DRIVE(shared_data / "DRIVE")
    manifest = source.index()
    assert source.differences == {}
    assert all(masks_of(manifest))
    share = source.read_mask(manifest.paths[0], masks_of(manifest)[0], 256).mean()
    assert 0.04 < share < 0.15
    assert source.read(manifest.paths[0], 256).shape == (256, 256, 3)


def test_chase_keeps_the_eyes_of_a_child_together_and_reads_no_mask_as_a_photograph(chase_db1, labels_of):
    source = ChaseDB1(chase_db1)
    manifest = source.index()
    assert manifest.ids == ["Image_01L", "Image_01R", "Image_02L", "Image_02R", "Image_14L", "Image_14R"]
    assert manifest.patients == ["01", "01", "02", "02", "14", "14"]
    assert labels_of(manifest)["Image_01L"] == {"is_fundus": 1, "eye_side": 1}
    assert labels_of(manifest)["Image_01R"] == {"is_fundus": 1, "eye_side": 0}
    assert masks_of(manifest)[0] == "Image_01L_1stHO.png"
    first, last = rows_with_a_vessel(source)
    assert 0.3 < first < last < 0.55


def test_chase_on_the_real_photographs(shared_data):
    source = ChaseDB1(shared_data / "CHASE_DB1")
    manifest = source.index()
    assert source.differences == {}
    assert all(masks_of(manifest))
    share = source.read_mask(manifest.paths[0], masks_of(manifest)[0], 256).mean()
    assert 0.04 < share < 0.15


def test_stare_reads_gzipped_files(stare, photograph, labels_of):
    source = STARE(stare)
    manifest = source.index()
    assert manifest.ids == ["im0001", "im0002", "im0319"]
    assert manifest.splits == [""] * 3
    assert manifest.paths[0] == "stare-images/im0001.ppm.gz"
    assert masks_of(manifest)[2] == "labels-ah/im0319.ah.ppm.gz"
    assert labels_of(manifest)["im0001"] == {"is_fundus": 1}
    image = source.read(manifest.paths[0], 92)
    assert image.shape == (92, 92, 3) and image[46, 46].max() > 60
    first, last = rows_with_a_vessel(source)
    assert 0.35 < first < last < 0.52


def test_stare_takes_the_observer_that_is_asked_for(stare):
    source = STARE(stare, labels="vk")
    assert masks_of(source.index())[0] == "labels-vk/im0001.vk.ppm.gz"
    assert rows_with_a_vessel(source)[0] > 0.52
    with refuses(ValueError, "labels", "'first'", "ah, vk"):
        STARE(stare, labels="first")


def test_stare_takes_unpacked_files_too(stare):
    for path in [*stare.glob("stare-images/*.gz"), *stare.glob("labels-ah/*.gz")]:
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    source = STARE(stare)
    assert masks_of(source.index())[0] == "labels-ah/im0001.ah.ppm"
    assert 0.35 < rows_with_a_vessel(source)[0] < 0.52


def test_stare_names_a_damaged_file_and_a_mask_of_another_size(stare):
    source = STARE(stare)
    manifest = source.index()
    packed = stare / manifest.paths[1]
    packed.write_bytes(packed.read_bytes()[:400])
    with refuses(ImageError, "decoded"):
        source.read(manifest.paths[1], 32)
    save_packed(stare / masks_of(manifest)[0], vessels())
    with refuses(ManifestError, "im0001.ah.ppm.gz'", (50, 60), (100, 120)):
        source.read_mask(manifest.paths[0], masks_of(manifest)[0], 32)


def test_fives_takes_the_disease_from_the_name_and_nothing_more(fives, labels_of):
    manifest = FIVES(fives).index()
    assert labels_of(manifest) == {
        "train/1_A": {"is_amd": 1, "is_fundus": 1},
        "train/2_D": {"is_fundus": 1},
        "train/3_G": {"is_gc": 1, "is_fundus": 1},
        "train/4_N": {"is_amd": 0, "is_gc": 0, "dr_grade": 0, "is_fundus": 1},
        "test/1_A": {"is_amd": 1, "is_fundus": 1},
        "test/2_N": {"is_amd": 0, "is_gc": 0, "dr_grade": 0, "is_fundus": 1},
    }
    assert manifest.splits == ["train"] * 4 + ["test"] * 2


def test_fives_takes_either_spelling_of_its_folder_and_coloured_masks(fives):
    source = FIVES(fives)
    assert masks_of(source.index())[3:5] == ["train/Ground truth/4_N.png", "test/Groud truth/1_A.png"]
    first, last = rows_with_a_vessel(source, row=4)
    assert 0.3 < first < last < 0.55


def test_fives_refuses_a_letter_that_it_does_not_know(fives, save_small):
    save_small(fives / "train" / "Original" / "5_X.png")
    save_mask(fives / "train" / "Ground truth" / "5_X.png", "RGB")
    with refuses(LayoutError, "<n>_<A, D, G or N>.png", "'train/Original/5_X.png'"):
        FIVES(fives).index()


@pytest.mark.parametrize("source", SOURCES)
def test_another_folder_is_refused_with_the_address(source, tmp_path, save_small):
    save_small(tmp_path / "photographs" / "a.png")
    with refuses(LayoutError, "['photographs']", source.address):
        source(tmp_path).index()


PEOPLE = {  # of each source the images of one person; of a source that is not here, every image is its own
    ChaseDB1: (("Image_01L", "Image_01R"), ("Image_02L", "Image_02R"), ("Image_14L", "Image_14R")),
}


@pytest.mark.parametrize("source", SOURCES)
def test_no_person_is_on_two_sides(source, request):
    index = source(request.getfixturevalue(source.name)).index()
    check_no_person_is_on_two_sides(index, PEOPLE.get(source))
