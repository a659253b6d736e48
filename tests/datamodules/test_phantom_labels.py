"""Labels of phantoms: prevalences, co-occurrence, fellow eyes, overrides."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refuses

from datamodules.findings import NAMES, NUM_LEVELS
from datamodules.phantom import (
    DME_GIVEN_GRADE,
    NOT_FUNDUS,
    PREVALENCE,
    UNREADABLE,
    draw_labels,
    labels_of,
    patient_of,
    render,
)

NUM = 6000


@pytest.fixture(scope="module")
def many() -> dict[str, np.ndarray]:
    """Labels of both eyes of 3000 patients, a column a finding."""
    rows = [labels_of(123, index) for index in range(NUM)]
    return {name: np.array([row[name] for row in rows]) for name in NAMES}


def within_binomial(count: int, total: int, share: float, patients_per_row: float = 0.5) -> bool:
    """Within 4.5 standard deviations, fellow eyes counted as one where they are fully correlated."""
    spread = np.sqrt(share * (1 - share) / (total * patients_per_row))
    return abs(count / total - share) <= 4.5 * spread


def test_every_finding_is_known():
    for index in range(40):
        labels = labels_of(7, index)
        assert set(labels) == set(NAMES)
        assert all(0 <= labels[name] < NUM_LEVELS[name] for name in NAMES)


def test_prevalences_are_the_tabulated_ones(many):
    fundus = many["is_fundus"] == 1
    assert within_binomial(int((~fundus).sum()), NUM, NOT_FUNDUS)
    total = int(fundus.sum())
    for grade, share in enumerate(PREVALENCE["dr_grade"]):
        assert within_binomial(int((many["dr_grade"][fundus] == grade).sum()), total, share), grade
    for name, share in PREVALENCE.items():
        if name != "dr_grade":
            assert within_binomial(int(many[name][fundus].sum()), total, share), name
    for name, share in UNREADABLE.items():
        assert within_binomial(int((many[name][fundus] == 0).sum()), total, share), name
    for grade, share in enumerate(DME_GIVEN_GRADE):
        chosen = fundus & (many["dr_grade"] == grade)
        assert within_binomial(int(many["is_dme"][chosen].sum()), int(chosen.sum()), share, 1.0), grade
    assert all((many["is_dme"][fundus & (many["dr_grade"] == grade)] == 1).any() for grade in (1, 2, 3, 4))
    assert abs(sum(PREVALENCE["dr_grade"]) - 1) < 1e-9


def test_findings_co_occur_as_in_a_clinic(many):
    def lift(first: str, second: str) -> float:
        a, b = many[first] > 0, many[second] > 0
        return (a & b).mean() / (a.mean() * b.mean())

    assert not (many["is_dme"] & (many["dr_grade"] == 0)).any()
    assert lift("is_htr", "is_rvo") > 1.8
    assert lift("is_dm", "is_pm") > 3
    assert lift("is_gc", "is_dm") > 1.2
    assert lift("is_amd", "is_em") > 1.3


def test_fellow_eyes_resemble_each_other(many):
    right, left = many["dr_grade"][0::2], many["dr_grade"][1::2]
    assert np.corrcoef(right, left)[0, 1] > 0.6
    for name in ("is_amd", "is_gc", "is_htr", "is_pm"):
        both = (many[name][0::2] & many[name][1::2]).mean()
        assert both > 3 * many[name].mean() ** 2, name
    assert (many["eye_side"][0::2] == 0).all() and (many["eye_side"][1::2] == 1).all()
    assert patient_of(5, 8) == patient_of(5, 9) != patient_of(5, 10)


def test_without_a_fundus_nothing_is_present_or_readable(many):
    none = many["is_fundus"] == 0
    for name in set(NAMES) - {"eye_side"}:
        assert (many[name][none] == 0).all(), name


def test_drawn_labels_follow_the_same_law():
    rng = np.random.default_rng(0)
    grades = np.array([draw_labels(rng)["dr_grade"] for _ in range(2000)])
    assert within_binomial(int((grades == 0).sum()), 2000, NOT_FUNDUS + (1 - NOT_FUNDUS) * 0.58, 1.0)


def test_liability_cuts_match_the_normal_law():
    assert NormalDist().cdf(NormalDist().inv_cdf(0.58)) == pytest.approx(PREVALENCE["dr_grade"][0])


@settings(max_examples=40, deadline=None)
@given(
    index=st.integers(0, 10_000),
    overrides=st.dictionaries(st.sampled_from([n for n in NAMES if n != "is_fundus"]), st.integers(0, 1), max_size=5),
)
def test_overrides_are_obeyed(index, overrides):
    from datamodules.phantom.labels import resolve

    labels = resolve(3, index, overrides)
    if labels["is_fundus"]:
        assert labels | overrides == labels
    else:
        assert not any(level for name, level in overrides.items() if name != "eye_side")


def test_an_override_brings_what_it_needs():
    assert all(render(1, i, 32, {"is_dme": 1}).labels["dr_grade"] >= 2 for i in range(4))
    assert all(render(1, i, 32, {"is_amd": 1}).labels["is_fundus"] == 1 for i in range(4))
    blank = render(1, 0, 32, {"is_fundus": 0}).labels
    assert sum(level for name, level in blank.items() if name != "eye_side") == 0


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"is_amdd": 1}, ["is_amdd", "is_amd"]),
        ({"dr_grade": 5}, ["dr_grade=5", "0 to 4"]),
        ({"is_gc": -1}, ["is_gc=-1", "0 to 1"]),
        ({"is_fundus": 0, "is_gc": 1}, ["is_fundus=0", "is_gc=1"]),
    ],
)
def test_impossible_labels_are_named(labels, words):
    with pytest.raises(ValueError) as caught:
        render(0, 0, 32, labels)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("arguments", "fact"), [((-1, 0, 64), "seed=-1"), ((0, -2, 64), "index=-2"), ((0, 0, 8), "image_size=8")]
)
def test_arguments_out_of_range_are_named(arguments, fact):
    with refuses(ValueError, fact):
        render(*arguments)
