"""Codes of patients: the same alone and in a union, none for generated images, kept in a file beside a set."""

import hashlib
from importlib import resources
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from omegaconf import OmegaConf
from refusals import refuses
from shard_files import write
from synthetic_sets import write_set

from datamodules.findings import NAMES, NUM_LEVELS
from datamodules.manifest import Manifest
from datamodules.shards import ShardSource
from datamodules.sources.csv import CsvSource
from datamodules.sources.phantom import PhantomSource
from datamodules.sources.union import UnionSource
from datamodules.synthetic.lineage import (
    generators,
    label_rows,
    patient_codes,
    patients_among,
    read_trained_on,
    unknown_of,
    write_trained_on,
)
from experiments.known_keys import locate


def code(text: str) -> int:
    """By hand: the eight bytes of BLAKE2b keyed to patients, the least first."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, person=b"patient").digest(), "little")


def drawn(name, people, space=None):
    """A source of these patients; with `space` one of the public ones."""
    rows = [{"id": f"{name}{i}", "path": f"{i}.png", "patient": person} for i, person in enumerate(people)]
    source = SimpleNamespace(name=name, index=lambda: Manifest.from_rows(rows))
    if space is not None:
        source.patient_space = space
    return source


def codes_of(source):
    return patient_codes(source.index(), source)


def test_a_number_is_found_under_the_code_that_it_had_as_a_fraction():
    """As in a checkpoint of the time when `17.0` was not read as `17`."""
    earlier = np.array([code("17.0"), code("p9.0"), code("messidor::5.0")], dtype=np.uint64)
    clinic = drawn("clinic", ["16", "17", "p9"])
    assert patients_among(clinic.index(), clinic, earlier) == ["17"]
    messidor = drawn("messidor", ["5", "17"], space="")
    assert patients_among(messidor.index(), messidor, earlier) == ["5"]


def test_codes_are_those_of_people_and_patient():
    public, own = drawn("idrid", ["7", "8", "7"], space=""), drawn("clinic", ["7", "9"])
    shared = drawn("eyeq", ["10"], space="eyepacs")
    assert codes_of(public).tolist() == sorted([code("idrid::7"), code("idrid::8")])
    assert codes_of(shared).tolist() == [code("eyepacs::10")]
    assert codes_of(own).tolist() == sorted([code("7"), code("9")])
    assert codes_of(public).dtype == np.uint64


def test_codes_are_the_same_alone_and_in_a_union():
    members = {"idrid": drawn("idrid", ["7", "8"], ""), "eyeq": drawn("eyeq", ["10"], "eyepacs"),
               "clinic_a": drawn("csv", ["7", "Ada"])}  # fmt: skip
    union = UnionSource(members)
    alone = np.unique(np.concatenate([codes_of(source) for source in members.values()]))
    assert codes_of(union).tolist() == alone.tolist() and len(alone) == 5
    renamed = UnionSource({"clinic_b": members["clinic_a"]})
    assert codes_of(renamed).tolist() == codes_of(members["clinic_a"]).tolist()


def test_two_readers_of_the_same_people_agree(photographs):
    """A table with the patients of a folder, at another place, under another name of the same set."""
    rows = "path,patient\n" + "".join(f"P{n:02d}_L.png,P{n:02d}\n" for n in range(12))
    (photographs / "t.csv").write_text(rows)
    table = CsvSource(photographs, "t.csv")
    named = UnionSource({"mine": CsvSource(photographs, "t.csv", "mine"), "idrid": drawn("idrid", ["P00"], "")})
    assert set(codes_of(table)) < set(codes_of(named)) and len(codes_of(named)) == 13


def test_every_public_option_names_its_people_as_a_union_does():
    """A union calls a member by its option's name, and the member alone by its own: both must lead to one code."""
    known = 0
    for file in (resources.files("experiments.conf") / "data").iterdir():
        source = OmegaConf.create(file.read_text("utf-8")).get("source") if file.name.endswith(".yaml") else None
        if source is None or source == "???" or not hasattr(kind := locate(source["_target_"]), "patient_space"):
            continue
        known += 1
        assert kind.patient_space or kind.name == file.name[:-5], file.name
    assert known > 25


def test_names_of_those_who_are_among_codes():
    source = drawn("idrid", ["c", "a", "b", "a", "d"], "")
    codes = np.array([code("idrid::a"), code("idrid::d"), code("b")], dtype=np.uint64)
    assert patients_among(source.index(), source, codes) == ["a", "d"]
    assert patients_among(source.index().take([0, 2]), source, codes) == []


def test_many_patients_in_chunks(monkeypatch):
    whole = codes_of(drawn("a", [f"P{n}" for n in range(100)], ""))
    monkeypatch.setattr("datamodules.synthetic.lineage.CHUNK", 7)
    assert codes_of(drawn("a", [f"P{n}" for n in range(100)], "")).tolist() == whole.tolist()


def test_generated_images_have_no_patients(tmp_path, shard_tables):
    generated = ShardSource(write_set(tmp_path / "set"))
    assert codes_of(generated).tolist() == []
    union = UnionSource({"shards": generated, "clinic": drawn("clinic", ["7"])})
    assert codes_of(union).tolist() == [code("7")]
    assert [(each.what, each.codes.tolist()) for each in generators(union)] == [
        (f"the generator of {str(tmp_path / 'set')!r}", [1, 2, 3])
    ]
    people = pa.array([f"p{row // 2}" for row in range(40)])
    photographs = ShardSource(write(tmp_path / "photographs", [shard_tables[0].append_column("patient", people)], 9))
    assert len(codes_of(photographs)) == 20 and generators(photographs) == []
    assert code("p3") in codes_of(photographs)
    assert generators(PhantomSource(4)) == [] and len(codes_of(PhantomSource(4))) == 2


def test_a_set_that_does_not_tell(tmp_path):
    root = write_set(tmp_path / "set")
    (root / "trained_on.parquet").unlink()
    [generator] = generators(ShardSource(root))
    assert generator.codes is None


def test_file_of_a_set(tmp_path):
    path = tmp_path / "trained_on.parquet"
    codes = np.array([2**64 - 1, 5, 5, 2**63], dtype=np.uint64)
    for given in (codes, codes.view(np.int64), torch.from_numpy(codes.view(np.int64))):
        write_trained_on(path, given)
        assert read_trained_on(tmp_path).tolist() == [5, 2**63, 2**64 - 1] and unknown_of(tmp_path) == []
    assert pq.read_schema(path).names == ["patient"] and pq.read_schema(path).field(0).type == pa.uint64()
    (tmp_path / "data").mkdir()
    assert read_trained_on(tmp_path / "data").tolist() == [5, 2**63, 2**64 - 1]
    write_trained_on(path, codes, unknown=["the weights 'a'", "the weights 'b'"])
    assert unknown_of(tmp_path) == ["the weights 'a'", "the weights 'b'"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data", "trained_on.parquet"]
    path.write_bytes(b"PAR1, or not")
    with refuses(ValueError, path, "Parquet"):
        read_trained_on(tmp_path)
    pq.write_table(pa.table({"name": ["Ada"]}), path)
    with refuses(ValueError, path, "'patient'", "uint64"):
        read_trained_on(tmp_path)
    path.unlink()
    assert read_trained_on(tmp_path) is None and unknown_of(tmp_path) == []


def test_label_rows_against_numpy():
    stream = np.random.default_rng(0)
    different = np.stack([stream.integers(-1, NUM_LEVELS[name], size=30) for name in NAMES], axis=1)
    labels = different[stream.integers(0, 30, size=500)]
    rows, counts = label_rows(labels)
    theirs, numbers = np.unique(labels, axis=0, return_counts=True)
    assert rows.tolist() == theirs.tolist() and counts.tolist() == numbers.tolist()
    assert rows.dtype == np.int8 and counts.dtype == np.int64
