"""Prevalences and co-occurrences: met exactly, or refused with what cannot be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refuses

from datamodules.findings import NAMES
from datamodules.phantom.labels import labels_of
from datamodules.plan.laws import LabelRows
from datamodules.plan.prevalences import PrevalencesLaw
from datamodules.plan.raking import MarginalConstraint, rake
from datamodules.synthetic.plan import PlanError

DR, GC, DME, RVO = (NAMES.index(name) for name in ("dr_grade", "is_gc", "is_dme", "is_rvo"))


@pytest.fixture(scope="module")
def seen() -> LabelRows:
    labels = np.array([[labels_of(0, index)[name] for name in NAMES] for index in range(3000)], dtype=np.int8)
    return LabelRows(*np.unique(labels, axis=0, return_counts=True))


def drawn(tmp_path, text: str, seen: LabelRows | None, num_images: int = 20000) -> np.ndarray:
    path = tmp_path / "prevalences.yaml"
    path.write_text(text)
    return np.concatenate([chunk.labels for chunk in PrevalencesLaw(path).chunks(num_images, 0, seen)])


TEXT = """
prevalences:
  is_gc: 0.3
  dr_grade: [0.4, 0.1, 0.2, 0.15, 0.15]
together:
  - {is_dme: 1, among: {dr_grade: 4}, share: 0.6}
  - {is_gc: 1, is_rvo: 1, share: 0.03}
"""


@pytest.mark.parametrize("base", ["training", "independent"])
def test_shares_are_met(tmp_path, seen, base):
    labels = drawn(tmp_path, f"base: {base}\n{TEXT}", seen)
    assert abs((labels[:, GC] == 1).mean() - 0.3) < 0.002
    for level, share in enumerate((0.4, 0.1, 0.2, 0.15, 0.15)):
        assert abs((labels[:, DR] == level).mean() - share) < 0.002
    assert abs((labels[labels[:, DR] == 4, DME] == 1).mean() - 0.6) < 0.01
    assert abs(((labels[:, GC] == 1) & (labels[:, RVO] == 1)).mean() - 0.03) < 0.002
    if base == "independent":
        others = [place for place in range(len(NAMES)) if place not in (DR, GC, DME, RVO)]
        assert (labels[:, others] == -1).all()
        gc_by_grade = [(labels[labels[:, DR] == level, GC] == 1).mean() for level in range(5)]
        assert np.ptp(gc_by_grade) < 0.02
    else:
        assert {row.tobytes() for row in labels} <= {row.tobytes() for row in seen.labels}
        assert (labels[labels[:, DR] == 0, DME] == 1).sum() == 0  # as in the training labels


def test_what_is_left_open_stays_as_in_training(tmp_path, seen):
    labels = drawn(tmp_path, "prevalences: {is_gc: 0.5}", seen)
    for level in (0, 1):  # those with glaucoma, and those without, are as they were
        was = seen.counts * (seen.labels[:, GC] == level)
        wanted = was[seen.labels[:, DR] >= 3].sum() / was.sum()
        assert abs((labels[labels[:, GC] == level, DR] >= 3).mean() - wanted) < 0.005


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_raking_two_margins_of_a_table_meets_both_and_keeps_the_odds_ratio(seed, first, second):
    """The closed form: in a 2 x 2 table the margins change and the odds ratio does not (Deming and Stephan 1940)."""
    weights = np.random.default_rng(seed).uniform(0.1, 1, 4)  # of (0,0), (0,1), (1,0), (1,1)
    everywhere = np.ones(4, dtype=bool)
    rows, columns = np.array([0, 0, 1, 1]) == 1, np.array([0, 1, 0, 1]) == 1
    found = rake(
        weights,
        [MarginalConstraint(rows, everywhere, first, "row"), MarginalConstraint(columns, everywhere, second, "column")],
    )
    assert abs(found[rows].sum() - first) < 1e-5 and abs(found[columns].sum() - second) < 1e-5
    odds = [w[0] * w[3] / (w[1] * w[2]) for w in (weights, found)]
    assert abs(odds[0] / odds[1] - 1) < 1e-6


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("prevalences: {is_gcc: 0.3}", ("'is_gcc'", "mean 'is_gc'")),
        ("prevalences: {is_gc: 1.3}", ("is_gc", 1.3)),
        ("prevalences: {dr_grade: 0.3}", ("dr_grade", "5 levels", 0.3)),
        ("prevalences: {dr_grade: [0.5, 0.1, 0.1, 0.1, 0.1]}", ("dr_grade", [0.5, 0.1, 0.1, 0.1, 0.1], 0.9)),
        ("prevalence: {is_gc: 0.3}", ("'prevalence'", "mean 'prevalences'")),
        ("together: [{is_gc: 2, share: 0.1}]", ("together[0]", "is_gc", 2)),
        ("together: [{is_gc: 1}]", ("together[0]", {"is_gc": 1})),
        ("together: [{share: 0.1}]", ("together[0]", "finding")),
        ("base: free\nprevalences: {is_gc: 0.3}", ("base", "'free'")),
        ("prevalences: {}", ("asks", "together")),
        ("prevalences: [is_gc]", (["is_gc"], "shares")),
        ("together: 5", ("together", 5, "list")),
        ("- is_gc", (["is_gc"], "prevalences, together and base")),
        ("a: [", ("YAML",)),
    ],
)
def test_a_file_that_means_nothing_is_refused(tmp_path, seen, text, facts):
    with refuses(PlanError, "prevalences.yaml", *facts):
        drawn(tmp_path, text, seen)


def test_shares_that_contradict_each_other_are_refused(tmp_path, seen):
    with refuses(ValueError, "prevalences.yaml", "is_gc=0", 0.9, 0.7):
        drawn(tmp_path, "prevalences: {is_gc: 0.1}\ntogether: [{is_gc: 1, is_rvo: 1, share: 0.3}]", seen)
    with refuses(ValueError, "prevalences.yaml", "is_dme=1", "dr_grade=0", 0.2, "base: independent"):
        drawn(tmp_path, "together: [{is_dme: 1, among: {dr_grade: 0}, share: 0.2}]", seen)
    labels = drawn(tmp_path, "base: independent\ntogether: [{is_dme: 1, among: {dr_grade: 0}, share: 0.2}]", None)
    assert abs((labels[labels[:, DR] == 0, DME] == 1).mean() - 0.2) < 0.01
