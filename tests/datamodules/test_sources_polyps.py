"""The sets of polyps, on miniatures in their real layout."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from datamodules.sources.cvc_clinicdb import CVCClinicDB
from datamodules.sources.cvc_colondb import CVCColonDB
from datamodules.sources.etis_larib import EtisLarib
from datamodules.sources.hyperkvasir import HyperKvasir
from datamodules.sources.kvasir_seg import KvasirSEG
from datamodules.sources.polypgen import PolypGen
from datamodules.sources.pranet import TESTS, PraNetPack
from datamodules.sources.public import LayoutError
from datamodules.sources.union import UnionSource
from datamodules.splits import split_by_patient

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
SOURCES = (KvasirSEG, HyperKvasir, CVCClinicDB, EtisLarib, CVCColonDB, PolypGen, PraNetPack)
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


@pytest.mark.parametrize("source", SOURCES)
def test_frames_are_whole_and_masks_black_and_white(source, request, labels_of):
    reader = source(request.getfixturevalue(source.name))
    manifest = reader.index()
    assert set(map(str, labels_of(manifest).values())) == {"{'is_fundus': 0}"}
    assert reader.mask_levels == ("background", "polyp")
    levels = reader.read_mask(manifest.paths[0], masks_of(manifest)[manifest.ids[0]], SIDE)
    assert set(np.unique(levels)) == {0, 1}
    assert (levels != polyp()).sum() <= 6
    assert reader.read(manifest.paths[0], SIDE).min() > 0
    assert f"{reader.title} is to be had from {reader.address}" in reader.about
    assert reader.differences["images"][0] == len(manifest)


@pytest.mark.parametrize("source", [KvasirSEG, HyperKvasir, PolypGen])
def test_a_jpeg_mask_holds_other_values_than_black_and_white(source, request):
    reader = source(request.getfixturevalue(source.name))
    mask = next(iter(masks_of(reader.index()).values()))
    with Image.open(reader.root / mask) as image:
        grey = np.asarray(image.convert("L"))
    assert ((grey > 0) != polyp()).sum() > 100


def test_kvasir_seg_makes_an_image_its_own_patient_by_its_name(kvasir_seg, hyperkvasir, pranet):
    manifest = KvasirSEG(kvasir_seg).index()
    assert manifest.ids == manifest.patients == list(KVASIR)
    assert manifest.splits == [""] * 3
    others = (HyperKvasir(hyperkvasir).index().patients, PraNetPack(pranet).index().patients)
    assert all(set(KVASIR) & set(patients) for patients in others)
    assert KvasirSEG.patient_space == HyperKvasir.patient_space == PraNetPack.patient_space == "kvasir"


def test_kvasir_seg_refuses_one_part_of_the_numbered_copies(kvasir_seg, tmp_path):
    for part in ("train", "validation"):
        shutil.copytree(kvasir_seg, tmp_path / "copies" / part)
    with pytest.raises(LayoutError, match=r"validation/ lies beside it. Remedy: data.root=.*/copies'"):
        KvasirSEG(tmp_path / "copies" / "train").index()
    shutil.rmtree(tmp_path / "copies" / "validation")
    assert len(KvasirSEG(tmp_path / "copies" / "train").index()) == len(KVASIR), "a folder that is called train alone"


def test_kvasir_seg_reads_numbered_copies_in_train_and_validation(tmp_path):
    for part in ("train", "validation"):
        for number in (0, 1):
            save_pair(tmp_path / part / "images" / f"{number}.jpg", tmp_path / part / "masks" / f"{number}.jpg")
    manifest = KvasirSEG(tmp_path).index()
    assert manifest.ids == ["train/0", "train/1", "val/0", "val/1"]
    assert manifest.splits == ["train", "train", "val", "val"]
    assert manifest.num_patients == 4
    assert masks_of(manifest)["val/1"] == "validation/masks/1.jpg"
    assert not set(manifest.patients) & {"0", "1"}


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_kvasir_seg_takes_either_name_of_validation_and_a_test_folder(tmp_path, validation):
    for part in ("train", validation, "test"):
        save_pair(tmp_path / part / "images" / "0.jpg", tmp_path / part / "masks" / "0.jpg")
    manifest = KvasirSEG(tmp_path).index()
    assert manifest.ids == ["train/0", "val/0", "test/0"] and manifest.splits == ["train", "val", "test"]
    assert list(masks_of(manifest).values())[1:] == [f"{validation}/masks/0.jpg", "test/masks/0.jpg"]


def test_kvasir_seg_takes_the_authors_lists_for_the_official_split(kvasir_seg, caplog):
    (kvasir_seg / "train.txt").write_text(f"\ufeff{KVASIR[2]}\n{KVASIR[0]}\n\n", encoding="utf-8")
    (kvasir_seg / "val.txt").write_text(f"{KVASIR[1]}.jpg \n")
    manifest = KvasirSEG(kvasir_seg).index()
    assert dict(zip(manifest.ids, manifest.splits, strict=True)) == {
        KVASIR[0]: "train", KVASIR[1]: "val", KVASIR[2]: "train"
    }  # fmt: skip
    assert manifest.patients == list(KVASIR) and "undecided" not in caplog.text
    (kvasir_seg / "train.txt").write_text(f"{KVASIR[0]}\n")
    assert KvasirSEG(kvasir_seg).index().splits == ["train", "val", ""]
    assert "1 images are in neither list: their split is undecided" in caplog.text


@pytest.mark.parametrize("partial", [False, True])
def test_kvasir_seg_misses_an_image_of_the_lists_unless_partial(kvasir_seg, partial, caplog):
    (kvasir_seg / "train.txt").write_text(f"{KVASIR[0]}\n{KVASIR[2]}\n")
    (kvasir_seg / "val.txt").write_text(f"{KVASIR[1]}\n\ncju1\n")
    source = KvasirSEG(kvasir_seg, partial=partial)
    if partial:
        assert source.index().splits == ["train", "val", "train"]
        assert "1 of 4 names of the official split have no image" in caplog.text
        return
    with pytest.raises(LayoutError, match=r"val.txt, row 3: there is no image 'cju1' \(1 of 4 .*data.partial=true"):
        source.index()


def test_kvasir_seg_refuses_lists_that_overlap_and_one_list_alone(kvasir_seg):
    (kvasir_seg / "train.txt").write_text("\n".join(KVASIR))
    with pytest.raises(LayoutError, match="no list of the val images in .*looked for val.txt"):
        KvasirSEG(kvasir_seg).index()
    (kvasir_seg / "val.txt").write_text(f"\n{KVASIR[1]}\n")
    with pytest.raises(LayoutError, match=f"val.txt, row 2: '{KVASIR[1]}' is already in train.txt"):
        KvasirSEG(kvasir_seg).index()


def test_kvasir_seg_on_the_real_images(shared_data):
    source = KvasirSEG(shared_data / "Kvasir-SEG")
    manifest = source.index()
    assert source.differences == {"images": (900, 1000)}
    assert [manifest.splits.count(split) for split in ("train", "val")] == [800, 100]
    levels = source.read_mask(manifest.paths[0], masks_of(manifest)[manifest.ids[0]], 352)
    assert set(np.unique(levels)) == {0, 1} and 0.005 < levels.mean() < 0.9
    assert source.read(manifest.paths[0], 352).shape == (352, 352, 3)


def test_hyperkvasir_reads_the_segmented_images_alone(hyperkvasir):
    manifest = HyperKvasir(hyperkvasir).index()
    assert manifest.ids == manifest.patients == list(KVASIR[:2])
    assert masks_of(manifest)[KVASIR[0]] == f"segmented-images/masks/{KVASIR[0]}.jpg"


def test_clinicdb_without_its_sequences_is_one_patient(cvc_clinicdb, caplog):
    manifest = CVCClinicDB(cvc_clinicdb).index()
    assert sorted(manifest.ids, key=int) == ["1", "2", "25", "26", "612"]
    assert manifest.num_patients == 1
    assert "there is no sequences.csv and no metadata.csv" in caplog.text and "puts them on one side" in caplog.text


def test_clinicdb_takes_sequences_from_a_table(cvc_clinicdb, caplog):
    (cvc_clinicdb / "sequences.csv").write_text("\ufeffframe, sequence\n1,1\n2.tif,1\n25,2\n26,2\n612,29\n")
    manifest = CVCClinicDB(cvc_clinicdb).index()
    assert dict(zip(manifest.ids, manifest.patients, strict=True)) == {
        **{"1": "1", "2": "1"},
        **{"25": "2", "26": "2", "612": "29"},
    }
    assert "sequences.csv" not in caplog.text


def test_clinicdb_takes_sequences_from_the_table_of_the_mirror(cvc_clinicdb, caplog):
    rows = (("1", "1"), ("2", "1"), ("25", "2"), ("26", "2"), ("612", "29"))
    lines = ["frame_id,sequence_id,tif_image_path", *(f"{frame},{its},TIF/Original/{frame}.tif" for frame, its in rows)]
    (cvc_clinicdb / "metadata.csv").write_text("\n".join(lines) + "\n")
    manifest = CVCClinicDB(cvc_clinicdb).index()
    assert dict(zip(manifest.ids, manifest.patients, strict=True)) == dict(rows)
    assert "one side" not in caplog.text
    (cvc_clinicdb / "metadata.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(LayoutError, match="metadata.csv has no sequence for frame '612'"):
        CVCClinicDB(cvc_clinicdb).index()
    (cvc_clinicdb / "sequences.csv").write_text("frame,sequence\n" + "".join(f"{frame},7\n" for frame, _ in rows))
    assert set(CVCClinicDB(cvc_clinicdb).index().patients) == {"7"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("frame,sequence\n1,1\n2,1\n25,2\n26,2\n", "no sequence for frame '612'"),
        ("frame,sequence\n1,1\n2,1\n25,2\n26,\n612,29\n", "no sequence for frame '26'"),
        ("frame,seq\n1,1\n", "no column 'sequence'"),
    ],
)
def test_clinicdb_refuses_a_table_that_leaves_a_frame_out(cvc_clinicdb, table, message):
    (cvc_clinicdb / "sequences.csv").write_text(table)
    with pytest.raises(LayoutError, match=message):
        CVCClinicDB(cvc_clinicdb).index()


def test_clinicdb_reads_the_mirror_in_a_folder_of_its_format(cvc_clinicdb):
    root = cvc_clinicdb.parent / "mirror"
    for number in (1, 2):
        save_pair(root / "PNG" / "Original" / f"{number}.png", root / "PNG" / "Ground Truth" / f"{number}.png")
    assert masks_of(CVCClinicDB(root).index()) == {"1": "PNG/Ground Truth/1.png", "2": "PNG/Ground Truth/2.png"}


@pytest.mark.parametrize("source", [EtisLarib, CVCColonDB])
def test_a_set_that_cannot_be_parted_is_a_test_whole(source, request):
    reader = source(request.getfixturevalue(source.name))
    assert set(reader.index().splits) == {"test"}
    for seed in range(10):
        assert set(split_by_patient(reader.index(), FRACTIONS, seed).splits) == {"test"}


def test_etis_masks_have_a_letter_before_the_number(etis_larib):
    manifest = EtisLarib(etis_larib).index()
    assert masks_of(manifest) == {number: f"Ground Truth/p{number}.tif" for number in ("1", "196", "2")}
    assert manifest.paths[0] == "ETIS-LaribPolypDB/1.tif"
    save_pair(etis_larib / "Ground Truth" / "1.tif")
    with pytest.raises(LayoutError, match="are both of the image '1'"):
        EtisLarib(etis_larib).index()


def test_colondb_reads_its_folder_of_the_pack_alone(cvc_colondb):
    expected = {number: f"TestDataset/CVC-ColonDB/masks/{number}.png" for number in ("1", "3")}
    assert masks_of(CVCColonDB(cvc_colondb).index()) == expected
    alone = CVCColonDB(cvc_colondb / "TestDataset").index()
    assert masks_of(alone)["3"] == "CVC-ColonDB/masks/3.png"


def test_polypgen_reads_images_once_and_finds_every_mask(polypgen, caplog):
    manifest = PolypGen(polypgen).index()
    masks = masks_of(manifest)
    assert len(manifest) == 7 + 4 + 2
    assert masks["C1/100H0050"] == "data_C1/masks_C1/100H0050_mask.jpg"
    assert masks["C3/C3_EndoCV2021_00489_"] == "data_C3/masks_C3/C3_EndoCV2021_00489_mask.jpg"
    assert masks["positive/seq2/frame_10"] == "sequenceData/positive/seq2/masks_seq2/frame_10_mask.jpg"
    assert masks["negative/seq1_neg/frame_0"] == ""
    assert not any("bbox" in path or "imagesAll" in path for path in manifest.paths)
    assert "have no mask" not in caplog.text


def test_polypgen_keeps_a_sequence_together_and_no_centre(polypgen):
    manifest = PolypGen(polypgen).index()
    patients = dict(zip(manifest.ids, manifest.patients, strict=True))
    assert patients["positive/seq1/frame_0"] == patients["positive/seq1/frame_10"] == "positive/seq1"
    assert patients["negative/seq1_neg/frame_0"] == patients["negative/seq1_neg/frame_1"]
    assert len({patient for name, patient in patients.items() if name.startswith("C3/")}) == 2


def test_polypgen_takes_the_folder_above_and_refuses_a_missing_mask(polypgen):
    inner = polypgen.rename(polypgen.parent / "PolypGen2021_MultiCenterData_v3")
    assert len(PolypGen(inner).index()) == len(PolypGen(inner.parent).index())
    (inner / "data_C3" / "masks_C3" / "100H0050_mask.jpg").unlink()
    with pytest.raises(LayoutError, match=r"no mask of 'data_C3/images_C3/100H0050.jpg'.*1 of 2"):
        PolypGen(inner).index()


def test_pranet_tells_sets_of_the_same_names_apart(pranet):
    manifest = PraNetPack(pranet).index()
    assert manifest.ids[:3] == ["train/1", "train/2", f"train/{KVASIR[0]}"]
    assert "CVC-300/1" in manifest.ids and "CVC-ClinicDB/1" in manifest.ids
    assert manifest.splits == ["train"] * 3 + ["test"] * 10
    assert masks_of(manifest)["ETIS-LaribPolypDB/3"] == "TestDataset/ETIS-LaribPolypDB/masks/3.png"
    assert manifest.num_patients == len(manifest)
    (pranet / "TestDataset" / "CVC-300").rename(pranet / "CVC-300")
    with pytest.raises(LayoutError, match="no images of CVC-300.*TestDataset/CVC-300/images"):
        PraNetPack(pranet).index()


@pytest.mark.parametrize("source", [CVCClinicDB, CVCColonDB, EtisLarib])
def test_pranet_is_refused_beside_a_set_whose_images_it_renamed(source, request, pranet):
    other = source(request.getfixturevalue(source.name))
    for members in ((PraNetPack(pranet), other), (other, PraNetPack(pranet))):
        message = f"'pranet' holds the images of '{source.name}' too.*Remedy: leave one of the two out"
        with pytest.raises(ValueError, match=message):
            UnionSource({member.name: member for member in members})


def test_an_image_of_kvasir_is_on_one_side_of_a_union_with_pranet(kvasir_seg, hyperkvasir, pranet):
    members = (KvasirSEG(kvasir_seg), HyperKvasir(hyperkvasir), PraNetPack(pranet))
    index = UnionSource({member.name: member for member in members}).index()
    same = {name: [row for row, there in enumerate(index.ids) if there.endswith(name)] for name in KVASIR}
    assert [len(rows) for rows in same.values()] == [3, 3, 2]
    for seed in range(20):
        splits = split_by_patient(index, FRACTIONS, seed).splits
        assert all(len({splits[row] for row in rows}) == 1 for rows in same.values())


@pytest.mark.parametrize("source", SOURCES)
def test_another_folder_is_refused_with_the_address(source, tmp_path):
    save_pair(tmp_path / "frames" / "a.png")
    with pytest.raises(LayoutError, match=f"Found: .*frames.*{re.escape(source.address)}"):
        source(tmp_path).index()


PEOPLE = {  # of each source the images of one person; of a source that is not here, every image is its own
    CVCClinicDB: (("1", "2"), ("25", "26"), ("612",)),
    PolypGen: (
        *((f"C{centre}/100H0050",) for centre in range(1, 7)),
        ("C3/C3_EndoCV2021_00489_",),
        ("positive/seq1/frame_0", "positive/seq1/frame_10"),
        ("positive/seq2/frame_0", "positive/seq2/frame_10"),
        ("negative/seq1_neg/frame_0", "negative/seq1_neg/frame_1"),
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_no_person_is_on_two_sides(source, request):
    root = request.getfixturevalue(source.name)
    if source is CVCClinicDB:
        (root / "sequences.csv").write_text("frame,sequence\n1,1\n2,1\n25,2\n26,2\n612,29\n")
    index = source(root).index()
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
