"""The sources, on miniature datasets written here in the real layouts, and on the real one where it is at hand."""

import logging
import os
import pickle
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.findings import NAMES
from datamodules.images import ImageError, NotAFundusError
from datamodules.manifest import ManifestError
from datamodules.sources.base import Source
from datamodules.sources.csv import CsvSource
from datamodules.sources.folder import FolderSource, patient_of_name
from datamodules.sources.rahim_dr import CLASSES, FOLDER, RahimDR
from datamodules.sources.synfundus1m import SynFundus1M

SMALL = {"width": 60, "height": 50, "radius": 23}
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


def labels_of(manifest) -> dict[str, dict[str, int]]:
    """For each id, its known labels."""
    known = {}
    for name, row in zip(manifest.ids, manifest.labels.tolist(), strict=True):
        known[name] = {finding: level for finding, level in zip(NAMES, row, strict=True) if level >= 0}
    return known


@pytest.fixture
def rahim(tmp_path, save_photograph):
    for folder, files in RAHIM.items():
        for file in files:
            save_photograph(tmp_path / "rahim" / FOLDER / folder / file, **SMALL)
    return tmp_path / "rahim"


def test_rahim_dr_codes_class_name_and_eye(rahim, caplog):
    manifest = RahimDR(rahim).index()
    labels = labels_of(manifest)
    assert labels["Patient001_L"] == {"dr_grade": 0, "is_dme": 0, "is_fundus": 1, "eye_side": 1}
    assert labels["Patient007_R"] == {"dr_grade": 1, "is_dme": 1, "is_fundus": 1, "eye_side": 0}
    assert labels["Patient031_L"] == {"dr_grade": 4, "is_fundus": 1, "eye_side": 1}
    assert labels["Patient254_R"]["eye_side"] == 0
    patients = dict(zip(manifest.ids, manifest.patients, strict=True))
    assert patients["Patient007_L"] == patients["Patient007_R"] == "Patient007"
    assert "12 of 10 patients found, 450 of 226 patients published" in caplog.text
    assert manifest.splits == [""] * 12 and manifest.paths[0].startswith(FOLDER)


def test_rahim_dr_takes_the_folder_of_classes_itself(rahim):
    assert RahimDR(rahim / FOLDER).index().ids == RahimDR(rahim).index().ids


def test_rahim_dr_refuses_another_layout(rahim, save_photograph):
    save_photograph(rahim / FOLDER / "10 - ADED" / "Patient31.jpg", **SMALL)
    with pytest.raises(ValueError, match=r"Patient31.jpg is not named Patient<NNN>_<L or R>.jpg"):
        RahimDR(rahim).index()
    (rahim / FOLDER / "10 - ADED").rename(rahim / "elsewhere")
    with pytest.raises(ValueError, match=r"no folder for the classes \[10\].*github.com/SRahimDR"):
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
    assert "classes whose counts" not in caplog.text
    image = source.read(manifest.paths[0], 32)
    assert image.shape == (32, 32, 3) and image[0, 0].max() == 0 and image[16, 16].max() > 30


@pytest.fixture
def synfundus(tmp_path, save_photograph):
    root = tmp_path / "synfundus"
    for name in ("Part0/0.png", "Part0/1.jpg", "Part1/50000.png", "Part19/1000001.png"):
        save_photograph(root / name, **SMALL)
    save_photograph(root / "Part0/77000.png", **SMALL)  # in the wrong part
    header = "idx,dr_grade,is_amd,is_fundus,is_macular_readable,eye_side"
    rows = ["0,0,0,1,1,0", "1,4,1,1,0,1", "2,3,0,1,1,0", "50000,2,1,0,,1", "77000,0,0,0,0,0", "1000001,1,0,1,1,0"]
    (root / "SynFundus-1M_annotation.csv").write_text("\n".join([header, *rows]) + "\n")
    (root / "SynFundus-1M_gen_cond.csv").write_text("dr_grade,is_amd,eye_side\n1,1,1\n2,0,0\n3,0,0\n")
    return root


def test_synfundus1m_indexes_what_is_on_disk(synfundus, caplog):
    caplog.set_level(logging.INFO)
    manifest = SynFundus1M(synfundus).index()
    assert manifest.paths == ["Part0/0.png", "Part0/1.jpg", "Part1/50000.png", "Part19/1000001.png"]
    labels = labels_of(manifest)
    assert labels["Part1/50000.png"] == {"dr_grade": 2, "is_amd": 1, "is_fundus": 0, "eye_side": 1}
    readable = {"is_fundus": 1, "is_macular_readable": 0}
    assert labels["Part0/1.jpg"] == {"dr_grade": 4, "is_amd": 1, **readable, "eye_side": 1}
    assert len(set(manifest.patients)) == 4
    assert "4 of 6 images are on disk, 2 are absent" in caplog.text


def test_synfundus1m_conditions_are_numbered_by_row(synfundus):
    manifest = SynFundus1M(synfundus, labels="condition").index()
    assert labels_of(manifest) == {
        "Part0/0.png": {"dr_grade": 1, "is_amd": 1, "eye_side": 1},
        "Part0/1.jpg": {"dr_grade": 2, "is_amd": 0, "eye_side": 0},
    }


def test_synfundus1m_keeps_an_image_that_is_annotated_as_no_fundus(synfundus):
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(
        synfundus / "Part1/50000.png"
    )
    source = SynFundus1M(synfundus)
    assert source.read("Part1/50000.png", 16).min() > 0
    (synfundus / "Part0/0.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageError):
        source.read("Part0/0.png", 16)


def test_synfundus1m_says_what_is_missing(synfundus):
    with pytest.raises(ValueError, match="labels is 'annotations', and must be one of: annotation, condition"):
        SynFundus1M(synfundus, labels="annotations")
    (synfundus / "SynFundus-1M_annotation_15w.csv").write_text("idx,dr_grade\n0,1\n")
    with pytest.raises(ValueError, match="several tables: .*_annotation.csv, SynFundus-1M_annotation_15w.csv"):
        SynFundus1M(synfundus).index()
    assert len(SynFundus1M(synfundus, table="SynFundus-1M_annotation_15w.csv").index()) == 1
    for path in synfundus.glob("*.csv"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no SynFundus-1M_annotation\*.csv in data.root.*Found.*Part0"):
        SynFundus1M(synfundus).index()


@pytest.fixture
def table_root(tmp_path, save_photograph):
    for name in ("a.png", "b/c.png", "d.png"):
        save_photograph(tmp_path / "root" / name, **SMALL)
    return tmp_path / "root"


def index_csv(root, text: str, encoding: str = "utf-8"):
    (root / "labels.csv").write_bytes(text.encode(encoding))
    return CsvSource(root, "labels.csv").index()


PLAIN = "path,patient,split,dr_grade,is_dme\na.png,P1,train,0,\nb/c.png,P1,train,4,1\nd.png,,,,0\n"


@pytest.mark.parametrize("change", ["plain", "semicolon", "tab", "bom", "spaces", "crlf", "quotes", "latin", "floats"])
def test_a_table_may_be_written_in_many_ways(table_root, change):
    text, encoding = PLAIN, "utf-8"
    if change in ("semicolon", "tab"):
        text = text.replace(",", {"semicolon": ";", "tab": "\t"}[change])
    elif change == "bom":
        encoding = "utf-8-sig"
    elif change == "spaces":
        text = text.replace(",", " , ").replace("dr_grade", "dr_grade ")
    elif change == "crlf":
        text = text.replace("\n", "\r\n")
    elif change == "quotes":
        text = '"path","patient","split","dr_grade","is_dme"\n' + text.split("\n", 1)[1].replace("a.png", '"a.png"')
    elif change == "latin":
        text, encoding = text.replace("P1", "Müller"), "latin-1"
    elif change == "floats":
        text = text.replace("4,1", "4.0,1.0").replace(",,0\n", ",nan,0.0\n")
    manifest = index_csv(table_root, text, encoding)
    labels = labels_of(manifest)
    assert labels == {"a.png": {"dr_grade": 0}, "b/c.png": {"dr_grade": 4, "is_dme": 1}, "d.png": {"is_dme": 0}}
    assert manifest.splits == ["train", "train", ""]
    first = "Müller" if change == "latin" else "P1"
    assert manifest.patients == [first, first, "image:d.png"]


def test_a_parquet_table_does_as_well(table_root):
    columns = {"path": ["a.png", "d.png"], "id": [7, 8], "dr_grade": [2.0, None], "is_amd": pa.array([1, 0], pa.int8())}
    pq.write_table(pa.table(columns), table_root / "labels.parquet")
    manifest = CsvSource(table_root, "labels.parquet").index()
    assert labels_of(manifest) == {"7": {"dr_grade": 2, "is_amd": 1}, "8": {"is_amd": 0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,dr_grade\na.png,1\n", "has no column path. Its columns are: image, dr_grade.*Required: path; optional"),
        ("paths\na.png\n", "Is it 'paths'"),
        ("path,dr_grade\na.png,1\nd.png,7\n", "labels.csv, row 3, column 'dr_grade': '7' is not a level.*none.*blank"),
        ("path,dr_grade\na.png,mild\n", "row 2, column 'dr_grade': 'mild'"),
        ("path,is_dme\na.png,0.5\n", "row 2, column 'is_dme': '0.5'"),
        ("path,id\na.png,x\nb/c.png,y\nd.png,x\n", "labels.csv, row 4, column 'id': 'x' is already the id of row 2"),
        ("path\na.png\n../secret.png\n", "row 3, column 'path': '../secret.png' is outside the root"),
        ("path\n/etc/passwd\n", "row 2, column 'path': '/etc/passwd' is outside the root"),
        ("path\na.png\ne.png\n", "labels.csv, row 3, column 'path': 'e.png': there is no such file below"),
        ("path,split\na.png,training\n", "row 2, column 'split': 'training' is not a split.*train, val, test"),
        ("path,path\na.png,d.png\n", "has the column 'path' twice"),
        ("path,dr_grade\na.png,1,2\n", "cannot be read as a table"),
        ("path\n", "has no row"),
        ("", "is empty"),
    ],
)
def test_a_wrong_table_is_refused_by_cell(table_root, text, message):
    with pytest.raises(ManifestError, match=message):
        index_csv(table_root, text)


def test_columns_that_are_not_used_are_reported(table_root, caplog):
    index_csv(table_root, "path,dr_grde,camera\na.png,1,Canon\n")
    assert "column 'dr_grde' is not used; did you mean 'dr_grade'?" in caplog.text
    assert re.search("column 'camera' is not used$", caplog.text, re.MULTILINE)


def test_a_table_is_found_below_the_root_or_from_here(table_root, tmp_path, monkeypatch):
    (tmp_path / "here.csv").write_text("path\na.png\n")
    with pytest.raises(FileNotFoundError, match="data.table is 'here.csv'.*data.root"):
        CsvSource(table_root, "here.csv").index()
    monkeypatch.chdir(tmp_path)
    assert len(CsvSource(table_root, "here.csv").index()) == 1
    assert len(CsvSource(table_root, tmp_path / "here.csv").index()) == 1


def test_an_image_that_the_table_calls_no_fundus_is_read_whole(table_root):
    from PIL import Image

    for name in ("a.png", "d.png"):
        Image.fromarray(np.random.default_rng(0).integers(1, 255, (40, 40, 3), dtype=np.uint8)).save(table_root / name)
    (table_root / "labels.csv").write_text("path,is_fundus\na.png,0\nd.png,\n")
    source = CsvSource(table_root, "labels.csv")
    source.index()
    source = pickle.loads(pickle.dumps(source))
    assert source.read("a.png", 16).min() > 0
    with pytest.raises(NotAFundusError):
        source.read("d.png", 16)


def test_links_out_of_the_root_are_refused_and_links_within_are_not(table_root, tmp_path, save_photograph):
    outside = save_photograph(tmp_path / "outside" / "x.png", **SMALL)
    os.symlink(table_root / "a.png", table_root / "inner.png")
    assert len(index_csv(table_root, "path\ninner.png\na.png\n")) == 2
    os.symlink(outside, table_root / "outer.png")
    os.symlink(outside.parent, table_root / "folder")
    for path in ("outer.png", "folder/x.png"):
        with pytest.raises(ManifestError, match=f"row 3, column 'path': '{path}'.*leads outside the root.*Remedy"):
            index_csv(table_root, f"path\na.png\n{path}\n")
    os.symlink(table_root, tmp_path / "alias")
    assert len(CsvSource(tmp_path / "alias", table_root / "labels.csv").root.name) > 0
    assert len(index_csv(tmp_path / "alias", "path\na.png\n")) == 1


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


def test_a_folder_is_searched_at_any_depth(table_root, save_photograph):
    save_photograph(table_root / "b" / "deep" / "P1_L.JPG", **SMALL)
    save_photograph(table_root / "P1_R.png", **SMALL)
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


def test_an_empty_folder_says_what_it_looked_for(tmp_path):
    (tmp_path / "readme.txt").touch()
    with pytest.raises(FileNotFoundError, match="no image is below.*jpg.*readme.txt"):
        FolderSource(tmp_path).index()


def test_identity_follows_the_files(table_root, save_photograph):
    before = FolderSource(table_root).identity()
    assert FolderSource(table_root).identity() == before
    os.utime(table_root / "a.png", ns=(1, 1))
    touched = FolderSource(table_root).identity()
    save_photograph(table_root / "e.png", **SMALL)
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
