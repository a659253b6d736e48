"""Datasets of glaucoma, of the optic disc and of the cup: miniatures in the layouts that are published."""

from pathlib import Path

import numpy as np
import pytest
from glaucoma_miniatures import (
    CUP,
    DISC,
    LEFT,
    MASKED,
    MINIATURES,
    PLAIN,
    REFUGE_GREYS,
    SIDE,
    TOP,
    acrima_flat,
    glaucoma,
    masks_of,
    save_mask,
)
from omegaconf import OmegaConf
from people import check_no_person_is_on_two_sides
from PIL import Image
from refusals import refuses

from datamodules.sources.acrima import ACRIMA
from datamodules.sources.airogs import AIROGS
from datamodules.sources.airogs_light import AirogsLight
from datamodules.sources.g1020 import G1020
from datamodules.sources.glaucoma_fundus import GlaucomaFundus
from datamodules.sources.lag import LAG
from datamodules.sources.origa import ORIGA
from datamodules.sources.papila import PAPILA
from datamodules.sources.public import LayoutError
from datamodules.sources.refuge import REFUGE
from datamodules.sources.refuge_repack import RefugeRepack

OPTIONS = Path(__file__).parents[2] / "experiments" / "conf" / "data"


# -- all of them


@pytest.mark.parametrize("source", MINIATURES)
def test_a_folder_with_something_else_says_where_the_data_are_to_be_had(source, tmp_path, save_small):
    save_small(tmp_path / "photos" / "IMG_1.jpg")
    (tmp_path / "readme.txt").write_text("holidays")
    with refuses(LayoutError, source.title, source.address, "photos"):
        source(tmp_path).index()


PEOPLE = {  # of each source the images of one person; of a source that is not here, every image is its own
    PAPILA: (("RET002OD", "RET002OS"), ("RET004OD", "RET004OS"), ("RET015OD", "RET015OS")),
}


@pytest.mark.parametrize("source", MINIATURES)
def test_no_person_is_on_two_sides_of_the_split(source, made):
    index = source(made(source)).index()
    check_no_person_is_on_two_sides(index, PEOPLE.get(source))


@pytest.mark.parametrize("source", MINIATURES)
def test_the_option_names_the_source_and_conditions_that_it_has(source, made):
    options = OmegaConf.to_container(OmegaConf.load(OPTIONS / f"{source.name}.yaml"), resolve=False)
    assert options["source"]["_target_"] == f"{source.__module__}.{source.__name__}"
    conditions = options.get("grid", {}).get("conditions", {})
    known = source(made(source)).index().table.column("is_gc").to_pylist()
    assert {condition["is_gc"] for condition in conditions.values() if condition} <= set(known)


# -- masks


@pytest.mark.parametrize("source", MASKED)
def test_masks_lie_over_the_disc_and_the_cup_of_their_image(source, made, save_photograph):
    reader = source(made(source, save=save_photograph))
    manifest = reader.index()
    for path, mask in zip(manifest.paths, masks_of(manifest), strict=True):
        if not mask:
            continue
        levels = reader.read_mask(path, mask, SIDE)
        y, x = np.mgrid[:SIDE, :SIDE]
        distance = [np.hypot(x + LEFT - cx, y + TOP - cy) - radius for cx, cy, radius in (DISC, CUP)]
        expected = np.where(distance[1] < 0, 2, np.where(distance[0] < 0, 1, 0))
        clear = (np.abs(distance[0]) > 3) & (np.abs(distance[1]) > 3)
        assert (levels == expected)[clear].all()
        assert reader.mask_levels[levels[90 - TOP, 155 - LEFT]] == "optic cup"


@pytest.mark.parametrize(
    ("source", "greys", "fact"),
    [
        (REFUGE, (0, 128, 255), "0 in its corner"),
        (REFUGE, PLAIN, "[1, 2]"),
        (RefugeRepack, REFUGE_GREYS, "[128, 255]"),
        (RefugeRepack, (2, 1, 0), "2 in its corner"),
        (ORIGA, (0, 128, 255), "[128, 255]"),
        (G1020, (0, 128, 255), "[128, 255]"),
    ],
)
def test_a_mask_of_another_coding_is_refused(source, greys, fact, made, save_photograph):
    root = made(source, save=save_photograph)
    reader = source(root)
    manifest = reader.index()
    save_mask(root / masks_of(manifest)[0], greys)
    with refuses(LayoutError, masks_of(manifest)[0], fact, "background"):
        reader.read_mask(manifest.paths[0], masks_of(manifest)[0], 64)


def test_images_without_a_mask_are_counted_and_where_all_are_the_names_are_shown(made, caplog):
    root = made(ORIGA)
    (root / "Masks" / "002.png").unlink()
    assert masks_of(ORIGA(root).index()) == ["Masks/001.png", "", "Masks/003.png"]
    assert "ORIGA: 1 of 3 images have no mask" in caplog.text and "masks: 2 found, 650 published" in caplog.text
    for name in ("001", "003"):
        (root / "Masks" / f"{name}.png").rename(root / "Masks" / f"{name}_mask.png")
    with refuses(LayoutError, "001.jpg, 002.jpg, 003.jpg", "Masks/001_mask.png, Masks/003_mask.png"):
        ORIGA(root).index()


@pytest.mark.parametrize("source", [source for source in MASKED if source is not PAPILA])
def test_masks_of_other_names_than_the_images_are_refused(source, made):
    root = made(source)
    for path in masks_of(source(root).index()):
        if path:
            (root / path).rename((root / path).with_name(f"mask of {Path(path).name}"))
    with refuses(LayoutError, source.title, source.address, "/mask of "):
        source(root).index()


# -- one by one


def test_airogs_finds_images_in_the_folders_and_ungradable_is_no_glaucoma_class(made, labels_of):
    manifest = AIROGS(made(AIROGS)).index()
    assert manifest.paths[1:3] == ["0/TRAIN000001.JPG", "5/TRAIN070000.jpg"]
    labels = labels_of(manifest)
    assert labels["TRAIN000000"] == {"is_gc": 0, "is_retinal_region_readable": 1, "is_fundus": 1}
    assert labels["TRAIN000001"] == {"is_gc": 1, "is_retinal_region_readable": 1, "is_fundus": 1}
    assert labels["TRAIN070001"] == {"is_retinal_region_readable": 0, "is_fundus": 1}
    assert set(manifest.splits) == {""}


def test_airogs_goes_on_with_one_folder_if_it_may(made):
    root = made(AIROGS)
    for image in (root / "5").iterdir():
        image.unlink()
    (root / "5").rmdir()
    with refuses(LayoutError, "row 4", "'TRAIN070000'", "2 of 4", "data.partial=true"):
        AIROGS(root).index()
    assert AIROGS(root, partial=True).index().ids == ["TRAIN000000", "TRAIN000001"]


def test_airogs_light_keeps_the_split_and_images_of_the_same_name_apart(made, labels_of):
    manifest = AirogsLight(made(AirogsLight)).index()
    assert manifest.splits == ["train", "train", "val", "val", "test", "test"]
    assert manifest.ids[2:4] == ["validation/NRG/EyePACS-1", "validation/RG/EyePACS-1"]
    assert list(glaucoma(labels_of(manifest)).values()) == [0, 1] * 3


def test_airogs_light_may_be_the_folder_itself(made):
    assert len(AirogsLight(made(AirogsLight) / "eyepac-light-v2-512-jpg").index()) == 6


def test_origa_reads_its_list_and_not_the_duplicate(made, labels_of):
    manifest = ORIGA(made(ORIGA)).index()
    assert labels_of(manifest) == {
        "001": {"is_gc": 0, "eye_side": 0, "is_fundus": 1},
        "002": {"is_gc": 1, "eye_side": 1, "is_fundus": 1},
        "003": {"is_gc": 0, "eye_side": 1, "is_fundus": 1},
    }
    assert manifest.paths[0] == "Images/001.jpg" and masks_of(manifest)[0] == "Masks/001.png"


def test_origa_trains_on_set_a_and_tests_on_set_b(made):
    root = made(ORIGA)
    assert ORIGA(root).index().splits == ["train", "test", "train"]
    table = (root / "OrigaList.csv").read_text()
    (root / "OrigaList.csv").write_text(table.replace(",A,0\nOS", ", b ,0\nOS", 1).replace("0.9629,A", "0.9629,"))
    assert ORIGA(root).index().splits == ["test", "test", ""]
    (root / "OrigaList.csv").write_text(table.replace("0.9629,A", "0.9629,C"))
    with refuses(LayoutError, "ORIGA", "OrigaList.csv", "row 4", "'Set'", "'C'", "A, B"):
        ORIGA(root).index()


def test_g1020_reads_whole_photographs_and_an_image_may_have_no_mask(made, labels_of):
    manifest = G1020(made(G1020)).index()
    assert glaucoma(labels_of(manifest)) == {"image_0": 0, "image_1": 1, "image_2": 0}
    assert manifest.paths == [f"Images/image_{n}.jpg" for n in range(3)]
    assert masks_of(manifest) == ["Masks/image_0.png", "Masks/image_1.png", ""]


def test_lag_takes_no_attention_map_for_a_photograph_and_the_authors_positive_for_glaucoma(made, labels_of):
    manifest = LAG(made(LAG)).index()
    assert glaucoma(labels_of(manifest)) == {
        "non_glaucoma/1": 0, "non_glaucoma/2": 0, "suspicious_glaucoma/1": 1, "suspicious_glaucoma/2": 1
    }  # fmt: skip
    assert manifest.paths[0] == "non_glaucoma/image/1.jpg"


def test_acrima_reads_extensions_in_capitals(made, labels_of):
    manifest = ACRIMA(made(ACRIMA)).index()
    assert glaucoma(labels_of(manifest)) == {"Im686_g_ACRIMA": 1, "Im702_g_ACRIMA": 1, "Im001_ACRIMA": 0}


@pytest.mark.parametrize("folder", ["Database/Images", "."])
def test_acrima_tells_classes_by_name_in_the_folder_of_the_archive(tmp_path, save_small, labels_of, folder):
    acrima_flat(tmp_path / folder, save_small)
    (tmp_path / folder / "Thumbs.db").write_bytes(b"junk")
    manifest = ACRIMA(tmp_path).index()
    assert glaucoma(labels_of(manifest)) == {"Im001_ACRIMA": 0, "Im686_g_ACRIMA": 1, "Im702_g_ACRIMA": 1}
    assert manifest.paths[0] == f"{folder}/Im001_ACRIMA.jpg".removeprefix("./")


@pytest.mark.parametrize("name", ["Im003_G.jpg", "Im_g_ACRIMA.jpg", "Im003_g_ACRIMA_crop.jpg", "more/Im003_ACRIMA.jpg"])
@pytest.mark.parametrize("folder", ["Database/Images", "."])
def test_acrima_refuses_any_other_name_beside_them(tmp_path, save_small, folder, name):
    acrima_flat(tmp_path / folder, save_small)
    save_small(tmp_path / folder / name)
    with refuses(LayoutError, repr(str(Path(folder, name))), "G and noG"):
        ACRIMA(tmp_path).index()


@pytest.mark.parametrize(("name", "moved"), [("G/Im686_g_ACRIMA.jpg", "noG"), ("noG/Im001_ACRIMA.jpg", "G")])
def test_acrima_refuses_an_image_in_the_wrong_folder(made, save_small, name, moved):
    root = made(ACRIMA)
    save_small(root / "noG" / "Im002_ACRIMA.jpg")
    (root / name).rename(root / moved / Path(name).name)
    with refuses(LayoutError, f"'{moved}/{Path(name).name}'", "_g_", "noG"):
        ACRIMA(root).index()


def test_crops_are_read_whole(tmp_path):
    y, x = np.mgrid[:200, :200]
    crop = np.stack([180 - 0.2 * x, 80 - 0.1 * y, 40 + 0 * x], axis=2).astype(np.uint8)
    for name in ("noG/Im001_ACRIMA.png", "G/Im310_g_ACRIMA.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(crop).save(tmp_path / name)
    source = ACRIMA(tmp_path)
    assert np.array_equal(source.read(source.index().paths[0], 200), crop)


def test_glaucoma_fundus_tells_the_same_names_apart_and_early_glaucoma_is_glaucoma(made, labels_of):
    manifest = GlaucomaFundus(made(GlaucomaFundus)).index()
    assert manifest.ids[:2] == ["train/anormal_control/103", "train/bearly_glaucoma/103"]
    assert list(glaucoma(labels_of(manifest)).values()) == [0, 1, 1] * 3
    assert manifest.splits == ["train"] * 3 + ["val"] * 3 + ["test"] * 3


def test_glaucoma_fundus_may_have_no_split(made):
    manifest = GlaucomaFundus(made(GlaucomaFundus) / "train").index()
    assert manifest.splits == ["", "", ""] and manifest.ids[0] == "anormal_control/103"
