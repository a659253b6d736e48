"""The manifest: what it refuses, and that it says the same however it was made."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refuses

from datamodules import columns
from datamodules.findings import NAMES, NUM_LEVELS, encode
from datamodules.manifest import Manifest, ManifestError

names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="/\\:."), min_size=1)
levels = st.fixed_dictionaries({}, optional={name: st.integers(-1, NUM_LEVELS[name] - 1) for name in NAMES})
cells = st.tuples(names, names, st.sampled_from(["", "train", "val", "test"]), levels)
rows = st.lists(cells, max_size=8, unique_by=lambda row: row[0]).map(
    lambda found: [{"id": i, "path": f"a/{i}.png", "patient": p, "split": s, **x} for i, p, s, x in found]
)


def table(n=3, **columns):
    plain = {"id": [f"i{k}" for k in range(n)], "path": [f"p/{k}.png" for k in range(n)]}
    return pa.table({name: values for name, values in {**plain, **columns}.items() if values is not None})


@settings(max_examples=40, deadline=None)
@given(rows)
def test_rows_come_back_as_they_went_in(tmp_path_factory, rows):
    manifest = Manifest.from_rows(rows)
    assert manifest.ids == [row["id"] for row in rows]
    assert manifest.splits == [row["split"] for row in rows]
    expected = [encode({name: row[name] for name in NAMES if name in row}) for row in rows]
    assert manifest.labels.dtype == np.int64 and manifest.labels.shape == (len(rows), 16)
    assert manifest.labels.tolist() == [row.tolist() for row in expected]
    path = tmp_path_factory.mktemp("m") / "manifest.parquet"
    manifest.write(path)
    again = Manifest.read(path)
    assert again.table.to_pylist() == manifest.table.to_pylist()
    assert again.fingerprint == manifest.fingerprint


def test_inside_it_is_small_and_outside_it_is_int64():
    manifest = Manifest.from_rows([{"id": "a", "path": "a.png"}])
    assert manifest.table.schema.field("is_amd").type == pa.int8()
    assert pa.types.is_dictionary(manifest.table.schema.field("patient").type)
    assert manifest.labels.tolist() == [[-1] * 16]
    assert manifest.patients == ["a"]


def test_texts_are_encoded_in_the_order_of_first_appearance(monkeypatch):
    texts = pa.chunked_array([["b", "a", "b"], ["c", "", "a"]])
    for few in (1 << 20, 2):
        monkeypatch.setattr(columns, "CHUNK", few)
        encoded = columns.encoded(texts)
        assert encoded.to_pylist() == texts.to_pylist() and encoded.dictionary.to_pylist() == ["b", "a", "c", ""]
    monkeypatch.setattr(columns, "hashes", lambda found: np.zeros(len(found), dtype=np.int64))  # all collide
    assert columns.encoded(texts).to_pylist() == texts.to_pylist()


def test_rows_are_chosen_by_findings():
    rows = [{"id": str(i), "path": str(i), "dr_grade": i % 5, "is_gc": (0, 1, None)[i % 3]} for i in range(30)]
    manifest = Manifest.from_rows(rows)
    assert manifest.where(dr_grade=[3, 4], is_gc=1).ids == ["4", "13", "19", "28"]
    assert len(manifest.where(is_gc=-1)) == 10
    with refuses(ValueError, "dr_grade", 5, "4 (proliferative)"):
        manifest.where(dr_grade=5)
    with refuses(ValueError, "'dr_grad'", "finding", "mean 'dr_grade'"):
        manifest.where(dr_grad=1)


@pytest.mark.parametrize(
    ("columns", "facts"),
    [
        ({"dr_grade": [0, None, 7]}, ("row 2", "'dr_grade'", 7, "0 (none)", "4 (proliferative)")),
        ({"is_dme": [1, 2, 0]}, ("row 1", "'is_dme'", 2)),
        ({"is_dme": [0.0, 0.5, 1.0]}, ("row 1", "'is_dme'", 0.5)),
        ({"is_dme": [0, 1, -2]}, ("row 2", "'is_dme'", -2)),
        ({"is_dme": ["yes", "no", "no"]}, ("'is_dme'", "'yes'", "string")),
        ({"id": ["a", "b", "a"]}, ("row 2", "'id'", "'a'", "row 0")),
        ({"path": ["a", "b", "b"]}, ("row 2", "'path'", "'b'", "row 1")),
        ({"id": ["a", " ", "b"]}, ("row 1", "'id'", "''", "blank")),
        ({"path": ["a", None, "b"]}, ("row 1", "'path'", "''", "blank")),
        ({"path": ["a", "b", "/etc/passwd"]}, ("row 2", "'path'", "'/etc/passwd'", "root")),
        ({"path": ["a", "x/../../b", "c"]}, ("row 1", "'path'", "'x/../../b'", "root")),
        ({"path": ["C:\\a", "b", "c"]}, ("row 0", "'path'", repr("C:\\a"), "root")),
        ({"path": ["..\\a", "b", "c"]}, ("row 0", "'path'", repr("..\\a"), "root")),
        ({"path": ["a", "./b", ".//b"]}, ("row 2", "'path'", "'b'", "row 1")),
        ({"mask": ["m", "m|../x", "m"]}, ("row 1", "'mask'", "'m|../x'", "root")),
        ({"mask": ["m", "m", "m|/x"]}, ("row 2", "'mask'", "'m|/x'", "root")),
        ({"mask": ["m|C:x", "m", ""]}, ("row 0", "'mask'", "'m|C:x'", "root")),
        ({"mask": ["m|a/..|b", "m", ""]}, ("row 0", "'mask'", "'m|a/..|b'", "root")),
        ({"mask": ["..|b", "m", ""]}, ("row 0", "'mask'", "'..|b'", "root")),
        ({"path": ["a", ".//../b", "c"]}, ("row 1", "'path'", "../b'", "root")),
        ({"path": ["a", "b\x00.png", "c"]}, ("row 1", "'path'", repr("b\x00.png"), "control")),
        ({"id": ["a", "b\x1b[2J", "c"]}, ("row 1", "'id'", repr("b\x1b[2J"), "control")),
        ({"patient": ["a", "b\nc", "d"]}, ("row 1", "'patient'", repr("b\nc"), "control")),
        ({"id": ["a", "b", "x" * 5000]}, ("row 2", "'id'", f"'{'x' * 200}'", 4096)),
        ({"id": [["a"], ["b"], ["c"]]}, ("id list", "UTF-8")),
        ({"patient": [b"\xff", b"a", b"b"]}, ("patient binary", "UTF-8")),
        ({"split": ["train", "validation", ""]}, ("row 1", "'split'", "'validation'")),
        ({"dr_grad": [1, 1, 1]}, ("'dr_grad'", "mean 'dr_grade'")),
        ({"path": None}, ("'path'", ": id")),
    ],
)
def test_what_cannot_be_a_manifest_is_refused_by_cell(columns, facts):
    with refuses(ManifestError, *facts):
        Manifest.from_table(table(**columns))


def test_dots_in_a_name_are_no_climbing():
    manifest = Manifest.from_table(table(path=["a..b/c..png", "...", "x/.y/..z"]))
    assert len(manifest) == 3


def test_rows_have_the_numbers_of_their_origin():
    with refuses(ManifestError, "labels.csv", "row 4", "'dr_grade'", 9):
        Manifest.from_table(table(dr_grade=[0, 0, 9]), origin="labels.csv", rows=range(2, 5))


def test_the_fingerprint_is_of_the_content():
    plain = Manifest.from_table(table(dr_grade=[0, 1, 2]))
    chunked = pa.concat_tables([table(dr_grade=[0, 1, 2]).slice(0, 1), table(dr_grade=[0, 1, 2]).slice(1)])
    assert Manifest.from_table(chunked).fingerprint == plain.fingerprint
    assert plain.take([0, 1, 2]).fingerprint == plain.fingerprint
    others = [table(dr_grade=[0, 1, 3]), table(id=["i0", "i1", "x"], dr_grade=[0, 1, 2])]
    others += [table(dr_grade=[0, 1, 2], patient=["i0", "i1i", "2"]), table(dr_grade=[0, 1, 2], split=["", "", "val"])]
    prints = {Manifest.from_table(other).fingerprint for other in others} | {plain.fingerprint}
    assert len(prints) == 5


def test_select_and_rows_agree():
    manifest = Manifest.from_table(table(split=["val", "train", "val"]))
    assert manifest.rows("val").tolist() == [0, 2]
    assert manifest.select("val").ids == ["i0", "i2"]
    with refuses(ValueError, "split", "'valid'", "train, val, test"):
        manifest.rows("valid")


def test_a_hundred_thousand_rows_take_no_time():
    n = 100_000
    columns = {name: pa.array(np.zeros(n, dtype=np.int8)) for name in NAMES}
    big = table(n, patient=[f"p{k // 2}" for k in range(n)], **columns)
    start = time.perf_counter()
    manifest = Manifest.from_table(big)
    assert manifest.fingerprint and manifest.labels.shape == (n, 16)
    assert time.perf_counter() - start < 6


@pytest.mark.slow
def test_ten_million_rows_open_split_and_filter_within_a_gibibyte(tmp_path):
    """In a process of its own, whose peak of memory is the manifest's."""
    program, file = Path(__file__).with_name("ten_million_rows.py"), tmp_path / "manifest.parquet"
    subprocess.run([sys.executable, program, "write", file], check=True, timeout=280)
    said = subprocess.run([sys.executable, program, "read", file], check=True, timeout=280, capture_output=True)
    figures = json.loads(said.stdout)
    assert figures["num_rows"] == 10_000_000 and 1e6 < figures["num_found"] < 1.3e6
    assert figures["peak_gib"] < 1.0, figures


def test_truths_are_levels_of_what_is_there_or_not():
    manifest = Manifest.from_table(table(is_amd=[True, False, None]))
    assert manifest.table.column("is_amd").to_pylist() == [1, 0, -1]
    with refuses(ManifestError, "'eye_side'", True, "bool"):
        Manifest.from_table(table(eye_side=[True, False, None]))


def test_without_ids_the_path_is_the_id():
    manifest = Manifest.from_table(pa.table({"path": ["./a.png", "b//c.png"]}))
    assert manifest.ids == manifest.paths == manifest.patients == ["a.png", "b/c.png"]


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text", "schema"])
def test_a_damaged_manifest_is_named_with_the_remedy(tmp_path, damage):
    path = tmp_path / "manifest.parquet"
    Manifest.from_table(table(200)).write(path)
    content = bytearray(path.read_bytes())
    if damage == "schema":
        pq.write_table(pa.table({"plan": [1]}), path)
    else:
        content[4:40] = bytes(36) if damage == "flipped" else content[4:40]
        path.write_bytes({"empty": b"", "cut": content[:-9], "flipped": content, "text": b"id,path\n"}[damage])
    with refuses(ManifestError, path, "'path'" if damage == "schema" else "Parquet"):
        Manifest.read(path)
