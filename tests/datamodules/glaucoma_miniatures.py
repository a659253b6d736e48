"""Miniatures of the sets of glaucoma in the layouts that are published, and what is read off their manifests."""

import json

import numpy as np
import openpyxl
import pytest
from PIL import Image

from datamodules.sources.acrima import ACRIMA
from datamodules.sources.airogs import AIROGS
from datamodules.sources.airogs_light import AirogsLight
from datamodules.sources.g1020 import G1020
from datamodules.sources.glaucoma_fundus import GlaucomaFundus
from datamodules.sources.lag import LAG
from datamodules.sources.origa import ORIGA
from datamodules.sources.papila import PAPILA
from datamodules.sources.refuge import REFUGE
from datamodules.sources.refuge_repack import RefugeRepack

DISC, CUP = (150, 90, 30), (155, 90, 12)  # x, y, radius in the photographs that `save_photograph` draws, of 242 x 162
SIDE, LEFT, TOP = 188, 121 - 94, 81 - 94  # of the square around their field of view
PLAIN, REFUGE_GREYS = (0, 1, 2), (255, 128, 0)  # outside, disc, cup


def save_mask(path, greys, size=(242, 162)):
    y, x = np.mgrid[: size[1], : size[0]]
    mask = np.full((size[1], size[0]), greys[0], np.uint8)
    for (cx, cy, radius), grey in zip((DISC, CUP), greys[1:], strict=True):
        mask[np.hypot(x - cx, y - cy) <= radius] = grey
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def save_workbook(path, rows):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)


def save_contour(path, x, y, radius):
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, np.column_stack([x + radius * np.cos(angle), y + radius * np.sin(angle)]))


def airogs(root, save):
    rows = ["challenge_id,class", "TRAIN000000,NRG", "TRAIN000001,RG", "TRAIN070000,NRG", "TRAIN070001,U"]
    for name in ("0/TRAIN000000.jpg", "0/TRAIN000001.JPG", "5/TRAIN070000.jpg", "5/TRAIN070001.jpg"):
        save(root / name)
    (root / "train_labels.csv").write_text("\n".join(rows), encoding="utf-8-sig")


def airogs_light(root, save):
    for part in ("train", "validation", "test"):
        for label in ("NRG", "RG"):
            save(root / "eyepac-light-v2-512-jpg" / part / label / "EyePACS-1.jpg")
    (root / "eyepac-light-v2-512-jpg" / "metadata.csv").write_text("id\n1\n")


def refuge(root, save):
    for folder, name in (("Glaucoma", "g0001"), ("Non-Glaucoma", "n0001"), ("Non-Glaucoma", "n0002")):
        save(root / "REFUGE-Training400" / "Training400" / folder / f"{name}.jpg")
        save_mask(root / "Annotation-Training400" / "Disc_Cup_Masks" / folder / f"{name}.bmp", REFUGE_GREYS)
    (root / "REFUGE-Training400" / "Training400" / "Glaucoma" / "Thumbs.db").write_bytes(b"junk")
    save(root / "__MACOSX" / "Training400" / "._g0001.jpg")
    for name in ("V0001", "V0002"):
        save(root / "REFUGE-Validation400" / f"{name}.jpg")
        save_mask(root / "REFUGE-Validation400-GT" / "Disc_Cup_Masks" / f"{name}.bmp", REFUGE_GREYS)
    for folder, name in (("G", "T0001"), ("N", "T0002")):
        save(root / "Test400" / f"{name}.jpg")
        save_mask(root / "REFUGE-Test-GT" / "Disc_Cup_Masks" / folder / f"{name}.bmp", REFUGE_GREYS)
    save_workbook(
        root / "REFUGE-Validation400-GT" / "Fovea_locations.xlsx",
        [["ID", "ImgName", "Fovea_X", "Fovea_Y"], [1, "V0001.jpg", 30.5, 20.1], [2, "V0002.jpg ", 31.5, 21.1]],
    )
    save_workbook(
        root / "REFUGE-Test-GT" / "Glaucoma_label_and_Fovea_location.xlsx",
        [["ID", "ImgName", "Label(Glaucoma=1)", "Fovea_X"], [1, "T0001.jpg", 1, 9.5], [2, "T0002.jpg", 0, 9.5]],
    )


def refuge_repack(root, save):
    for split, names in (("train", ("g0001", "n0001")), ("val", ("V0001",)), ("test", ("T0001",))):
        index = {}
        for number, name in enumerate(names):
            index[str(number)] = {"ImgName": f"{name}.jpg", "Size_X": 242, "Size_Y": 162}
            if split == "train":
                index[str(number)]["Label"] = int(name[0] == "g")
            save(root / split / "Images" / f"{name}.jpg")
            save(root / split / "Images_Cropped" / f"{name}.jpg")
            save_mask(root / split / "Masks" / f"{name}.png", PLAIN)
            save_mask(root / split / "Masks_Cropped" / f"{name}.png", PLAIN)
            save_mask(root / split / "gts" / f"{name}.bmp", REFUGE_GREYS)
        (root / split / "index.json").write_text(json.dumps(index))


def papila(root, save, header=None):
    header = header or [
        [None, "Age", "Gender", "Diagnosis", "Refractive_Defect", None],
        [None, None, None, None, "dioptre_1", "dioptre_2"],
        ["ID"],
    ]
    for eye, diagnoses in (("OD", (0, 1, 2)), ("OS", (0, 2, 1))):
        rows = [[f"#{n:03d}", 47, 0, diagnosis, 0.75, 0.75] for n, diagnosis in zip((2, 4, 15), diagnoses, strict=True)]
        save_workbook(root / "ClinicalData" / f"patient_data_{eye.lower()}.xlsx", [*header, *rows])
        for number in (2, 4, 15):
            save(root / "FundusImages" / f"RET{number:03d}{eye}.jpg")
            for part, (x, y, radius) in (("disc", DISC), ("cup", CUP)):
                for expert, shift in ((1, 0), (2, 7)):
                    name = f"RET{number:03d}{eye}_{part}_exp{expert}.txt"
                    save_contour(root / "ExpertsSegmentations" / "Contours" / name, x + shift, y, radius)


def origa(root, save):
    for name in ("001", "002", "003"):
        for folder in ("Images", "Images_Cropped", "Images_Square"):
            save(root / folder / f"{name}.jpg")
        save_mask(root / "Masks" / f"{name}.png", PLAIN)
    (root / "Semi-automatic-annotations").mkdir()
    (root / "Semi-automatic-annotations" / "001.mat").write_bytes(b"MATLAB")
    (root / "OrigaList.csv").write_text(
        "Eye,Filename,ExpCDR,Set,Glaucoma\nOD,001.jpg,0.7097,A,0\nOS,002.jpg,0.6953,B,1\nOS,003.jpg,0.9629,A,0\n"
    )
    (root / "origa_info.csv").write_text("Image,Label\nx/001.jpg,1\n")


def g1020(root, save):
    for name in ("image_0", "image_1"):
        for folder in ("Images", "Images_Square", "Images_Cropped/img"):
            save(root / folder / f"{name}.jpg")
        save_mask(root / "Masks" / f"{name}.png", PLAIN)
        (root / "Images" / f"{name}.json").write_text("{}")
    save(root / "Images" / "image_2.jpg")
    (root / "G1020.csv").write_text("imageID,binaryLabels\nimage_0.jpg,0\nimage_1.jpg,1\nimage_2.jpg,0\n")


def lag(root, save):
    for label in ("non_glaucoma", "suspicious_glaucoma"):
        for name in ("1", "2"):
            save(root / label / "image" / f"{name}.jpg")
            save(root / label / "attention_map" / f"{name}.jpg")
            (root / label / "label").mkdir(exist_ok=True)
            (root / label / "label" / f"{name}.txt").write_text("0")


def acrima(root, save):
    for name in ("noG/Im001_ACRIMA.jpg", "G/Im686_g_ACRIMA.jpg", "G/Im702_g_ACRIMA.JPG"):
        save(root / name)


def acrima_flat(root, save):
    for name in ("Im001_ACRIMA.jpg", "Im686_g_ACRIMA.jpg", "Im702_g_ACRIMA.JPG"):
        save(root / name)


def glaucoma_fundus(root, save):
    for split in ("train", "val", "test"):
        for label in ("anormal_control", "bearly_glaucoma", "cadvanced_glaucoma"):
            save(root / split / label / "103.png")


MINIATURES = {
    ACRIMA: acrima,
    AIROGS: airogs,
    AirogsLight: airogs_light,
    G1020: g1020,
    GlaucomaFundus: glaucoma_fundus,
    LAG: lag,
    ORIGA: origa,
    PAPILA: papila,
    REFUGE: refuge,
    RefugeRepack: refuge_repack,
}
MASKED = (G1020, ORIGA, PAPILA, REFUGE, RefugeRepack)


@pytest.fixture
def made(tmp_path, save_small):
    """`made(source)` makes a miniature of a dataset of glaucoma and gives its root."""

    def make(source, save=save_small, **how):
        MINIATURES[source](tmp_path, save, **how)
        return tmp_path

    return make


def masks_of(manifest):
    return manifest.table.column("mask").to_pylist()


def glaucoma(labels):
    return {name: known.get("is_gc") for name, known in labels.items()}
