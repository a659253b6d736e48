"""What a union is made of: options by name, sets of one's own by any other, and words that name neither."""

import pytest
from mistaken_commands import camera
from refusals import refuses

from datamodules.manifest import Manifest
from experiments.unions import union_sources


def test_options_and_sets_of_ones_own():
    own = {"clinic_a": {"root": "a", "table": "t.csv"}, "clinic_b": {"root": "b", "patient_pattern": "(?P<patient>x)"}}
    found = union_sources(["idrid", "drive"], "all", {"drive": "elsewhere"}, partial=True, own=own)
    assert {name: (source["root"], source["_target_"].rpartition(".")[2]) for name, source in found.items()} == {
        "idrid": ("all/idrid", "IDRiD"),
        "drive": ("elsewhere", "DRIVE"),
        "clinic_a": ("a", "CsvSource"),
        "clinic_b": ("b", "FolderSource"),
    }
    assert found.idrid.partial and found.clinic_a.name == "clinic_a" and found.clinic_a.table == "t.csv"
    assert found.clinic_b.patient_pattern == "(?P<patient>x)"


@pytest.mark.parametrize(
    ("names", "roots", "own", "facts"),
    [
        (["idrid", "drive"], {}, {}, ["idrid, drive", "data.root,", "+data.roots.idrid=", "+data.roots.drive="]),
        (["csv"], {"csv": "x"}, {}, ["data.sources", "'csv'", "+data.own.NAME="]),
        (["idird"], {"idird": "x"}, {}, ["data.sources", "'idird'", "idrid"]),
        ([], {}, {"idrid": {"root": "x"}}, ["data.own.idrid", "underscores"]),
        ([], {}, {"a/b": {"root": "x"}}, ["data.own.a/b", "underscores"]),
        ([], {}, {"mine": "x"}, ["data.own.mine is 'x'", "root: FOLDER"]),
        ([], {}, {"mine": {"table": "x"}}, ["data.own.mine", {"table": "x"}, "root: FOLDER"]),
        ([], {}, {"mine": {"root": "x", "tabel": "t"}}, ["data.own.mine", "'tabel'", "table"]),
        ([], {}, {"mine": {"root": "x", "table": "t", "patient_pattern": "p"}},
         ["data.own.mine", "table and patient_pattern"]),
    ],
)  # fmt: skip
def test_what_names_no_member(names, roots, own, facts):
    with refuses(ValueError, *facts):
        union_sources(names, None, roots, own=own)


def test_a_table_and_a_folder_are_trained_as_one(command, here):
    """Through the command: rows carry the sets' names, and patients of one name in two sets are two."""
    for number in range(12):
        folder = here / ("a" if number < 6 else "b")
        folder.mkdir(exist_ok=True)
        camera(number).save(folder / f"p{number % 6}.png")
    (here / "a" / "t.csv").write_text("path,patient,dr_grade\n" + "".join(f"p{i}.png,p{i},{i % 5}\n" for i in range(6)))
    words = ["+exp=inspect_data", "data=union", "data.sources=[]", "data.image_size=64", "data.cache_workers=1"]
    result = command(*words, "+data.own.ours={root: a, table: t.csv}", "+data.own.theirs={root: b}", "output_dir=out")
    assert result.code == 0, result.err
    assert "12 of 12 patients" in result.out
    manifest = Manifest.read(here / "out" / "manifest.parquet")
    assert manifest.table.column("source").to_pylist() == ["ours"] * 6 + ["theirs"] * 6
    assert (
        manifest.patients[0] == "ours::p0" and manifest.patients[6] == "theirs::p0" and manifest.labels[6].max() == -1
    )
