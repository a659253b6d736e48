"""Miniatures of the sets of polyps in their real layout."""

import numpy as np
import pytest
from PIL import Image

from datamodules.sources.pranet import TESTS

KVASIR = ("cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4", "cju0roawvklrq0799vmjorwfv")
SIDE = 64


def polyp():
    """A disc, not aligned with the blocks of a JPEG, bool [64, 64]."""
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.hypot(x - 35.3, y - 27.6) < 13


def save_pair(image, mask=None, seed=0):
    """A frame and its mask, black and white as far as the format allows."""
    image.parent.mkdir(parents=True, exist_ok=True)
    frame = np.random.default_rng(seed).integers(90, 200, size=(SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(frame).save(image)
    if mask is not None:
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(255 * polyp())).convert("RGB").save(mask)


def save_junk(root):
    (root / "__MACOSX").mkdir(parents=True)
    (root / "__MACOSX" / "._a.jpg").write_bytes(b"x")
    (root / "Thumbs.db").write_bytes(b"x")


@pytest.fixture
def kvasir_seg(tmp_path):
    root = tmp_path / "kvasir"
    for name in KVASIR:
        save_pair(root / "images" / f"{name}.jpg", root / "masks" / f"{name}.jpg")
    (root / "kavsir_bboxes.json").write_text("{}")
    save_junk(root / "images")
    return root


@pytest.fixture
def hyperkvasir(tmp_path):
    root = tmp_path / "hyper"
    for name in KVASIR[:2]:
        save_pair(root / "segmented-images" / "images" / f"{name}.jpg", root / "segmented-images/masks" / f"{name}.jpg")
    save_pair(root / "labeled-images" / "lower-gi-tract" / "polyps" / "a.jpg")
    (root / "segmented-images" / "bounding-boxes.json").write_text("{}")
    return root


@pytest.fixture
def cvc_clinicdb(tmp_path):
    root = tmp_path / "clinicdb"
    for number in (1, 2, 25, 26, 612):
        save_pair(root / "Original" / f"{number}.tif", root / "Ground Truth" / f"{number}.tif")
    save_junk(root / "Original")
    return root


@pytest.fixture
def etis_larib(tmp_path):
    root = tmp_path / "etis"
    for number in (1, 2, 196):
        save_pair(root / "ETIS-LaribPolypDB" / f"{number}.tif", root / "Ground Truth" / f"p{number}.tif")
    return root


@pytest.fixture
def pranet(tmp_path):
    root = tmp_path / "pranet"
    for name in ("1", "2", KVASIR[0]):
        save_pair(root / "TrainDataset" / "image" / f"{name}.png", root / "TrainDataset" / "masks" / f"{name}.png")
    for folder in TESTS:
        for name in KVASIR[1:] if folder == "Kvasir" else ("1", "3"):
            test = root / "TestDataset" / folder
            save_pair(test / "images" / f"{name}.png", test / "masks" / f"{name}.png")
    return root


@pytest.fixture
def cvc_colondb(pranet):
    return pranet


@pytest.fixture
def polypgen(tmp_path):
    root = tmp_path / "polypgen"

    def save(folder, name, stem, mask):
        save_pair(folder / f"images_{name}" / f"{stem}.jpg", folder / f"masks_{name}" / f"{mask}.jpg")

    for centre in (1, 2, 3, 4, 5, 6):
        folder = root / f"data_C{centre}"
        save(folder, f"C{centre}", "100H0050", "100H0050_mask")
        save_pair(folder / f"bbox_image_C{centre}" / "100H0050_mask_bbox.jpg")
        (folder / f"bbox_C{centre}").mkdir()
        (folder / f"bbox_C{centre}" / "100H0050.txt").write_text("polyp 1 2 3 4\n")
        save_pair(root / "imagesAll_positive" / f"C{centre}_100H0050.jpg")
    save(root / "data_C3", "C3", "C3_EndoCV2021_00489_", "C3_EndoCV2021_00489_mask")
    for number in (1, 2):
        folder = root / "sequenceData" / "positive" / f"seq{number}"
        for frame in (0, 10):
            save(folder, f"seq{number}", f"frame_{frame}", f"frame_{frame}_mask")
        (folder / f"masks_seq{number}" / "frame_0.txt").write_text("polyp 1 2 3 4\n")
    save_pair(root / "sequenceData" / "negativeOnly" / "seq1_neg" / "frame_0.jpg")
    save_pair(root / "sequenceData" / "negativeOnly" / "seq1_neg" / "frame_1.jpg")
    return root


def masks_of(manifest):
    return dict(zip(manifest.ids, manifest.table.column("mask").to_pylist(), strict=True))
