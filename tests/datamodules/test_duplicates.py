"""The same photograph twice: planted among phantoms and among real photographs."""

import io
from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from refusals import refuses

from datamodules import duplicates, likeness, phantom
from datamodules.duplicates import Duplicate, find_duplicates, groups, rows_to_drop
from datamodules.field_of_view import detect_field_of_view
from datamodules.images import read_image, square_crop
from datamodules.sources.chase_db1 import ChaseDB1
from datamodules.sources.drive import DRIVE
from datamodules.sources.rahim_dr import RahimDR

RANK = ("test", "val", "train", "")


def encoded(rgb, **how):
    """An image as a file and back."""
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, **how)
    return read_image(file)


def smaller(rgb, factor):
    size = (round(rgb.shape[1] * factor), round(rgb.shape[0] * factor))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


def mirrored(rgb):
    return np.ascontiguousarray(rgb[:, ::-1])


def brighter(rgb):
    return np.clip(rgb * 1.15, 0, 255).astype(np.uint8)


PLANTED = {
    "jpeg 50": lambda rgb: encoded(rgb, format="JPEG", quality=50),
    "jpeg 75": lambda rgb: encoded(rgb, format="JPEG", quality=75),
    "half": lambda rgb: smaller(rgb, 0.5),
    "70 percent": lambda rgb: smaller(rgb, 0.7),
    "mirrored": mirrored,
    "mirrored jpeg": lambda rgb: encoded(mirrored(rgb), format="JPEG", quality=60),
    "brighter": brighter,
    "png": lambda rgb: encoded(rgb, format="PNG", compress_level=1),
}


def pairs(found):
    return {(duplicate.first, duplicate.second): duplicate.kind for duplicate in found}


@pytest.fixture(scope="module")
def phantoms():
    """Twelve phantoms of six patients, both eyes of each, uint8 [12, 192, 192, 3]."""
    clear = {"is_retinal_region_readable": 1, "is_macular_readable": 1, "is_optic_disc_readable": 1}
    return np.stack([phantom.render(3, index, 192, clear).image for index in range(12)])


@pytest.mark.parametrize("size", [64, 96, 128])
def test_planted_phantoms_are_found_and_nothing_else(phantoms, size):
    jpeg, bright = PLANTED["jpeg 75"](phantoms[3]), brighter(phantoms[5])
    flipped, flipped_jpeg = mirrored(phantoms[7]), PLANTED["mirrored jpeg"](phantoms[8])
    squares = [*phantoms, phantoms[0], jpeg, bright, flipped, flipped_jpeg]
    found = find_duplicates(np.stack([smaller(square, size / 192) for square in squares]))
    expected = {(0, 12): "exact", (3, 13): "near", (5, 14): "near", (7, 15): "mirrored", (8, 16): "mirrored"}
    assert pairs(found) == expected
    assert [duplicate.first for duplicate in found] == [0, 3, 5, 7, 8]
    assert all(duplicates.MIN_SIMILARITY <= duplicate.similarity <= 1 for duplicate in found)
    assert found[0].similarity == 1 and found[3].similarity > 0.999


def test_many_copies_of_one_image_are_not_all_compared(phantoms, monkeypatch):
    stream, compared = np.random.default_rng(0), []
    copies = [np.clip(phantoms[0] + stream.normal(0, 2, phantoms[0].shape), 0, 255).astype(np.uint8) for _ in range(30)]
    same_detail = likeness._same_detail
    monkeypatch.setattr(likeness, "_same_detail", lambda *pair: compared.append(1) or same_detail(*pair))
    found = find_duplicates(np.stack([phantoms[1], *copies]))
    assert set(groups(found, 31)[1:]) == {1} and len(found) == 29
    assert len(compared) < 100, "not 30 * 29 / 2"


def test_phantoms_and_the_two_eyes_of_a_patient_are_no_duplicates(phantoms):
    assert find_duplicates(phantoms) == []


def test_an_image_is_no_duplicate_of_itself_and_no_images_hold_none(phantoms):
    assert find_duplicates(phantoms[:1]) == [] and find_duplicates(phantoms[:0]) == []


def test_the_mirror_image_has_the_hash_with_the_odd_bits_turned_over(phantoms):
    _, hashes, _ = duplicates._fingerprints(phantoms, False)
    _, of_mirrored, _ = duplicates._fingerprints(phantoms[:, :, ::-1], False)
    differ = np.bitwise_count(hashes ^ likeness.as_words(likeness.ODD) ^ of_mirrored).sum(axis=1)
    assert differ.max() <= 2 and np.bitwise_count(hashes ^ of_mirrored).sum(axis=1).min() > 60


def test_copies_of_one_photograph_are_paired_with_the_first(phantoms):
    jpeg = PLANTED["jpeg 75"](phantoms[2])
    found = find_duplicates(np.stack([phantoms[1], jpeg, phantoms[2], jpeg, phantoms[2], jpeg]))
    assert pairs(found) == {(1, 2): "near", (1, 3): "exact", (1, 5): "exact", (2, 4): "exact"}
    assert groups(found, 6).tolist() == [0, 1, 1, 1, 1, 1]


def test_squares_without_content_are_duplicates_of_nothing(phantoms):
    blank = [np.full_like(phantoms[0], level) for level in (0, 0, 90, 90, 255)]
    assert find_duplicates(np.stack([phantoms[0], *blank])) == []


class Watched:
    """An array that keeps how many rows were read at once."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.most = array, array.shape, array.dtype, 0

    def __len__(self):
        return len(self.array)

    def __getitem__(self, key):
        rows = self.array[key]
        self.most = max(self.most, 1 if rows.ndim == 3 else len(rows))
        return rows


def test_images_are_read_in_batches_and_bars_are_shown_when_asked_for(phantoms, monkeypatch, capsys):
    monkeypatch.setattr(duplicates, "BATCH", 4)
    images = Watched(np.stack([*phantoms, phantoms[11], mirrored(phantoms[0])]))
    assert pairs(find_duplicates(images)) == {(11, 12): "exact", (0, 13): "mirrored"} and images.most == 4
    assert capsys.readouterr().err == ""
    find_duplicates(images, progress=True)
    shown = capsys.readouterr().err
    assert "hashing images" in shown and "comparing hashes" in shown and "14/14" in shown


def test_candidates_are_those_of_comparing_every_pair(monkeypatch):
    monkeypatch.setattr(duplicates, "BLOCK", 16)
    monkeypatch.setattr(duplicates, "COLUMNS", 48)
    stream = np.random.default_rng(0)
    bits = stream.integers(0, 2, size=(150, 255)).astype(bool)
    for first, second, num_bits in ((3, 140, 56), (15, 16, 10), (20, 100, 57), (47, 48, 30), (60, 149, 0)):
        bits[second] = bits[first] ^ (stream.permutation(255) < num_bits)
    bits[77] = bits[70] ^ likeness.ODD
    hashes = np.stack([likeness.as_words(row) for row in bits])
    found = {tuple(pair) for block in duplicates._candidates(hashes, False) for pair in block.tolist()}
    expected = set()
    for flip, odd in enumerate((np.zeros(255, bool), likeness.ODD)):
        differ = ((bits ^ odd)[:, None] != bits[None]).sum(axis=2)
        expected |= {(i, j, flip) for i, j in np.argwhere(differ <= duplicates.MAX_BITS).tolist() if i < j}
    assert found == expected and {(3, 140, 0), (15, 16, 0), (70, 77, 1)} <= found and (20, 100, 0) not in found


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 64, 64, 3), np.float32),
        np.zeros((2, 64, 64, 1), np.uint8),
        np.zeros((2, 32, 32, 3), np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((2, 64, 80, 3), np.uint8),
    ],
    ids=["float", "grey", "small", "one image", "oblong"],
)
def test_what_is_not_a_cache_of_squares_is_refused(images):
    with refuses(ValueError, "images", images.dtype, list(images.shape), "[N, S, S, 3]"):
        find_duplicates(images)


def near(first, second):
    return Duplicate(first, second, "near", 0.95)


def test_groups_are_transitive():
    assert groups([near(4, 5), near(1, 2), near(2, 4), near(0, 6)], 8).tolist() == [0, 1, 1, 3, 1, 1, 0, 7]
    assert groups([], 3).tolist() == [0, 1, 2] and groups([], 3).dtype == np.int64
    with refuses(ValueError, "row 8", "num_images", 8):
        groups([near(1, 8)], 8)


edges = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)).filter(lambda edge: edge[0] < edge[1]), max_size=30)


@settings(max_examples=60, deadline=None)
@given(edges, st.lists(st.sampled_from(RANK), min_size=20, max_size=20))
def test_of_each_group_one_row_of_the_strictest_split_is_kept(edges, splits):
    group = groups([near(*edge) for edge in edges], 20)
    together = np.eye(20, dtype=bool)
    for first, second in edges:
        together[first, second] = together[second, first] = True
    for _ in range(5):
        together = together @ together
    assert group.tolist() == together.argmax(axis=1).tolist()
    drop = rows_to_drop(group, splits)
    assert drop.dtype == np.int64 and (np.diff(drop) > 0).all()
    kept = sorted(set(range(20)) - set(drop.tolist()))
    assert sorted(group[kept].tolist()) == np.unique(group).tolist()
    for row in kept:
        members = np.flatnonzero(group == group[row]).tolist()
        assert row == min(members, key=lambda member: (RANK.index(splits[member]), member))


def test_the_test_row_is_kept_and_other_splits_are_refused():
    group = np.array([0, 1, 0, 3, 1, 0])
    assert rows_to_drop(group, ["train", "val", "test", "train", "train", "test"]).tolist() == [0, 4, 5]
    with refuses(ValueError, "splits", "'holdout'", "train, val, test"):
        rows_to_drop(group, ["train"] * 5 + ["holdout"])
    with refuses(ValueError, "splits", "2 rows", "group 6"):
        rows_to_drop(group, ["train", "test"])


# Two persons of Rahim DR were photographed on two visits, under another number each.
VISITS = {"Patient058": "first", "Patient155": "first", "Patient067": "second", "Patient237": "second"}
SIZES = (64, 128)


def sources(root):
    return RahimDR(root / "rahim-dr"), DRIVE(root / "DRIVE"), ChaseDB1(root / "CHASE_DB1")


def squares_of(rgb):
    field = detect_field_of_view(rgb)
    return {size: square_crop(rgb, field, size) for size in SIZES}


@pytest.fixture(scope="module")
def full_size(shared_data):
    """By id, squares of photographs of Rahim DR before they were downscaled."""
    folder = shared_data / "rahim-dr-fullsize"
    if not folder.is_dir():
        pytest.skip(f"real photographs are not here: {folder}")
    return {file.stem: squares_of(read_image(file, min_side=256)) for file in sorted(folder.glob("*.jpg"))}


@pytest.fixture(scope="module")
def real(shared_data, full_size):
    """Names of 31 photographs, and for each size and kind their squares: as read, and planted."""
    names, squares = [], {size: {kind: [] for kind in ("original", *PLANTED)} for size in SIZES}
    wanted = {"rahim_dr": 20, "drive": 5, "chase_db1": 6}
    for source in sources(shared_data):
        rows = list(zip(source.index().ids, source.index().paths, strict=True))
        first = [row for row in rows if row[0] in full_size or row[0].partition("_")[0] in VISITS]
        for name, path in [*first, *(row for row in rows if row not in first)][: wanted[source.name]]:
            names.append(f"{source.name}/{name}")
            rgb = read_image(source.root / path)
            for kind, change in PLANTED.items():
                for size, square in squares_of(change(rgb)).items():
                    squares[size][kind].append(square)
            for size in SIZES:
                squares[size]["original"].append(source.read(path, size))
    return names, squares


@pytest.mark.parametrize("size", SIZES)
def test_real_photographs_are_found_again_and_none_is_taken_for_another(real, full_size, size):
    names, squares = real
    num = len(names)
    again = [names.index(f"rahim_dr/{name}") for name in full_size]
    everything = [square for kind in squares[size].values() for square in kind] + [s[size] for s in full_size.values()]
    shown = np.concatenate([np.tile(np.arange(num), 1 + len(PLANTED)), again])
    found = pairs(find_duplicates(np.stack(everything)))
    wrong = [(names[shown[i]], names[shown[j]]) for i, j in found if shown[i] != shown[j]]
    assert not wrong
    group = groups([near(*pair) for pair in found], len(everything))
    for number, kind in enumerate(PLANTED, 1):
        rows = np.arange(number * num, (number + 1) * num)
        recall = (group[rows] == group[:num]).mean()
        print(f"\n{size} px, {kind}: recall {recall:.3f} of {num} photographs")
        assert recall >= 0.95, kind
        kinds = Counter(found.get((row - number * num, row)) for row in rows.tolist())
        assert kinds["mirrored" if "mirrored" in kind else "near"] + kinds["exact"] >= 0.95 * num, kind
    assert (group[-len(again) :] == group[again]).all()


def test_of_all_real_photographs_none_is_taken_for_another(shared_data):
    squares = [source.read(path, 64) for source in sources(shared_data) for path in source.index().paths]
    assert len(squares) == 518 and find_duplicates(np.stack(squares)) == []
