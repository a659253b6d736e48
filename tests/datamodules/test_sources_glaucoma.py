"""Datasets of glaucoma, of the optic disc and of the cup: miniatures in the layouts that are published."""

import json
import re
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from omegaconf import OmegaConf
from PIL import Image

from datamodules.manifest import ManifestError
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
from datamodules.sources.union import UnionSource
from datamodules.splits import split_by_patient

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
OPTIONS = Path(__file__).parents[2] / "experiments" / "conf" / "data"
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
    """`made(source)` makes a miniature of a dataset and gives its root."""

    def make(source, save=save_small, **how):
        MINIATURES[source](tmp_path, save, **how)
        return tmp_path

    return make


def masks_of(manifest):
    return manifest.table.column("mask").to_pylist()


def glaucoma(labels):
    return {name: known.get("is_gc") for name, known in labels.items()}


# -- all of them


@pytest.mark.parametrize("source", MINIATURES)
def test_a_folder_with_something_else_says_where_the_data_are_to_be_had(source, tmp_path, save_small):
    save_small(tmp_path / "photos" / "IMG_1.jpg")
    (tmp_path / "readme.txt").write_text("holidays")
    with pytest.raises(LayoutError, match=re.escape(source.address)) as raised:
        source(tmp_path).index()
    assert "photos" in str(raised.value) and source.title in str(raised.value)


PEOPLE = {  # of each source the images of one person; of a source that is not here, every image is its own
    PAPILA: (("RET002OD", "RET002OS"), ("RET004OD", "RET004OS"), ("RET015OD", "RET015OS")),
}


@pytest.mark.parametrize("source", MINIATURES)
def test_no_person_is_on_two_sides_of_the_split(source, made):
    index = source(made(source)).index()
    people = PEOPLE.get(source, tuple((name,) for name in index.ids))
    assert sorted(name for person in people for name in person) == sorted(index.ids)
    assert index.num_patients == len(people)
    for seed in range(20):
        manifest = split_by_patient(index, FRACTIONS, seed)
        split = dict(zip(manifest.ids, manifest.splits, strict=True))
        assert all(len({split[name] for name in person}) == 1 for person in people)
        drawn = {("train", "val")} if "val" not in index.splits else set()  # validation is drawn from training
        moved = {(was, now) for was, now in zip(index.splits, manifest.splits, strict=True) if was and was != now}
        assert moved <= drawn


@pytest.mark.parametrize("source", MINIATURES)
def test_the_option_names_the_source_and_conditions_that_it_has(source, made):
    options = OmegaConf.to_container(OmegaConf.load(OPTIONS / f"{source.name}.yaml"), resolve=False)
    assert options["source"]["_target_"] == f"{source.__module__}.{source.__name__}"
    conditions = options.get("grid", {}).get("conditions", {})
    known = source(made(source)).index().table.column("is_gc").to_pylist()
    assert {condition["is_gc"] for condition in conditions.values() if condition} <= set(known)


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
    with pytest.raises(LayoutError, match=r"row 4: there is no image 'TRAIN070000' \(2 of 4.*data.partial=true"):
        AIROGS(root).index()
    assert AIROGS(root, partial=True).index().ids == ["TRAIN000000", "TRAIN000001"]


def test_airogs_light_keeps_the_split_and_images_of_the_same_name_apart(made, labels_of):
    manifest = AirogsLight(made(AirogsLight)).index()
    assert manifest.splits == ["train", "train", "val", "val", "test", "test"]
    assert manifest.ids[2:4] == ["validation/NRG/EyePACS-1", "validation/RG/EyePACS-1"]
    assert list(glaucoma(labels_of(manifest)).values()) == [0, 1] * 3


def test_airogs_light_may_be_the_folder_itself(made):
    assert len(AirogsLight(made(AirogsLight) / "eyepac-light-v2-512-jpg").index()) == 6


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


def test_refuge_names_the_row_of_a_bad_label_in_its_workbook(made):
    root = made(REFUGE)
    table = root / "REFUGE-Test-GT" / "Glaucoma_label_and_Fovea_location.xlsx"
    save_workbook(table, [["ImgName", "Label"], ["T0001.jpg", 1], [None, None], ["T0002.jpg", 2]])
    name = "REFUGE: REFUGE-Test-GT/Glaucoma_label_and_Fovea_location.xlsx, row 4, column 'glaucoma': '2' is not a label"
    with pytest.raises(ManifestError, match=name):
        REFUGE(root).index()


def test_refuge_needs_labels_of_the_test_images(made):
    root = made(REFUGE)
    save_workbook(root / "REFUGE-Test-GT" / "Glaucoma_label_and_Fovea_location.xlsx", [["ImgName"], ["T0001.jpg"]])
    with pytest.raises(LayoutError, match=r"no columns ImgName and one of label\(glaucoma=1\).*grand-challenge"):
        REFUGE(root).index()


def test_refuge_refuses_a_training_image_without_a_class(made, save_small):
    root = made(REFUGE)
    save_small(root / "REFUGE-Training400" / "Training400" / "V0001.jpg")
    with pytest.raises(LayoutError, match="no class in the name 'REFUGE-Training400/Training400/V0001.jpg'"):
        REFUGE(root).index()


@pytest.mark.parametrize(
    ("source", "greys", "problem"),
    [
        (REFUGE, (0, 128, 255), "has 0 in its corner"),
        (REFUGE, PLAIN, r"has the grey values \[1, 2\]"),
        (RefugeRepack, REFUGE_GREYS, r"has the grey values \[128, 255\]"),
        (RefugeRepack, (2, 1, 0), "has 2 in its corner"),
        (ORIGA, (0, 128, 255), r"has the grey values \[128, 255\]"),
        (G1020, (0, 128, 255), r"has the grey values \[128, 255\]"),
    ],
)
def test_a_mask_of_another_coding_is_refused(source, greys, problem, made, save_photograph):
    root = made(source, save=save_photograph)
    reader = source(root)
    manifest = reader.index()
    save_mask(root / masks_of(manifest)[0], greys)
    with pytest.raises(LayoutError, match=f"{problem}.*background"):
        reader.read_mask(manifest.paths[0], masks_of(manifest)[0], 64)


def test_refuge_repack_takes_masks_and_leaves_gts_and_knows_labels_of_training_only(made, labels_of):
    manifest = RefugeRepack(made(RefugeRepack)).index()
    assert glaucoma(labels_of(manifest)) == {"g0001": 1, "n0001": 0, "V0001": None, "T0001": None}
    assert manifest.splits == ["train", "train", "val", "test"]
    assert masks_of(manifest)[2] == "val/Masks/V0001.png" and manifest.paths[2] == "val/Images/V0001.jpg"


def test_refuge_repack_names_the_record_of_its_index(made):
    root = made(RefugeRepack)
    index = root / "train" / "index.json"
    index.write_text(index.read_text().replace('"Label": 0', '"Label": 3'))
    with pytest.raises(ManifestError, match="train/index.json, record 2, column 'Label': '3' is not a label"):
        RefugeRepack(root).index()


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"0": {"Name": "g0001.jpg"}}', "3", '[{"ImgName": 1}]'])
def test_refuge_repack_names_an_index_that_is_none(made, text):
    root = made(RefugeRepack)
    (root / "train" / "index.json").write_text(text)
    with pytest.raises(LayoutError, match="train/index.json is no list of records with 'ImgName'.*kaggle.com"):
        RefugeRepack(root).index()


HEADERS = {
    "three rows": None,
    "the id's name in the second": [[None, "Age", "Gender", "Diagnosis"], ["ID", None, None, None, "dioptre_1"]],
    "saved by pandas": [["Unnamed: 0", "Age", "Gender", "Diagnosis"], [None, None, None, None, "dioptre_1"], ["ID"]],
    "one row": [["ID", "Age", "Gender", "Diagnosis"]],
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_papila_suspects_are_unknown_whatever_the_header_rows(made, labels_of, header):
    manifest = PAPILA(made(PAPILA, header=header)).index()
    labels = labels_of(manifest)
    assert glaucoma(labels) == {
        "RET002OD": 0, "RET004OD": 1, "RET015OD": None, "RET002OS": 0, "RET004OS": None, "RET015OS": 1
    }  # fmt: skip
    assert labels["RET015OD"] == {"eye_side": 0, "is_fundus": 1}
    assert labels["RET015OS"] == {"eye_side": 1, "is_gc": 1, "is_fundus": 1}
    assert manifest.patients == ["002", "004", "015"] * 2


def test_papila_takes_the_first_expert_and_no_mask_where_an_outline_is_not_there(made):
    root = made(PAPILA)
    (root / "ExpertsSegmentations" / "Contours" / "RET002OD_cup_exp1.txt").unlink()
    contours = "ExpertsSegmentations/Contours/RET004OD"
    assert masks_of(PAPILA(root).index())[:2] == ["", f"{contours}_disc_exp1.txt|{contours}_cup_exp1.txt"]


@pytest.mark.parametrize("text", ["no numbers", "1 2 3\n4 5 6\n7 8 9\n", "1 2\n3 4\n", "1 2\n3 4\n5 400\n"])
def test_papila_names_an_outline_that_does_not_fit_its_photograph(made, save_photograph, text):
    reader = PAPILA(made(PAPILA, save=save_photograph))
    manifest = reader.index()
    mask = masks_of(manifest)[0]
    (reader.root / mask.split("|")[0]).write_text(text)
    with pytest.raises(ManifestError, match="RET002OD_disc_exp1.txt"):
        reader.read_mask(manifest.paths[0], mask, 64)


@pytest.mark.parametrize(("header", "row"), list(zip(HEADERS.values(), (5, 4, 5, 3), strict=True)), ids=HEADERS)
def test_papila_names_the_row_of_the_workbook(made, header, row):
    root = made(PAPILA, header=header)
    (root / "FundusImages" / "RET004OS.jpg").unlink()
    place = f"ClinicalData/patient_data_os.xlsx, row {row}: there is no image 'RET004OS'"
    with pytest.raises(LayoutError, match=place):
        PAPILA(root).index()


def test_papila_without_the_columns_or_without_patients(made):
    root = made(PAPILA, header=[[None, "Age", "Gender", "Diagnosis"], [None] * 3, ["number"]])
    with pytest.raises(LayoutError, match="patient_data_od.xlsx has no columns 'ID' and 'Diagnosis'.*figshare"):
        PAPILA(root).index()
    header = [["ID", "Age", "Gender", "Diagnosis"], ["years"], ["units"]]
    save_workbook(root / "ClinicalData" / "patient_data_od.xlsx", header)
    with pytest.raises(LayoutError, match="names no patient as #002 is named"):
        PAPILA(root).index()


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
    with pytest.raises(LayoutError, match="ORIGA: OrigaList.csv, row 4, column 'Set': 'C' is no set.*Known: A, B, or"):
        ORIGA(root).index()


def test_images_without_a_mask_are_counted_and_where_all_are_the_names_are_shown(made, caplog):
    root = made(ORIGA)
    (root / "Masks" / "002.png").unlink()
    assert masks_of(ORIGA(root).index()) == ["Masks/001.png", "", "Masks/003.png"]
    assert "ORIGA: 1 of 3 images have no mask" in caplog.text and "masks: 2 found, 650 published" in caplog.text
    for name in ("001", "003"):
        (root / "Masks" / f"{name}.png").rename(root / "Masks" / f"{name}_mask.png")
    found = "no image has a mask: images are called 001.jpg, 002.jpg, 003.jpg, …, masks Masks/001_mask.png, Masks/003_m"
    with pytest.raises(LayoutError, match=f"{found}.*Remedy"):
        ORIGA(root).index()


@pytest.mark.parametrize("source", [source for source in MASKED if source is not PAPILA])
def test_masks_of_other_names_than_the_images_are_refused(source, made):
    root = made(source)
    for path in masks_of(source(root).index()):
        if path:
            (root / path).rename((root / path).with_name(f"mask of {Path(path).name}"))
    with pytest.raises(LayoutError, match=f"no image has a mask.*{re.escape(source.address)}"):
        source(root).index()


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
    with pytest.raises(LayoutError, match=f"no class in the name '.*{name}'.*looked for the names Im<n>_g_ACRIMA"):
        ACRIMA(tmp_path).index()


@pytest.mark.parametrize(("name", "moved"), [("G/Im686_g_ACRIMA.jpg", "noG"), ("noG/Im001_ACRIMA.jpg", "G")])
def test_acrima_refuses_an_image_in_the_wrong_folder(made, save_small, name, moved):
    root = made(ACRIMA)
    save_small(root / "noG" / "Im002_ACRIMA.jpg")
    (root / name).rename(root / moved / Path(name).name)
    with pytest.raises(LayoutError, match=f"{moved}/{Path(name).name}.*belong into the folder G"):
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
