"""Unions: patients on one side, official tests kept, masks where levels agree."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refuses

from datamodules.manifest import Manifest, ManifestError
from datamodules.sources.base import Source
from datamodules.sources.csv import CsvSource
from datamodules.sources.folder import FolderSource
from datamodules.sources.union import UnionSource
from datamodules.splits import split_by_patient

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
people = st.integers(0, 5).map(lambda number: f"P{number}")
members = st.lists(st.tuples(people, st.sampled_from(["", "train", "val", "test"])), max_size=12)


class Drawn:
    """A source of rows (patient, split), its images of one grey."""

    def __init__(self, name, rows, space="", grey=0, mask_levels=(), masked=False, contains=()):
        self.name, self.patient_space, self.grey, self.mask_levels = name, space, grey, mask_levels
        self.rows, self.masked, self.contains = rows, masked, contains

    def index(self):
        rows = [{"id": str(i), "path": f"a/{i}.png", "patient": p, "split": s, "source": self.name, "dr_grade": i % 5}
                for i, (p, s) in enumerate(self.rows)]  # fmt: skip
        if self.masked:
            rows = [{**row, "mask": f"m/{i}.png|m/{i}b.png"} for i, row in enumerate(rows)]
        return Manifest.from_rows(rows)

    def read(self, path, image_size):
        return np.full((image_size, image_size, 3), self.grey, dtype=np.uint8)

    def read_mask(self, path, mask, image_size):
        assert mask == path.replace("a/", "m/") + "|" + path.replace("a/", "m/").replace(".png", "b.png")
        return np.full((image_size, image_size), 1, dtype=np.uint8)

    def identity(self):
        return f"{self.name}-{self.grey}"


def consistent(rows):
    """A source never has a patient in two official splits: keep the first that it names."""
    named = {}
    for patient, split in rows:
        if split:
            named.setdefault(patient, split)
    return [(patient, named[patient] if split else "") for patient, split in rows]


def test_a_person_is_on_the_same_side_alone_and_in_a_union():
    """Else a model of a union would have been trained on what its members test on."""
    alone = Drawn("a", [(f"P{i}", "") for i in range(200)])
    manifest = split_by_patient(alone.index(), FRACTIONS, 3)
    sides = {f"a::{patient}": side for patient, side in zip(manifest.patients, manifest.splits, strict=True)}
    union = UnionSource({"b": Drawn("b", [("P0", "")]), "a": alone})
    joined = split_by_patient(union.index(), FRACTIONS, 3)
    assert sides.items() <= dict(zip(joined.patients, joined.splits, strict=True)).items()
    assert len(set(sides.values())) == 3


@settings(max_examples=60, deadline=None)
@given(members, members, members, st.sampled_from(["", "shared"]))
def test_no_patient_is_on_two_sides_and_no_official_test_image_leaves_the_test(first, second, third, space):
    sources = {
        name: Drawn(name, consistent(rows), space if name != "c" else "")
        for name, rows in (("a", first), ("b", second), ("c", third))
        if rows
    }
    if not sources:
        return
    index = UnionSource(sources).index()
    manifest = split_by_patient(index, FRACTIONS, seed=0)
    sides = {}
    for patient, split in zip(manifest.patients, manifest.splits, strict=True):
        sides.setdefault(patient, set()).add(split)
    assert all(len(side) == 1 for side in sides.values())
    for name, source in sources.items():
        for i, (_, split) in enumerate(source.rows):
            if split == "test":
                assert manifest.splits[manifest.ids.index(f"{name}/{i}")] == "test"
    spaces = {source.patient_space or name for name, source in sources.items()}
    assert {patient.partition("::")[0] for patient in manifest.patients} == spaces


def test_a_patient_whom_one_source_tests_on_is_a_test_patient_of_the_union(caplog):
    one = Drawn("one", [("P1", "train"), ("P2", "train"), ("P3", "")], space="people")
    other = Drawn("other", [("P1", "test"), ("P3", "val")], space="people")
    manifest = UnionSource({"one": one, "other": other}).index()
    assert manifest.splits == ["test", "train", "val", "test", "val"]
    assert "1 images of 1 patients are in several official splits" in caplog.text
    apart = UnionSource({"one": Drawn("one", one.rows), "other": Drawn("other", other.rows)}).index()
    assert apart.splits == ["train", "train", "", "test", "val"]


@pytest.mark.parametrize("names", [("pack", "part"), ("part", "pack"), ("pack", "other", "part")])
def test_a_set_that_holds_anothers_images_under_other_patients_is_refused_beside_it(names):
    drawn = {name: Drawn(name, [("P", "")]) for name in ("part", "other")}
    drawn["pack"] = Drawn("pack", [("P", "")], contains=("part", "third"))
    with refuses(ValueError, "data.sources", "'pack'", "'part'"):
        UnionSource({name: drawn[name] for name in names})
    assert len(UnionSource({name: drawn[name] for name in ("pack", "other")}).index()) == 2


def test_it_is_a_source_that_reads_as_its_members_do():
    union = UnionSource({"x": Drawn("x", [("P", "")], grey=1), "y": Drawn("y", [("P", "")], grey=2)})
    assert isinstance(union, Source)
    manifest = union.index()
    assert manifest.ids == ["x/0", "y/0"] and manifest.paths == ["x/a/0.png", "y/a/0.png"]
    assert manifest.table.column("source").to_pylist() == ["x", "y"]
    copy = pickle.loads(pickle.dumps(union))
    assert [int(copy.read(path, 4)[0, 0, 0]) for path in manifest.paths] == [1, 2]
    changed = UnionSource({"x": Drawn("x", [("P", "")], grey=9), "y": Drawn("y", [("P", "")], grey=2)})
    assert changed.identity() != union.identity() == copy.identity()
    with refuses(ValueError, "data.sources=[aptos2019,idrid]"):
        UnionSource({})


def test_masks_come_along_where_their_levels_are_the_same(caplog):
    vessels = {"mask_levels": ("background", "vessel"), "masked": True}
    union = UnionSource({"x": Drawn("x", [("P", "")], **vessels), "y": Drawn("y", [("P", "")]),
                         "z": Drawn("z", [("Q", "")], **vessels)})  # fmt: skip
    manifest = union.index()
    masks = manifest.table.column("mask").to_pylist()
    assert masks == ["x/m/0.png|x/m/0b.png", "", "z/m/0.png|z/m/0b.png"]
    assert union.mask_levels == ("background", "vessel")
    assert union.read_mask(manifest.paths[2], masks[2], 4).max() == 1
    polyps = Drawn("z", [("Q", "")], mask_levels=("background", "polyp"), masked=True)
    mixed = UnionSource({"x": union.sources["x"], "z": polyps})
    assert mixed.mask_levels == () and "mask" not in mixed.index().table.column_names
    assert "name other levels than one another" in caplog.text


def test_all_members_that_cannot_be_read_are_named_at_once(tmp_path):
    members = {"here": Drawn("here", [("P", "")]), "a": FolderSource(tmp_path / "a"), "b": FolderSource(tmp_path / "b")}
    with refuses(FileNotFoundError, "2 of 3", "- a: ", tmp_path / "a", "- b: ", tmp_path / "b"):
        UnionSource(members).index()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "t.csv").write_text("path,dr_grade\nx.png,9\n")
    with refuses(ManifestError, "2 of 2", "- a: ", tmp_path / "a", "- b: ", "'9'"):
        UnionSource({"a": members["a"], "b": CsvSource(tmp_path / "b", "t.csv")}).index()


def test_one_file_of_two_sources_is_one_patients_or_refused(table_root):
    (table_root / "labels.csv").write_text("path,patient\na.png,P1\nd.png,P2\n")
    members = {"folder": FolderSource(table_root), "table": CsvSource(table_root, "labels.csv")}
    with refuses(ValueError, "'folder/a.png'", "'table/a.png'", "P1"):
        UnionSource(members).index()
    (table_root / "labels.csv").write_text("path,patient\na.png,a\nd.png,d\n")
    members["table"] = CsvSource(table_root, "labels.csv")
    for member in members.values():
        member.patient_space = "ours"
    assert UnionSource(members).index().num_patients == 3
