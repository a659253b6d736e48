"""The sources, on miniature datasets written here in the real layouts, and on the real one where it is at hand."""

import errno
import os
import pickle
import unicodedata

import numpy as np
import pytest
from refusals import refuses

from datamodules.manifest import ManifestError
from datamodules.sources.base import Source
from datamodules.sources.csv import CsvSource
from datamodules.sources.folder import FolderSource, patient_of_name
from datamodules.sources.listing import is_foreign, stem
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
    with refuses(ValueError, "Patient31.jpg", "Patient<NNN>_<L or R>.jpg"):
        RahimDR(rahim).index()
    (rahim / FOLDER / "10 - ADED").rename(rahim / "elsewhere")
    with refuses(LayoutError, [10], "<number> - <class>", "github.com/SRahimDR"):
        RahimDR(rahim).index()


def test_a_missing_root_says_what_it_should_hold(tmp_path):
    with refuses(FileNotFoundError, tmp_path / "gone", "10 - ADED", "https://github.com/SRahimDR"):
        RahimDR(tmp_path / "gone").index()
    (tmp_path / "file").touch()
    with refuses(FileNotFoundError, "data.root", tmp_path / "file", "not a folder"):
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


JUNK = ["@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "b/@eaDir/c.png/SYNOPHOTO_THUMB_XL.jpg", "#recycle/old.png",
        "$RECYCLE.BIN/$R1.jpg", "@Recycle/old.png", ".@__thumb/s100a.png", ".Trash-1000/files/old.png", "._a.png",
        ".thumbnails/x.png", "__MACOSX/b/._c.png", ".AppleDouble/a.png", "lost+found/1.png", ".snapshot/d/a.png",
        "#snapshot/a.png", "System Volume Information/x.jpg", ".ipynb_checkpoints/a-checkpoint.png"]  # fmt: skip


@pytest.mark.parametrize("path", JUNK)
def test_what_a_system_keeps_for_itself_is_left_out_and_counted(table_root, save_small, caplog, path):
    caplog.set_level("INFO")
    save_small(table_root / path)
    (table_root / ".DS_Store").touch()
    (table_root / "b" / "Thumbs.db").touch()
    assert FolderSource(table_root).index().paths == ["a.png", "b/c.png", "d.png"]
    if "._" in path:
        assert "passed over 1 files ._* that macOS leaves" in caplog.text
    else:
        folder = next(part for part in path.split("/") if is_foreign(part))
        assert f"left out 1 images that are hidden, or of a system's own folders: 1 {folder}" in caplog.text


def test_kinds_that_are_read_are_read_and_others_are_counted(table_root, save_small, caplog):
    for name in ("e_L.jpe", "e_R.JFIF"):
        save_small(table_root / "e.jpg").rename(table_root / name)
    assert len(FolderSource(table_root).index()) == 5 and "left out" not in caplog.text
    source = FolderSource(table_root)
    assert [source.read(path, 16).shape for path in ("e_L.jpe", "e_R.JFIF")] == [(16, 16, 3)] * 2
    for name in ("1.heic", "2.HEIC", "b/3.dcm", "4.jp2", "notes.txt", "labels.csv"):
        (table_root / name).touch()
    assert len(FolderSource(table_root).index()) == 5
    assert "left out 4 files of kinds that are not read: 1 .dcm, 2 .heic, 1 .jp2. To use them, convert" in caplog.text


def test_images_without_an_extension_are_counted(table_root, save_small, caplog):
    save_small(table_root / "f.png").rename(table_root / "f")
    (table_root / "1.2.840.10008").write_bytes(bytes(128) + b"DICM" + bytes(9))
    (table_root / "README").write_text("P6 is no image here")
    os.mkfifo(table_root / "pipe")
    assert len(FolderSource(table_root).index()) == 3
    assert "left out 2 files of kinds that are not read: 2 without an extension." in caplog.text


def test_public_sources_see_no_thumbnails_either(rahim, save_small, caplog):
    before = RahimDR(rahim).index().ids
    save_small(rahim / FOLDER / "@eaDir" / "x.jpg")
    save_small(rahim / FOLDER / "10 - ADED" / "@eaDir" / "Patient1_L.jpg" / "SYNOPHOTO_THUMB_M.jpg")
    assert RahimDR(rahim).index().ids == before and "1 @eaDir" in caplog.text


def test_a_name_that_is_not_utf8_is_named(table_root):
    os.rename(os.fsencode(table_root / "a.png"), os.fsencode(table_root) + b"/\xe4.png")
    with refuses(ManifestError, repr(b"\xe4.png"), "UTF-8"):
        FolderSource(table_root).index()


@pytest.mark.parametrize("name", [" 17.png", "17.png ", "17.png\u3000", "C:17.png", "\\17.png"])
def test_a_name_that_a_manifest_would_read_as_another_is_named(tmp_path, save_small, name):
    save_small(tmp_path / "a" / " 1.png")
    assert FolderSource(tmp_path).index().paths == ["a/ 1.png"]
    (tmp_path / "a" / " 1.png").rename(tmp_path / name)
    with refuses(ManifestError, repr(name), "Windows"):
        FolderSource(tmp_path).index()


COMPOSED, APART = unicodedata.normalize("NFC", "Müller/é.png"), unicodedata.normalize("NFD", "Müller/é.png")


@pytest.mark.parametrize(("there", "asked"), [(APART, COMPOSED), (COMPOSED, APART)])
def test_accents_that_are_written_otherwise_are_said(table_root, save_small, there, asked):
    save_small(table_root / there)
    (table_root / "labels.csv").write_text(f"path\na.png\n{asked}\n", "utf-8")
    with refuses(ManifestError, "labels.csv", "row 3", "accents", "--nfc"):
        CsvSource(table_root, "labels.csv").index()


def test_names_of_a_table_find_files_whose_accents_are_written_otherwise(rahim):
    assert stem("É/Ä.JPG") == stem(unicodedata.normalize("NFD", "É/Ä.jpe")) == "é/ä"


def test_a_nul_in_a_path_is_named(table_root):
    (table_root / "labels.csv").write_bytes(b"path\na.png\nd\0.png\n")
    with refuses(ManifestError, "labels.csv", "row 3", repr("d\0.png"), "NUL"):
        CsvSource(table_root, "labels.csv").index()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EACCES])
def test_a_file_that_cannot_be_had_at_the_moment_is_not_called_absent(table_root, monkeypatch, number):
    lstat = os.lstat

    def away(path, **named):
        if str(path).endswith("d.png"):
            raise OSError(number, os.strerror(number), str(path))
        return lstat(path, **named)

    monkeypatch.setattr(os, "lstat", away)
    with refuses(OSError, table_root / "d.png"):
        FolderSource(table_root).index()


def test_a_pattern_that_finds_no_patient_is_refused(table_root):
    with refuses(ValueError, "patient_pattern", repr(r"\d+"), "(?P<patient>"):
        FolderSource(table_root, patient_pattern=r"\d+")
    with refuses(ValueError, "patient_pattern", "'(?P<patient>b)/'", "'a.png'"):
        FolderSource(table_root, patient_pattern=r"(?P<patient>b)/").index()


def test_a_pattern_that_is_none_is_refused(table_root):
    with refuses(ValueError, "patient_pattern", "'(?P<patient>b'", "expression"):
        FolderSource(table_root, patient_pattern="(?P<patient>b")


def test_a_folder_that_cannot_be_read_is_not_left_out(table_root, monkeypatch):
    scan = os.scandir

    def refused(path):
        if str(path).endswith("b"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    with refuses(PermissionError, table_root / "b"):
        FolderSource(table_root).index()


def test_a_link_to_a_folder_is_not_left_out(table_root, tmp_path, save_small):
    os.symlink(table_root / "b", table_root / ".hidden")
    os.symlink(save_small(table_root / ".kept" / "x.png"), table_root / "e.png")
    os.symlink(table_root, tmp_path / "alias")
    assert FolderSource(tmp_path / "alias").index().paths == ["a.png", "b/c.png", "d.png", "e.png"]
    os.symlink(table_root / "b", table_root / "linked")
    with refuses(ManifestError, table_root / "linked", "a link"):
        FolderSource(table_root).index()


def test_a_link_to_another_photograph_of_the_folder_is_refused(table_root):
    os.symlink("a.png", table_root / "e.png")
    with refuses(ManifestError, "row 3", "'e.png'", "'a.png'"):
        FolderSource(table_root).index()


def test_an_empty_folder_says_what_it_looked_for(tmp_path):
    (tmp_path / "readme.txt").touch()
    with refuses(FileNotFoundError, "data.root", tmp_path, ".jpg", "readme.txt"):
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
