"""Splits by patient: disjoint, stable, in the right proportion, true to an official split."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refuses

from datamodules.manifest import Manifest
from datamodules.splits import rows_of_fraction, rows_of_number, split_by_patient

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
SCHEMA = pa.schema([("path", pa.string()), ("patient", pa.string()), ("split", pa.string())])
patients = st.lists(st.sampled_from([f"P{i}" for i in range(30)]), max_size=60)


def assign_splits(patients, fractions, seed, official=None):
    """The split of each row of a manifest of these patients."""
    columns = {
        "path": list(map(str, range(len(patients)))),
        "patient": patients,
        "split": official or [""] * len(patients),
    }
    return split_by_patient(Manifest.from_table(pa.table(columns, SCHEMA)), fractions, seed).splits


def by_patient(patients, splits):
    sides = {}
    for patient, split in zip(patients, splits, strict=True):
        sides.setdefault(patient, set()).add(split)
    return sides


@settings(deadline=None)
@given(patients, patients, st.integers(0, 5))
def test_a_patient_has_one_side_and_keeps_it_when_rows_are_added(first, more, seed):
    alone = by_patient(first, assign_splits(first, FRACTIONS, seed))
    together = by_patient(more + first, assign_splits(more + first, FRACTIONS, seed))
    assert all(len(side) == 1 for side in together.values())
    assert alone == {patient: together[patient] for patient in alone}


def test_fractions_are_met_and_the_seed_matters():
    many = [f"patient-{i}" for i in range(20_000)]
    splits = assign_splits(many, FRACTIONS, 0)
    assert abs(splits.count("train") / 20_000 - 0.8) < 0.01
    assert abs(splits.count("val") / 20_000 - 0.1) < 0.01
    assert splits != assign_splits(many, FRACTIONS, 1)


def test_the_order_in_which_fractions_are_written_does_not_matter():
    many = [f"patient-{i}" for i in range(200)]
    other = dict(reversed(FRACTIONS.items()))
    assert assign_splits(many, FRACTIONS, 0) == assign_splits(many, other, 0)


def test_a_known_assignment_never_changes():
    letters = "".join(split[1] for split in assign_splits([f"Patient{i:03d}" for i in range(12)], FRACTIONS, 0))
    assert letters == "errrrrrererr"


@settings(deadline=None)
@given(patients, st.integers(0, 3))
def test_the_official_split_is_kept_and_takes_its_patients_along(found, seed):
    official = ["test" if i == 0 else "" for i in range(len(found))]
    splits = assign_splits(found, FRACTIONS, seed, official)
    assert all(split == "test" for patient, split in zip(found, splits, strict=True) if patient == found[0])
    free = assign_splits(found, FRACTIONS, seed)
    assert all(a == b for p, a, b in zip(found, splits, free, strict=True) if p != found[0])


def test_an_official_split_that_parts_a_patient_is_refused():
    patients, splits = ["A", "B", "C", "B", "C"], ["train", "train", "val", "test", "train"]
    with refuses(ValueError, "'B'", "'train' (image '1')", "'test' (image '3')", "2 patients"):
        assign_splits(patients, FRACTIONS, 0, splits)


@pytest.mark.parametrize(
    ("fractions", "facts"),
    [
        ({"train": 0.8, "val": 0.1}, ({"train": 0.8, "val": 0.1}, 0.9)),
        ({"train": "most", "val": 0.1}, ("'train'", "most", "[0, 1]")),
        ({"train": 1.2, "val": -0.2}, ("'train'", 1.2, "[0, 1]")),
        ({"train": 0.9, "valid": 0.1}, ("'valid'", "mean 'val'")),
    ],
)
def test_fractions_that_are_none_are_refused(fractions, facts):
    with refuses(ValueError, "fractions", *facts):
        assign_splits(["A"], fractions, 0)


def test_everything_may_go_to_one_side():
    assert set(assign_splits([f"{i}" for i in range(50)], {"test": 1.0}, 0)) == {"test"}


@settings(deadline=None)
@given(patients, st.integers(0, 3))
def test_official_training_patients_are_shared_with_val_where_there_is_no_official_val(found, seed):
    official = ["test" if patient < "P2" else "train" for patient in found]
    splits = assign_splits(found, FRACTIONS, seed, official)
    for given_split, split in zip(official, splits, strict=True):
        assert split == "test" if given_split == "test" else split in ("train", "val")
    assert all(len(side) == 1 for side in by_patient(found, splits).values())


def test_the_share_of_val_is_that_of_its_fraction():
    many = [f"patient-{i}" for i in range(20_000)]
    splits = assign_splits(many, FRACTIONS, 0, ["train"] * 20_000)
    assert abs(splits.count("val") / 20_000 - 1 / 9) < 0.01 and "test" not in splits
    assert set(assign_splits(many, {"train": 1.0, "val": 0.0}, 0, ["train"] * 20_000)) == {"train"}


def test_a_source_with_an_official_val_keeps_its_training_set():
    rows = [{"id": f"{s}{i}", "path": f"{s}/{i}", "source": s, "split": "train"} for s in "ab" for i in range(200)]
    rows += [{"id": "v", "path": "v", "source": "b", "split": "val"}]
    manifest = split_by_patient(Manifest.from_rows(rows), FRACTIONS, 0)
    sides = {s: manifest.take([i for i, row in enumerate(rows) if row["source"] == s]).splits for s in "ab"}
    assert 10 < sides["a"].count("val") < 40 and sides["b"].count("val") == 1 and "test" not in manifest.splits


def test_a_patient_who_is_also_in_an_official_val_or_train_elsewhere_follows_it():
    rows = [{"id": f"a{i}", "path": f"a/{i}", "source": "a", "patient": f"p{i}", "split": "train"} for i in range(100)]
    rows += [{"id": f"b{i}", "path": f"b/{i}", "source": "b", "patient": f"p{i}", "split": "train"} for i in range(100)]
    rows += [{"id": "v", "path": "v", "source": "b", "split": "val"}]
    assert set(split_by_patient(Manifest.from_rows(rows), FRACTIONS, 0).splits[:-1]) == {"train"}
    rows[0]["split"] = "test"
    with refuses(ValueError, "'p0'", "'train' (image 'b0')", "'test' (image 'a0')"):
        split_by_patient(Manifest.from_rows(rows), FRACTIONS, 0)


def test_a_share_of_the_training_patients_is_nested_and_leaves_the_other_splits():
    rows = [{"id": f"{i}", "path": f"{i}", "patient": f"p{i // 2}"} for i in range(400)]
    manifest = split_by_patient(Manifest.from_rows(rows), FRACTIONS, 0)
    num = manifest.select("train").num_patients
    kept = {share: manifest.take(rows_of_fraction(manifest, share, 0)) for share in (0.001, 0.1, 0.25, 1.0)}
    for share, part in kept.items():
        assert part.select("train").num_patients == max(1, round(share * num))
        assert (
            part.select("val").ids == manifest.select("val").ids
            and part.rows("test").size == manifest.rows("test").size
        )
    assert set(kept[0.1].ids) <= set(kept[0.25].ids) < set(kept[1.0].ids) == set(manifest.ids)
    assert set(manifest.take(rows_of_fraction(manifest, 0.25, 1)).ids) != set(kept[0.25].ids)


def test_a_number_of_training_images_is_nested_patient_by_patient():
    rows = [{"id": f"{i}", "path": f"{i}", "patient": f"p{i % 100}"} for i in range(300)]  # three images each
    manifest = split_by_patient(Manifest.from_rows(rows), FRACTIONS, 0)
    kept = {number: manifest.take(rows_of_number(manifest, number, 4)) for number in (1, 7, 9, 30)}
    for number, part in kept.items():
        train = part.select("train")
        assert len(train) == number and train.num_patients == -(-number // 3), "all images of a patient, then the next"
        assert part.select("val").ids == manifest.select("val").ids
        assert part.select("test").ids == manifest.select("test").ids
    parts = [set(part.ids) for part in kept.values()]
    assert parts[0] < parts[1] < parts[2] < parts[3]
    assert set(manifest.take(rows_of_number(manifest, 30, 5)).ids) != parts[3]
    total = len(manifest.rows("train"))
    assert len(rows_of_number(manifest, total, 4)) == 300
    with refuses(ValueError, "data.num_train", total, total + 1):
        rows_of_number(manifest, total + 1, 4)
