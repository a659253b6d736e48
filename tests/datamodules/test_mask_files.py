"""What is no mask of its image is refused with the file, the value and the remedy; what lies outside of the disc."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from datamodules import phantom
from datamodules.fundus import FundusDataModule
from datamodules.manifest import ManifestError
from datamodules.masks import NO_MASK, to_levels
from datamodules.sources.drive import DRIVE
from datamodules.sources.kvasir_seg import KvasirSEG
from datamodules.sources.mask_files import two_levels
from datamodules.sources.phantom import PhantomSource
from datamodules.transforms import Augmentation
from tests.refusals import refuses


def disc(size=64, value=255):
    ys, xs = np.mgrid[:size, :size]
    return (np.hypot(xs - size / 2, ys - size / 2) < size / 4).astype(np.uint8) * np.uint8(value)


def noise(size=64):
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.fixture
def polyps(tmp_path):
    """Four frames in the layout of Kvasir-SEG."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in "abcd":
        Image.fromarray(noise()).save(tmp_path / "images" / f"{name}.jpg")
        Image.fromarray(disc()).save(tmp_path / "masks" / f"{name}.jpg", quality=60)
    return tmp_path


def test_jpeg_masks_are_halved_and_their_noise_is_no_level(polyps):
    source = KvasirSEG(polyps)
    assert len(np.unique(np.asarray(Image.open(polyps / "masks" / "a.jpg")))) > 2
    levels = source.read_mask("images/a.jpg", "masks/a.jpg", 64)
    assert set(np.unique(levels)) == {0, 1} and (levels != (disc() > 0)).mean() < 0.02
    Image.fromarray(np.full((64, 64), 5, np.uint8)).save(polyps / "masks" / "b.jpg")
    assert source.read_mask("images/b.jpg", "masks/b.jpg", 64).max() == 0, "black as JPEG has it"


@pytest.mark.parametrize(
    ("name", "pixels", "facts"),
    [
        ("a.png", disc(value=1), ("0 to 1", "255")),
        ("a.png", disc(value=127), ("0 to 127", "255")),
        ("a.png", np.full((64, 64), 142), ("100%", "grey")),
        ("a.png", np.where(np.arange(64) < 4, 128, disc()), ("[0, 128, 255]", "mask_level")),
        ("a.jpg", disc(value=90), ("none brighter", "255")),
        ("a.png", noise(), ("looks like an image", "swapped")),
        ("a.jpg", noise(), ("looks like an image", "swapped")),
    ],
)
def test_grey_values_that_are_no_mask_of_two_levels(polyps, name, pixels, facts):
    (polyps / "masks" / "a.jpg").unlink()
    Image.fromarray(pixels.astype(np.uint8)).save(polyps / "masks" / name, **({"quality": 98} if "jpg" in name else {}))
    with refuses(ManifestError, f"masks/{name}", "Remedy", *facts):
        KvasirSEG(polyps).read_mask("images/a.jpg", f"masks/{name}", 64)


def test_soft_edges_and_empty_and_whole_masks_are_masks():
    soft = np.clip(255 - 8 * np.abs(np.arange(64) - 32), 0, 255).astype(np.uint8)[None].repeat(200, axis=0)
    soft = np.concatenate([soft, np.zeros((200, 260), np.uint8)], axis=1)
    for pixels in (soft, np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8), disc()):
        np.testing.assert_array_equal(two_levels("a.png", pixels, "x"), pixels > 127)


def test_swapped_folders_are_told(polyps):
    for first, second in (("images", "other"), ("masks", "images"), ("other", "masks")):
        (polyps / first).rename(polyps / second)
    data = FundusDataModule(KvasirSEG(polyps), 32, 1, polyps / "cache", cache_workers=1)
    with refuses(ManifestError, "masks/a.jpg", "swapped"):
        data.prepare_data()


@pytest.fixture
def drive(tmp_path, photograph):
    """Two photographs in the layout of DRIVE, the vessel across the whole frame; the sensor cuts the second's top."""
    for number, drawing in (("21", {}), ("22", {"y": 30})):
        for folder in ("images", "1st_manual"):
            (tmp_path / "training" / folder).mkdir(parents=True, exist_ok=True)
        pixels = photograph(width=120, height=100, radius=46, **drawing)
        Image.fromarray(pixels).save(tmp_path / "training" / "images" / f"{number}_training.tif")
        mask = np.zeros((100, 120), np.uint8)
        mask[40:46] = 255
        Image.fromarray(mask).save(tmp_path / "training" / "1st_manual" / f"{number}_manual1.gif")
    return tmp_path


PAIR = "training/images/{0}_training.tif", "training/1st_manual/{0}_manual1.gif"


def test_outside_of_the_field_of_view_nothing_is_known_where_that_is_asked_for(drive):
    plain, inside = DRIVE(drive, partial=True), DRIVE(drive, partial=True, field_of_view=True)
    assert plain.identity() != inside.identity()
    for number in ("21", "22"):
        pair = [name.format(number) for name in PAIR]
        image, levels, known = plain.read(pair[0], 64), plain.read_mask(*pair, 64), inside.read_mask(*pair, 64)
        outside = known == NO_MASK
        assert set(np.unique(known)) == {0, 1, NO_MASK} and levels.max() == 1
        np.testing.assert_array_equal(levels[~outside], known[~outside])
        assert (image[outside] == 0).all(), "black in the image"
        offset = np.arange(64) - 31.5
        assert outside[np.hypot(offset[:, None], offset) > 32].all()
        assert outside[0].all() == (number == "22"), "what the sensor cut off"


def test_a_mask_of_another_image_lies_outside_of_the_disc(drive):
    mask = np.zeros((100, 120), np.uint8)
    mask[:, :8] = 255
    Image.fromarray(mask).save(drive / PAIR[1].format("21"))
    with refuses(ManifestError, "21_manual1.gif", "field of view", "Remedy"):
        DRIVE(drive, partial=True).read_mask(*(name.format("21") for name in PAIR), 64)


def test_phantoms_are_unknown_outside_of_the_field_too_and_turned_with_their_image(tmp_path):
    source = PhantomSource(4, seed=1, masks=["vessel"], field_of_view=True)
    turn = Augmentation([v2.RandomAffine(degrees=30)])
    paths = [path for path in source.index().paths if phantom.labels_of(1, int(path))["is_fundus"]]
    assert len(paths) > 1
    for path in paths:
        image, levels = source.read(path, 48), source.read_mask(path, "vessel", 48)
        assert (levels == NO_MASK).any() and image[levels == NO_MASK].mean() < image.mean() / 4
        batch = {
            "image": torch.from_numpy(image).permute(2, 0, 1)[None] / 255,
            "mask": to_levels(torch.from_numpy(levels)[None]),
            "draw": torch.tensor([int(path) + 1]),
        }
        before, after = batch["mask"].clone(), turn(batch)["mask"]
        assert set(after.unique().tolist()) <= set(before.unique().tolist()), "no level between two"
        inside = (after >= 0).float().mean() / (before >= 0).float().mean()
        assert not torch.equal(before, after) and 0.95 < inside < 1.25
