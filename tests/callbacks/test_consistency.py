"""Condition against annotation: the figures of evaluation.py, thresholds, what is undefined and why, figure."""

import json
import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, precision_score, recall_score, roc_auc_score

from callbacks.consistency_figure import DPI, figure_of
from callbacks.diagnosis_figures import BLUE, ORANGE
from callbacks.metrics import consistency
from callbacks.metrics.consistency import METRICS, agreement, decided
from callbacks.metrics.estimate import to_json
from callbacks.metrics.evaluation import evaluate

FINDINGS = {"dr_grade": 5, "is_gc": 2, "eye_side": 2}
BOUNDS = ("value", "low", "high")
ALL = "and is all that is decided"


def predictions(num_images=90, seed=0):
    """Labels with unknown ones, probabilities that know something of them, three images a patient."""
    stream = np.random.default_rng(seed)
    labels = np.stack([stream.integers(0, levels, num_images) for levels in FINDINGS.values()], axis=1)
    chances = {}
    for column, (name, levels) in enumerate(FINDINGS.items()):
        scores = stream.normal(size=(num_images, levels)) + 1.2 * np.eye(levels)[labels[:, column]]
        chances[name] = (np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)).astype(np.float32)
    labels[stream.random(labels.shape) < 0.1] = -1
    return labels, chances, [f"p{index // 3}" for index in range(num_images)]


def test_figures_and_intervals_are_those_of_the_evaluation():
    labels, chances, patients = predictions()
    found = agreement(labels, chances, FINDINGS, patients, {"is_gc": 0.4}, num_replicates=200, seed=3)
    oracle = evaluate(labels, chances, FINDINGS, patients, 200, 3, thresholds={"is_gc": 0.4})
    for name in FINDINGS:
        same = {"kappa": "qwk"} if name == "dr_grade" else {}
        for metric in METRICS:
            if (name, metric) in (("dr_grade", "precision"), ("dr_grade", "recall")):
                continue  # not among those of the evaluation
            ours, theirs = found[name][metric], oracle[name][same.get(metric, metric)]
            for bound in BOUNDS:
                assert getattr(ours, bound) == pytest.approx(getattr(theirs, bound)), (name, metric, bound)
        counts = [getattr(found[name]["auroc"], count) for count in ("num_images", "num_patients", "num_positive")]
        assert counts == [
            getattr(oracle[name]["auroc"], count) for count in ("num_images", "num_patients", "num_positive")
        ]
    referable = oracle["dr_grade_referable"]["auroc"]
    assert found["dr_grade>=2"]["auroc"].low == pytest.approx(referable.low)
    assert found["dr_grade>=2"]["auroc"].num_positive == referable.num_positive


def test_figures_are_those_of_scikit_learn():
    labels, chances, patients = predictions(seed=5)
    found = agreement(labels, chances, FINDINGS, patients, {}, num_replicates=0)
    known = labels[:, 0] >= 0
    grades, said = labels[known, 0], decided(chances["dr_grade"][known])
    values = {metric: one.value for metric, one in found["dr_grade"].items()}
    assert values["kappa"] == pytest.approx(cohen_kappa_score(grades, said, weights="quadratic"))
    assert values["precision"] == pytest.approx(precision_score(grades, said, average="macro", zero_division=0))
    assert values["recall"] == pytest.approx(recall_score(grades, said, average="macro", zero_division=0))
    for level in range(1, 5):
        above = chances["dr_grade"][known].astype(np.float64)[:, level:].sum(axis=1)
        auroc = found[f"dr_grade>={level}"]["auroc"]
        assert auroc.value == pytest.approx(roc_auc_score(grades >= level, above)) and math.isnan(auroc.low)
        assert list(found[f"dr_grade>={level}"]) == ["auroc"]


def test_unknown_conditions_are_left_out():
    labels, chances, patients = predictions()
    garbage = {name: values.copy() for name, values in chances.items()}
    for column, name in enumerate(FINDINGS):
        garbage[name][labels[:, column] < 0] = np.nan
    whole = to_json(agreement(labels, chances, FINDINGS, patients, {}, 50))
    assert to_json(agreement(labels, garbage, FINDINGS, patients, {}, 50)) == whole
    for column, name in enumerate(FINDINGS):
        assert whole[name]["num_images"] == int((labels[:, column] >= 0).sum()) < len(labels)


def test_drawing_in_blocks_gives_as_many_replicates_and_other_ones(monkeypatch):
    labels, chances, patients = predictions()
    monkeypatch.setattr(consistency, "BLOCK_SIZE", 30 * len(labels))
    drawn = list(consistency._drawn(patients, 100, 0))
    assert [len(block) for block in drawn] == [1, 30, 30, 30, 10] and (drawn[0] == 1).all()
    assert all(block.sum(axis=1).min() > 0 for block in drawn)
    replicates = np.concatenate(drawn[1:])
    assert len(np.unique(replicates, axis=0)) == 100
    whole = np.concatenate(list(consistency._drawn(patients, 30, 0))[1:])
    assert np.array_equal(whole, drawn[1])
    blocks = agreement(labels, chances, FINDINGS, patients, {}, 100)["is_gc"]["auroc"]
    monkeypatch.undo()
    together = agreement(labels, chances, FINDINGS, patients, {}, 100)["is_gc"]["auroc"]
    assert blocks.value == together.value and blocks.low == pytest.approx(together.low, abs=0.05)


def binary(levels, chance, **options):
    chance = np.array(chance, dtype=np.float32)
    chances = {"is_gc": np.stack([1 - chance, chance], axis=1)}
    ids = [str(index) for index in range(len(levels))]
    return agreement(np.array(levels)[:, None], chances, {"is_gc": 2}, ids, {}, **options)["is_gc"]


def whys_of(metrics):
    return {metric: one.why for metric, one in metrics.items() if one.why is not None}


@pytest.mark.parametrize(
    ("levels", "chance", "undefined"),
    [
        ([0, 0, 0], [0.1, 0.9, 0.2], {"recall": "no image is at level 1", "auroc": "only level 0 occurs"}),
        ([1, 1], [0.1, 0.9], {"auroc": "only level 1 occurs"}),
        ([0, 1], [0.1, 0.2], {"precision": "the annotator never decides for level 1"}),
        (
            [1, 1],
            [0.8, 0.9],
            {"auroc": "only level 1 occurs", "kappa": "only level 1 occurs, and is all that is decided"},
        ),
        ([-1, -1], [0.1, 0.9], dict.fromkeys(METRICS, "known of no image")),
    ],
)
def test_what_is_undefined_says_why_and_is_never_a_number(levels, chance, undefined):
    found = binary(levels, chance, num_replicates=20)
    assert whys_of(found) == undefined
    told = to_json({"is_gc": found})["is_gc"]
    for metric in METRICS:
        assert (told[metric]["value"] is None) == (metric in undefined) == ("why" in told[metric])
        if metric in undefined:
            assert told[metric]["low"] is None and told[metric]["high"] is None
    json.dumps(told, allow_nan=False)


def test_a_threshold_that_no_image_reaches_is_undefined_on_its_own():
    labels, chances, patients = predictions()
    labels[labels[:, 0] > 2, 0] = 2
    found = agreement(labels, chances, FINDINGS, patients, {}, 20)
    assert whys_of(found["dr_grade>=3"]) == {"auroc": "no image is at or above level 3"}
    assert whys_of(found["dr_grade>=2"]) == {} and whys_of(found["dr_grade"]) == {}
    labels[labels[:, 0] == 0, 0] = 1
    found = agreement(labels, chances, FINDINGS, patients, {}, 0)
    assert whys_of(found["dr_grade>=1"]) == {"auroc": "no image is below level 1"}


def test_what_no_annotator_tells_is_not_measured():
    labels, chances, patients = predictions()
    found = agreement(labels, {"is_gc": chances["is_gc"]}, FINDINGS, patients, {}, 0)
    assert list(found) == ["is_gc"]


def test_decisions_take_the_threshold_and_grades_the_median():
    chance = np.array([[0.7, 0.3], [0.71, 0.29]], dtype=np.float32)
    assert decided(chance, 0.3).tolist() == [1, 0] and decided(chance).tolist() == [0, 0]
    assert decided(np.array([[0.4, 0.2, 0.4], [0.6, 0.2, 0.2], [0.2, 0.2, 0.6]])).tolist() == [1, 0, 2]


def colour(name):
    return np.array([int(name[place : place + 2], 16) for place in (1, 3, 5)])


def has(picture, name):
    return int((np.abs(picture.astype(int) - colour(name)).max(axis=2) < 12).sum())


def test_the_figure_has_both_and_grows_with_the_findings():
    labels, chances, patients = predictions()
    measured = agreement(labels, chances, FINDINGS, patients, {}, 50)
    found = {name: metrics["auroc"] for name, metrics in measured.items()}
    picture = figure_of(found, found, {"is_gc": "Glaucoma"})
    assert picture.dtype == np.uint8 and picture.shape[1] == 7 * DPI
    only = figure_of({"is_gc": found["is_gc"]}, {}, {})
    assert has(picture, BLUE) > 2 * has(only, BLUE) > 0
    assert has(picture, ORANGE) > has(only, ORANGE)  # that of the legend
    assert picture.shape[0] > only.shape[0]
    nothing = figure_of({"is_gc": binary([0, 0], [0.1, 0.2], num_replicates=0)["auroc"]}, {}, {})
    assert has(figure_of({}, {}, {}), BLUE) < has(nothing, BLUE) < has(only, BLUE)  # the legend, a word, a mark
