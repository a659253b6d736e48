"""Splits by patient: disjoint, stable, in the right proportion, true to an official split."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.splits import assign_splits

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
patients = st.lists(st.sampled_from([f"P{i}" for i in range(30)]), max_size=60)


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
    with pytest.raises(ValueError, match="patient 'B' is in 'train' and in 'test'"):
        assign_splits(["A", "B", "B"], FRACTIONS, 0, ["train", "train", "test"])


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"train": 0.8, "val": 0.1}, "sums to 0.9"),
        ({"train": 1.2, "val": -0.2}, r"fractions\['train'\] is 1.2"),
        ({"train": 0.9, "valid": 0.1}, "'valid', which is not a split. Did you mean 'val'"),
    ],
)
def test_fractions_that_are_none_are_refused(fractions, message):
    with pytest.raises(ValueError, match=message):
        assign_splits(["A"], fractions, 0)


def test_everything_may_go_to_one_side():
    assert set(assign_splits([f"{i}" for i in range(50)], {"test": 1.0}, 0)) == {"test"}
