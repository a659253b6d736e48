"""Kvasir-SEG and its twin in HyperKvasir: the official split, numbered copies, the real images."""

import shutil

import numpy as np
import pytest
from people import FRACTIONS
from polyp_miniatures import KVASIR, masks_of, save_pair
from refusals import refuses

from datamodules.sources.hyperkvasir import HyperKvasir
from datamodules.sources.kvasir_seg import KvasirSEG
from datamodules.sources.pranet import PraNetPack
from datamodules.sources.public import LayoutError
from datamodules.sources.union import UnionSource
from datamodules.splits import split_by_patient


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
    with refuses(LayoutError, "validation/", f"data.root={str(tmp_path / 'copies')!r}"):
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
    with refuses(LayoutError, "val.txt", "row 3", "'cju1'", "1 of 4", "data.partial=true"):
        source.index()


def test_kvasir_seg_refuses_lists_that_overlap_and_one_list_alone(kvasir_seg):
    (kvasir_seg / "train.txt").write_text("\n".join(KVASIR))
    with refuses(LayoutError, repr(str(kvasir_seg)), "val.txt"):
        KvasirSEG(kvasir_seg).index()
    (kvasir_seg / "val.txt").write_text(f"\n{KVASIR[1]}\n")
    with refuses(LayoutError, "val.txt", "row 2", f"'{KVASIR[1]}'", "train.txt"):
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


def test_an_image_of_kvasir_is_on_one_side_of_a_union_with_pranet(kvasir_seg, hyperkvasir, pranet):
    members = (KvasirSEG(kvasir_seg), HyperKvasir(hyperkvasir), PraNetPack(pranet))
    index = UnionSource({member.name: member for member in members}).index()
    same = {name: [row for row, there in enumerate(index.ids) if there.endswith(name)] for name in KVASIR}
    assert [len(rows) for rows in same.values()] == [3, 3, 2]
    for seed in range(20):
        splits = split_by_patient(index, FRACTIONS, seed).splits
        assert all(len({splits[row] for row in rows}) == 1 for rows in same.values())
