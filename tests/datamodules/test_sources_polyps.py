"""The sets of polyps, on miniatures in their real layout."""

import numpy as np
import pytest
from people import FRACTIONS, check_no_person_is_on_two_sides
from PIL import Image
from polyp_miniatures import KVASIR, SIDE, masks_of, polyp, save_pair
from refusals import refuses

from datamodules.sources.cvc_clinicdb import CVCClinicDB
from datamodules.sources.cvc_colondb import CVCColonDB
from datamodules.sources.etis_larib import EtisLarib
from datamodules.sources.hyperkvasir import HyperKvasir
from datamodules.sources.kvasir_seg import KvasirSEG
from datamodules.sources.polypgen import PolypGen
from datamodules.sources.pranet import PraNetPack
from datamodules.sources.public import LayoutError
from datamodules.sources.union import UnionSource
from datamodules.splits import split_by_patient

SOURCES = (KvasirSEG, HyperKvasir, CVCClinicDB, EtisLarib, CVCColonDB, PolypGen, PraNetPack)


# -- all of them


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


@pytest.mark.parametrize("source", SOURCES)
def test_another_folder_is_refused_with_the_address(source, tmp_path):
    save_pair(tmp_path / "frames" / "a.png")
    with refuses(LayoutError, "['frames']", source.address):
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
    check_no_person_is_on_two_sides(index, PEOPLE.get(source))


# -- one by one


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
    with refuses(LayoutError, cvc_clinicdb / "metadata.csv", "'612'"):
        CVCClinicDB(cvc_clinicdb).index()
    (cvc_clinicdb / "sequences.csv").write_text("frame,sequence\n" + "".join(f"{frame},7\n" for frame, _ in rows))
    assert set(CVCClinicDB(cvc_clinicdb).index().patients) == {"7"}


@pytest.mark.parametrize(
    ("table", "fact"),
    [
        ("frame,sequence\n1,1\n2,1\n25,2\n26,2\n", "'612'"),
        ("frame,sequence\n1,1\n2,1\n25,2\n26,\n612,29\n", "'26'"),
        ("frame,seq\n1,1\n", "'sequence'"),
    ],
)
def test_clinicdb_refuses_a_table_that_leaves_a_frame_out(cvc_clinicdb, table, fact):
    (cvc_clinicdb / "sequences.csv").write_text(table)
    with refuses(LayoutError, cvc_clinicdb / "sequences.csv", fact):
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
    with refuses(LayoutError, "'Ground Truth/1.tif'", "'Ground Truth/p1.tif'", "'1'"):
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
    with refuses(LayoutError, "'data_C3/images_C3/100H0050.jpg'", "1 of 2", "data.partial=true"):
        PolypGen(inner).index()


def test_pranet_tells_sets_of_the_same_names_apart(pranet):
    manifest = PraNetPack(pranet).index()
    assert manifest.ids[:3] == ["train/1", "train/2", f"train/{KVASIR[0]}"]
    assert "CVC-300/1" in manifest.ids and "CVC-ClinicDB/1" in manifest.ids
    assert manifest.splits == ["train"] * 3 + ["test"] * 10
    assert masks_of(manifest)["ETIS-LaribPolypDB/3"] == "TestDataset/ETIS-LaribPolypDB/masks/3.png"
    assert manifest.num_patients == len(manifest)
    (pranet / "TestDataset" / "CVC-300").rename(pranet / "CVC-300")
    with refuses(LayoutError, "CVC-300", "TestDataset/CVC-300/images"):
        PraNetPack(pranet).index()


@pytest.mark.parametrize("source", [CVCClinicDB, CVCColonDB, EtisLarib])
def test_pranet_is_refused_beside_a_set_whose_images_it_renamed(source, request, pranet):
    other = source(request.getfixturevalue(source.name))
    for members in ((PraNetPack(pranet), other), (other, PraNetPack(pranet))):
        with refuses(ValueError, "data.sources", "'pranet'", f"'{source.name}'"):
            UnionSource({member.name: member for member in members})
