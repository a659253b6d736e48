"""Photographs that are there twice: written down, and left out of training where that is asked for."""

import csv
import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refuses

from datamodules import duplicate_report, phantom
from datamodules.duplicate_report import DuplicateReport, cached_duplicates, copies_of
from datamodules.fundus import FundusDataModule
from datamodules.manifest import Manifest
from datamodules.sources.csv import CsvSource
from datamodules.sources.union import UnionSource

CLEAR = {"is_retinal_region_readable": 1, "is_macular_readable": 1, "is_optic_disc_readable": 1}


def jpeg(rgb, quality):
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, format="JPEG", quality=quality)
    return file.getvalue()


def png(rgb):
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def eyes():
    """Six phantoms of three patients, uint8 [6, 160, 160, 3]."""
    return np.stack([phantom.render(5, index, 160, CLEAR).image for index in range(6)])


@pytest.fixture
def clinics(tmp_path, eyes):
    """Two clinics that share two eyes: one smaller and as JPEG, one mirrored; in the first, one eye is there twice."""
    first, second = tmp_path / "first", tmp_path / "second"
    smaller = cv2.resize(eyes[0], (120, 120), interpolation=cv2.INTER_AREA)
    files = {
        first / "0.png": png(eyes[0]), first / "1.png": png(eyes[1]), first / "2.png": png(eyes[2]),
        first / "3.png": png(eyes[3]), first / "3b.png": png(eyes[3]),
        second / "x0.jpg": jpeg(smaller, 85), second / "x2.png": png(eyes[2][:, ::-1]), second / "x4.png": png(eyes[4]),
    }  # fmt: skip
    for path, content in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    rows = ["0.png,a,train,0,1", "1.png,a,train,,", "2.png,b,val,3,0", "3.png,c,train,1,", "3b.png,c,train,,0"]
    (first / "t.csv").write_text("\n".join(["path,patient,split,dr_grade,eye_side", *rows]))
    rows = ["x0.jpg,p,test,2,0", "x2.png,q,train,1,1", "x4.png,r,train,,"]
    (second / "t.csv").write_text("\n".join(["path,patient,split,dr_grade,eye_side", *rows]))
    return UnionSource({"first": CsvSource(first, "t.csv"), "second": CsvSource(second, "t.csv")})


@pytest.fixture
def make(clinics, tmp_path):
    def make(**options):
        plain = {"image_size": 80, "batch_size": 1, "cache_dir": tmp_path / "cache", "cache_workers": 1}
        data = FundusDataModule(clinics, **{**plain, **options})
        data.prepare_data()
        data.setup()
        return data

    return make


def test_what_is_there_twice_is_reported_and_kept(make, tmp_path):
    plain, data = make(), make(duplicates="report")
    assert data.fingerprint == plain.fingerprint and data.manifest.table.equals(plain.manifest.table)
    data.write_index(tmp_path / "out")
    with open(tmp_path / "out" / "duplicates.csv", newline="") as file:
        found = [
            (row["first_id"], row["second_id"], row["kind"], row["first_split"], row["second_split"],
             row["crosses_splits"], row["crosses_patients"], row["contradicts"])
            for row in csv.DictReader(file)
        ]  # fmt: skip
    assert found == [
        ("first/0.png", "second/x0.jpg", "near", "train", "test", "yes", "yes", "dr_grade eye_side"),
        ("first/2.png", "second/x2.png", "mirrored", "val", "train", "yes", "yes", "dr_grade"),
        ("first/3.png", "first/3b.png", "exact", "train", "train", "no", "no", ""),
    ]
    assert str(data.copies).startswith("3 pairs of images show the same photograph, 2 of them in two splits, 2 of two")
    plain.write_index(tmp_path / "plain")
    assert not (tmp_path / "plain" / "duplicates.csv").exists()


def test_what_is_dropped_is_the_copy_in_the_laxer_split(make, tmp_path):
    data, plain = make(duplicates="drop"), make()
    assert sorted(data.manifest.ids) == [
        "first/1.png", "first/2.png", "first/3.png", "second/x0.jpg", "second/x4.png",
    ]  # fmt: skip
    assert data.manifest.select("test").ids == ["second/x0.jpg"] and data.manifest.select("val").ids == ["first/2.png"]
    assert data.fingerprint != plain.fingerprint and data.split_fingerprint != plain.split_fingerprint
    for split in ("train", "val", "test"):
        part = data.manifest.select(split)
        assert data.dataset(split).ids == part.ids
        for row, path in enumerate(part.paths):
            assert np.array_equal(data.images(split)[row], data.source.read(path, 80))
        assert torch.equal(data.labels(split), torch.from_numpy(part.labels))
    data.write_index(tmp_path / "out")
    assert Manifest.read(tmp_path / "out" / "manifest.parquet").ids == data.manifest.ids
    assert len((tmp_path / "out" / "duplicates.csv").read_text().splitlines()) == 4


def test_they_are_looked_for_once_a_cache(make, monkeypatch):
    make(duplicates="report")

    def again(*arguments, **options):
        raise AssertionError("they are known")

    monkeypatch.setattr(duplicate_report, "find_duplicates", again)
    assert len(make(duplicates="drop").manifest) == 5
    with refuses(AssertionError, "they are known"):
        make(duplicates="report", image_size=96)


KEPT = {
    "empty": "", "cut": '[[0, 1, "exa', "a mapping": "{}", "text": '["ab"]', "of five": '[[0, 1, "exact", 1.0, 2]]',
    "rows that are not there": '[[0, 99, "exact", 1.0]]', "rows in words": '[["0", "1", "exact", 1.0]]',
    "another kind": '[[0, 1, "alike", 1.0]]', "no number": '[[0, 1, "exact", NaN]]',
}  # fmt: skip


def test_what_was_kept_of_them_is_made_again_where_it_is_damaged(make, caplog, monkeypatch):
    cache = make(duplicates="report")._squares.images
    found = cached_duplicates(cache)
    monkeypatch.setattr(duplicate_report, "find_duplicates", lambda *arguments, **options: found)
    for name, content in KEPT.items():
        caplog.clear()
        (cache.folder / duplicate_report.FILE).write_text(content)
        assert cached_duplicates(cache) == found, name
        assert duplicate_report.FILE in caplog.text and "is damaged" in caplog.text, name
        caplog.clear()
        assert cached_duplicates(cache) == found and not caplog.text, "it is whole again"


def test_two_copies_of_a_rejected_image_are_still_copies(make):
    """Exact copies are paired with the first of them alone, which may be rejected for its mask."""
    data = make(duplicates="report")
    cache = data._squares.images
    (cache.folder / duplicate_report.FILE).write_text('[[0, 3, "exact", 1.0], [0, 4, "exact", 1.0]]')
    assert [(each.first, each.second) for each in cached_duplicates(cache)] == [(0, 3), (0, 4)]
    rows = np.array([1, 2, 3, 4])
    found = copies_of(cache, rows, data.manifest.take(rows))
    assert [tuple(pair) for pair in found.pairs] == [(2, 3, "exact", 1.0, False, False, ())]
    assert found.dropped.tolist() == [3]


def test_nothing_is_said_of_pairs_where_there_are_none(make):
    empty = make().manifest.take([])
    assert str(DuplicateReport(empty, [], np.zeros(0, dtype=np.int64))) == "no photograph is there twice"


def test_settings_that_cannot_be_are_refused(make, caplog):
    with refuses(ValueError, "data.duplicates", "'drp'", "ignore, report, drop", "mean 'drop'"):
        make(duplicates="drp")
    with refuses(ValueError, "data.duplicates", "'drop'", "data.image_size", 63, 64):
        make(duplicates="drop", image_size=63)
    assert make(duplicates="report", image_size=63).copies is None
    assert "duplicates are not looked for below 64 pixels" in caplog.text
