"""The sources, on miniature datasets written here in the real layouts, and on the real one where it is at hand."""

import errno
import os
import pickle

import numpy as np
import pytest

from datamodules.manifest import ManifestError
from datamodules.sources.base import Source
from datamodules.sources.csv import CsvSource
from datamodules.sources.folder import FolderSource, patient_of_name
from datamodules.sources.public import LayoutError
from datamodules.sources.rahim_dr import CLASSES, FOLDER, RahimDR
from datamodules.sources.synfundus1m import SynFundus1M

RAHIM = {
    "1 - No DR": ["Patient001_L.jpg", "Patient001_R.jpg", "Patient254-R.jpg"],
    "2 - Mild DR without maculopathy": ["Patient007_L.jpg"],
    "3 - Mild DR with maculopathy": ["Patient007_R.jpg"],
    "4 - Moderate DR without maculopathy": ["Patient021_L.jpg"],
    "5 - Moderate DR with maculopathy": ["Patient013_R.jpg"],
    "6 - Severe DR without maculopathy": ["Patient014_L.jpg"],
    "7 - Severe DR with maculopathy": ["Patient035_L.jpg"],
    "8 - PDR without maculopathy": ["Patient145_L.jpg"],
    "9 - PDR with maculopathy": ["Patient015_R.jpg"],
    "10 - ADED": ["Patient031_L.jpg"],
}


@pytest.fixture
def rahim(tmp_path, save_small):
    for folder, files in RAHIM.items():
        for file in files:
            save_small(tmp_path / "rahim" / FOLDER / folder / file)
    return tmp_path / "rahim"


def test_rahim_dr_codes_class_name_and_eye(rahim, caplog, labels_of):
    manifest = RahimDR(rahim).index()
    labels = labels_of(manifest)
    assert labels["Patient001_L"] == {"dr_grade": 0, "is_dme": 0, "is_fundus": 1, "eye_side": 1}
    assert labels["Patient007_R"] == {"dr_grade": 1, "is_dme": 1, "is_fundus": 1, "eye_side": 0}
    assert labels["Patient031_L"] == {"dr_grade": 4, "is_fundus": 1, "eye_side": 1}
    assert labels["Patient254_R"]["eye_side"] == 0
    patients = dict(zip(manifest.ids, manifest.patients, strict=True))
    assert patients["Patient007_L"] == patients["Patient007_R"] == "Patient007"
    assert "images: 12 found, 450 published" in caplog.text and "dr_grade=0: 3 found, 211 published" in caplog.text
    assert manifest.splits == [""] * 12 and manifest.paths[0].startswith(FOLDER)


def test_rahim_dr_knows_two_persons_who_came_twice(rahim, save_small):
    for name in ("Patient058_L", "Patient155_R", "Patient067_R", "Patient237_L"):
        save_small(rahim / FOLDER / "1 - No DR" / f"{name}.jpg")
    manifest = RahimDR(rahim).index()
    patients = dict(zip(manifest.ids, manifest.patients, strict=True))
    assert patients["Patient058_L"] == patients["Patient155_R"] == "Patient058"
    assert patients["Patient067_R"] == patients["Patient237_L"] == "Patient067"
    assert patients["Patient001_L"] == "Patient001" and manifest.num_patients == 12


def test_rahim_dr_takes_the_folder_of_classes_itself(rahim):
    assert RahimDR(rahim / FOLDER).index().ids == RahimDR(rahim).index().ids


def test_rahim_dr_refuses_another_layout(rahim, save_small):
    save_small(rahim / FOLDER / "10 - ADED" / "Patient31.jpg")
    with pytest.raises(ValueError, match=r"Patient31.jpg is not named Patient<NNN>_<L or R>.jpg"):
        RahimDR(rahim).index()
    (rahim / FOLDER / "10 - ADED").rename(rahim / "elsewhere")
    with pytest.raises(LayoutError, match=r"no folder for the classes \[10\].*github.com/SRahimDR"):
        RahimDR(rahim).index()


def test_a_missing_root_says_what_it_should_hold(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone', which does not exist.*10 - ADED.*https://github.com/SRahimDR"):
        RahimDR(tmp_path / "gone").index()
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        FolderSource(tmp_path / "file").index()


def test_rahim_dr_on_the_real_photographs(shared_data, caplog):
    source = RahimDR(shared_data / "rahim-dr")
    manifest = source.index()
    counts = np.bincount(manifest.labels[:, 0])
    assert len(manifest) == 450 and len(set(manifest.ids)) == 450
    by_grade = [sum(n for grade, _, n in CLASSES.values() if grade == level) for level in range(5)]
    assert counts.tolist() == by_grade
    assert source.differences == {} and manifest.num_patients == 223
    assert len({name.rpartition("_")[0] for name in manifest.ids}) == 225
    image = source.read(manifest.paths[0], 32)
    assert image.shape == (32, 32, 3) and image[0, 0].max() == 0 and image[16, 16].max() > 30


@pytest.mark.parametrize(
    ("path", "patient"),
    [
        ("x/Patient001_L.jpg", "Patient001"),
        ("Patient001-R.jpg", "Patient001"),
        ("10_left.jpeg", "10"),
        ("Image_01L.jpg", "Image_01"),
        ("RET002OD.jpg", "RET002"),
        ("P7 OS.png", "P7"),
        ("IMG_right.tif", "IMG"),
        ("model.png", "model"),
        ("control.png", "control"),
        ("12.png", "12"),
        ("P3/left.png", "P3"),
    ],
)
def test_the_patient_in_a_file_name(path, patient):
    assert patient_of_name(path) == patient


def test_a_folder_is_searched_at_any_depth(table_root, save_small):
    save_small(table_root / "b" / "deep" / "P1_L.JPG")
    save_small(table_root / "P1_R.png")
    for name in (".hidden.png", "Thumbs.db", "__MACOSX/._a.png", "notes.txt"):
        (table_root / name).parent.mkdir(exist_ok=True)
        (table_root / name).write_bytes(b"x")
    manifest = FolderSource(table_root).index()
    assert manifest.paths == ["P1_R.png", "a.png", "b/c.png", "b/deep/P1_L.JPG", "d.png"]
    assert manifest.patients == ["P1", "a", "c", "P1", "d"]
    assert (manifest.labels == -1).all()
    folders = FolderSource(table_root, patient_pattern=r"^(?P<patient>[^/]+)").index()
    assert folders.patients[2] == folders.patients[3] == "b"


def test_a_pattern_that_finds_no_patient_is_refused(table_root):
    with pytest.raises(ValueError, match="needs a group"):
        FolderSource(table_root, patient_pattern=r"\d+")
    with pytest.raises(ValueError, match="finds no patient in 'a.png'"):
        FolderSource(table_root, patient_pattern=r"(?P<patient>b)/").index()


def test_a_pattern_that_is_none_is_refused(table_root):
    with pytest.raises(ValueError, match="patient_pattern is .*no regular expression: missing"):
        FolderSource(table_root, patient_pattern="(?P<patient>b")


def test_a_folder_that_cannot_be_read_is_not_left_out(table_root, monkeypatch):
    scan = os.scandir

    def refused(path):
        if str(path).endswith("b"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(PermissionError, match="root/b"):
        FolderSource(table_root).index()


def test_a_link_to_a_folder_is_not_left_out(table_root, tmp_path):
    os.symlink(table_root / "b", table_root / ".hidden")
    os.symlink(table_root / "a.png", table_root / "e.png")
    os.symlink(table_root, tmp_path / "alias")
    assert FolderSource(tmp_path / "alias").index().paths == ["a.png", "b/c.png", "d.png", "e.png"]
    os.symlink(table_root / "b", table_root / "linked")
    with pytest.raises(ManifestError, match="root/linked' is a link to a folder. Remedy"):
        FolderSource(table_root).index()


def test_an_empty_folder_says_what_it_looked_for(tmp_path):
    (tmp_path / "readme.txt").touch()
    with pytest.raises(FileNotFoundError, match="no image is below.*jpg.*readme.txt"):
        FolderSource(tmp_path).index()


def test_identity_follows_the_files(table_root, save_small):
    before = FolderSource(table_root).identity()
    assert FolderSource(table_root).identity() == before
    os.utime(table_root / "a.png", ns=(1, 1))
    touched = FolderSource(table_root).identity()
    save_small(table_root / "e.png")
    assert len({before, touched, FolderSource(table_root).identity()}) == 3


def test_every_source_is_one(rahim, synfundus, table_root):
    (table_root / "labels.csv").write_text("path\na.png\n")
    sources = [RahimDR(rahim), SynFundus1M(synfundus), CsvSource(table_root, "labels.csv"), FolderSource(table_root)]
    for source in sources:
        assert isinstance(source, Source)
        manifest = source.index()
        assert set(manifest.table.column("source").to_pylist()) == {source.name}
        again = pickle.loads(pickle.dumps(source))
        image = again.read(manifest.paths[0], 16)
        assert image.shape == (16, 16, 3) and image.dtype == np.uint8 and image[8, 8].max() > 30
        assert (image == source.read(manifest.paths[0], 16)).all()
        assert len(pickle.dumps(source)) < 1000
