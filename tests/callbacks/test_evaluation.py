"""Evaluation of a classifier: every figure against scikit-learn, replicates drawn by hand, and what is left out."""

import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refuses
from sklearn import metrics as sklearn_metrics

from callbacks.metrics.bootstrap import interval, paired_difference, patient_weights
from callbacks.metrics.calibration import expected_calibration_error
from callbacks.metrics.evaluation import MACRO_METRICS, evaluate, replicates

FINDINGS = {"dr_grade": 5, "is_gc": 2, "is_amd": 2}
RANKING = {"auroc", "aupr", "partial_auroc", "sensitivity_at_95_specificity"}
BINARY = RANKING | {"accuracy", "precision", "recall", "specificity", "f1", "kappa", "ece", "brier"}
GRADED = {"qwk", "accuracy", "f1", "kappa", "ece", "auroc", "aupr"}


def case(seed, num_images=200, findings=FINDINGS, skill=1.0):
    """Labels [N, F], a tenth unknown; probabilities that lean towards them, with ties; patients of two images each."""
    generator = np.random.default_rng(seed)
    labels = np.stack([generator.integers(levels, size=num_images) for levels in findings.values()], axis=1)
    probabilities = {}
    for column, (name, levels) in enumerate(findings.items()):
        chances = generator.dirichlet(np.ones(levels), num_images) + 0.5 * skill * np.eye(levels)[labels[:, column]]
        chances = np.floor(chances / chances.sum(axis=1, keepdims=True) * 100) / 100
        chances[:, 0] = 1 - chances[:, 1:].sum(axis=1)
        probabilities[name] = chances
    labels[generator.random(labels.shape) < 0.1] = -1
    return labels, probabilities, [f"patient {image // 2}" for image in range(num_images)]


def binary_reference(labels, chances, threshold=0.5):
    """Figures of scikit-learn; NaN where a class that they need is absent."""
    decisions, both, positive = (chances >= threshold).astype(int), len(set(labels)) == 2, (labels == 1).any()
    fpr, tpr, _ = sklearn_metrics.roc_curve(labels, chances, pos_label=1, drop_intermediate=False)
    options = {"zero_division": np.nan}
    return {
        "auroc": sklearn_metrics.roc_auc_score(labels, chances) if both else np.nan,
        "aupr": sklearn_metrics.average_precision_score(labels, chances) if both else np.nan,
        "partial_auroc": sklearn_metrics.roc_auc_score(labels, chances, max_fpr=0.1) if both else np.nan,
        "sensitivity_at_95_specificity": tpr[1 - fpr >= 0.95 - 1e-9][-1] if both else np.nan,
        "accuracy": sklearn_metrics.accuracy_score(labels, decisions),
        "precision": sklearn_metrics.precision_score(labels, decisions, **options),
        "recall": sklearn_metrics.recall_score(labels, decisions, **options),
        "specificity": sklearn_metrics.recall_score(labels, decisions, pos_label=0, **options),
        "f1": sklearn_metrics.f1_score(labels, decisions, zero_division=0.0) if positive or decisions.any() else np.nan,
        "kappa": sklearn_metrics.cohen_kappa_score(labels, decisions, labels=[0, 1]),
        "ece": expected_calibration_error(labels, np.stack([1 - chances, chances], axis=1))[0],
        "brier": np.mean((labels - chances) ** 2),
    }


def median(row):
    """The least level that no more than half lies above."""
    return next(level for level in range(len(row)) if row[level + 1 :].sum() <= 0.5 + 1e-9)


def graded_reference(labels, chances):
    decisions, levels = np.array([median(row) for row in chances]), list(range(chances.shape[1]))
    occurring = [level for level in levels if 0 < (labels == level).sum() < len(labels)]

    def of_levels(name):
        measure = getattr(sklearn_metrics, name)
        return np.mean([measure(labels == level, chances[:, level]) for level in occurring]) if occurring else np.nan

    return {
        "qwk": sklearn_metrics.cohen_kappa_score(labels, decisions, weights="quadratic", labels=levels),
        "accuracy": sklearn_metrics.accuracy_score(labels, decisions),
        "f1": sklearn_metrics.f1_score(labels, decisions, average="macro", zero_division=0),
        "kappa": sklearn_metrics.cohen_kappa_score(labels, decisions, labels=levels),
        "ece": expected_calibration_error(labels, chances)[0],
        "auroc": of_levels("roc_auc_score"),
        "aupr": of_levels("average_precision_score"),
    }


def reference(labels, probabilities, rows):
    """Figures by finding over the given rows, which may hold a row several times."""
    expected = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for column, (name, num_levels) in enumerate(FINDINGS.items()):
            known = rows[labels[rows, column] >= 0]
            levels, chances = labels[known, column], probabilities[name][known]
            if not len(known):
                continue
            expected[name] = (
                graded_reference(levels, chances) if num_levels > 2 else binary_reference(levels, chances[:, 1])
            )
            if name == "dr_grade":
                referable = chances[:, 2:].sum(axis=1)
                expected["dr_grade_referable"] = binary_reference((levels >= 2).astype(int), referable)
    return expected


def values(result):
    """Metric values by name, without what they were measured on."""
    return {name: {metric: found.value for metric, found in of.items()} for name, of in result.items()}


def bounds(result):
    return [(found.low, found.high) for of in result.values() for found in of.values()]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_images=st.integers(1, 60))
def test_every_figure_agrees_with_scikit_learn(seed, num_images):
    labels, probabilities, patients = case(seed, num_images)
    found = values(evaluate(labels, probabilities, FINDINGS, patients, num_replicates=0))
    expected = reference(labels, probabilities, np.arange(num_images))
    macro = found.pop("macro", None)
    assert set(found) == set(expected)
    for name, metrics in expected.items():
        assert found[name] == pytest.approx(metrics, abs=1e-6, nan_ok=True), name
    for metric in MACRO_METRICS if macro else ():
        of_findings = np.array([expected[name][metric] for name in expected if name in FINDINGS])
        defined = of_findings[~np.isnan(of_findings)]
        expected_mean = defined.mean() if len(defined) else np.nan
        assert macro[metric] == pytest.approx(expected_mean, abs=1e-6, nan_ok=True), metric


def test_each_finding_has_its_metrics():
    labels, probabilities, patients = case(0)
    result = evaluate(labels, probabilities, FINDINGS, patients, num_replicates=10)
    assert list(result) == ["dr_grade", "is_gc", "is_amd", "dr_grade_referable", "macro"]
    assert set(result["is_gc"]) == set(result["dr_grade_referable"]) == BINARY
    assert set(result["dr_grade"]) == GRADED
    assert tuple(result["macro"]) == MACRO_METRICS


def test_replicates_are_those_of_rows_drawn_again():
    labels, probabilities, patients = case(1, 60)
    weights = patient_weights(patients, 8, seed=5)
    found = replicates(labels, probabilities, FINDINGS, weights)
    for number, row in enumerate(weights):
        expected = reference(labels, probabilities, np.repeat(np.arange(60), row))
        for name, metrics in expected.items():
            one = {metric: drawn[number] for metric, drawn in found[name].items()}
            assert one == pytest.approx(metrics, abs=1e-6, nan_ok=True), name
    for metric in MACRO_METRICS:
        mean = np.mean([found[name][metric] for name in FINDINGS], axis=0)
        assert found["macro"][metric] == pytest.approx(mean, rel=1e-12)


def test_intervals_come_from_the_replicates_of_the_seed():
    labels, probabilities, patients = case(2)
    result = evaluate(labels, probabilities, FINDINGS, patients, 200, seed=7)
    drawn = replicates(labels, probabilities, FINDINGS, patient_weights(patients, 200, seed=7))
    for name, metrics in drawn.items():
        for metric, numbers in metrics.items():
            found = result[name][metric]
            alone = interval(found.value, numbers)
            assert (alone.low, alone.high) == (found.low, found.high) and found.low < found.high
    assert bounds(evaluate(labels, probabilities, FINDINGS, patients, 200, seed=7)) == bounds(result)
    assert bounds(evaluate(labels, probabilities, FINDINGS, patients, 200, seed=8)) != bounds(result)


def test_figures_come_with_what_they_were_measured_on():
    findings = {"dr_grade": 3, "is_gc": 2}
    labels = np.array([[0, -1], [1, 1], [2, -1], [2, 0], [-1, 1], [-1, -1]])
    chances = {name: np.full((6, levels), 1 / levels) for name, levels in findings.items()}
    patients = ["a", "a", "b", "c", "d", "e"]
    result = evaluate(labels, chances, findings, patients, 0)
    counts = {
        (name, one.num_images, one.num_patients, one.num_positive) for name, of in result.items() for one in of.values()
    }
    expected = {"dr_grade": (4, 3, 3), "is_gc": (3, 3, 2), "dr_grade_referable": (4, 3, 2), "macro": (5, 4, 4)}
    assert counts == {(name, *sizes) for name, sizes in expected.items()}
    accuracy = result["is_gc"]["accuracy"]
    assert (accuracy.name, accuracy.better) == ("accuracy", "max") and accuracy.value == pytest.approx(2 / 3)


def test_images_of_one_patient_widen_the_intervals():
    labels, probabilities, _ = case(4, 100)
    labels = np.repeat(labels, 4, axis=0)
    probabilities = {name: np.repeat(chances, 4, axis=0) for name, chances in probabilities.items()}
    alike = evaluate(labels, probabilities, FINDINGS, [f"patient {row // 4}" for row in range(400)], 500)
    apart = evaluate(labels, probabilities, FINDINGS, [f"patient {row}" for row in range(400)], 500)
    for name in ("is_gc", "dr_grade", "macro"):
        wide, narrow = alike[name]["auroc"], apart[name]["auroc"]
        assert wide.value == pytest.approx(narrow.value)
        assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(2, rel=0.25)


def test_one_patient_has_figures_and_no_intervals():
    labels, probabilities, _ = case(5, 40)
    result = evaluate(labels, probabilities, FINDINGS, ["only"] * 40, 100)
    for of in result.values():
        for found in of.values():
            assert found.num_patients == 1
            assert np.isnan([found.low, found.high]).all()
        assert not np.isnan(of["auroc"].value)


def test_a_class_of_one_patient_has_no_interval_and_the_others_keep_theirs():
    labels, probabilities, patients = case(6)
    labels[:, 1] = np.where(np.arange(len(labels)) == 11, 1, 0)
    result = evaluate(labels, probabilities, FINDINGS, patients, 300)
    lone = result["is_gc"]
    assert not np.isnan(lone["auroc"].value)
    assert np.isnan([lone[name].low for name in ("auroc", "aupr", "partial_auroc", "recall")]).all()
    assert not np.isnan([lone[name].low for name in ("accuracy", "specificity", "ece", "brier")]).any()
    assert not np.isnan(result["is_amd"]["auroc"].low)


def test_an_absent_class_has_no_value_and_is_left_out_of_the_mean():
    labels, probabilities, patients = case(7)
    labels[:, 1] = np.where(labels[:, 1] < 0, -1, 0)
    result = evaluate(labels, probabilities, FINDINGS, patients, 20)
    found = values(result)
    assert np.isnan([found["is_gc"][name] for name in ("auroc", "aupr", "recall")]).all()
    assert found["macro"]["auroc"] == pytest.approx((found["dr_grade"]["auroc"] + found["is_amd"]["auroc"]) / 2)
    assert found["macro"]["accuracy"] == pytest.approx(np.mean([found[name]["accuracy"] for name in FINDINGS]))


def test_a_mean_over_levels_or_findings_is_of_the_same_ones_in_every_replicate():
    """A level that one patient has is absent from every third replicate: such a mean would be of something else."""
    labels = np.array([[0], [0], [1], [1], [4]] * 2)
    patients = ["a", "b", "c", "d", "e"] * 2
    stream = np.random.default_rng(0)
    chances = {"dr_grade": stream.dirichlet(np.ones(5), size=10)}
    weights = patient_weights(patients, 200, seed=0)
    found = replicates(labels, chances, {"dr_grade": 5}, weights)
    whole = np.array([all(row[labels[:, 0] == level].any() for level in (0, 1, 4)) for row in weights])
    assert 0.1 < whole.mean() < 0.9
    for name in ("dr_grade", "macro"):
        assert (~np.isnan(found[name]["auroc"]) == whole).all()
    result = evaluate(labels, chances, {"dr_grade": 5}, patients, 200)
    assert np.isfinite(result["macro"]["auroc"].value) and np.isnan(result["macro"]["auroc"].low)


def test_what_is_unknown_everywhere_or_was_not_predicted_is_left_out():
    labels, probabilities, patients = case(8)
    labels[:, 0] = -1
    assert list(evaluate(labels, probabilities, FINDINGS, patients, 0)) == ["is_gc", "is_amd", "macro"]
    del probabilities["is_gc"]
    result = evaluate(labels, probabilities, FINDINGS, patients, 0)
    assert list(result) == ["is_amd", "macro"]
    assert result["macro"]["auroc"].num_images == result["is_amd"]["auroc"].num_images
    assert evaluate(np.full_like(labels, -1), probabilities, FINDINGS, patients, 10) == {}


def test_probabilities_of_unknown_rows_are_not_looked_at():
    labels, probabilities, patients = case(9)
    expected = values(evaluate(labels, probabilities, FINDINGS, patients, 0))
    for column, name in enumerate(FINDINGS):
        probabilities[name][labels[:, column] < 0] = np.nan
    found = values(evaluate(labels, probabilities, FINDINGS, patients, 0))
    assert all(found[name] == pytest.approx(expected[name]) for name in expected)


def test_thresholds_are_for_all_or_by_name():
    labels, probabilities, patients = case(10)
    known = labels[:, 1] >= 0
    chances = probabilities["is_gc"][known, 1]
    expected = binary_reference(labels[known, 1], chances, threshold=0.3)
    for thresholds in (0.3, {"is_gc": 0.3}, {"is_gc": 0.3, "dr_grade_referable": 0.9}):
        result = values(evaluate(labels, probabilities, FINDINGS, patients, 0, thresholds=thresholds))
        assert result["is_gc"] == pytest.approx(expected, abs=1e-6)
    default = values(evaluate(labels, probabilities, FINDINGS, patients, 0))
    assert result["is_amd"] == pytest.approx(default["is_amd"])
    assert result["dr_grade"] == pytest.approx(default["dr_grade"])
    assert result["dr_grade_referable"]["recall"] < default["dr_grade_referable"]["recall"]
    assert result["dr_grade_referable"]["auroc"] == default["dr_grade_referable"]["auroc"]
    halves = evaluate(np.array([[1]]), {"is_gc": np.array([[0.5, 0.5]])}, {"is_gc": 2}, ["a"], 0)
    assert halves["is_gc"]["recall"].value == 1


def test_referable_levels_can_be_named():
    labels, probabilities, patients = case(11)
    known = labels[:, 0] >= 0
    result = values(evaluate(labels, probabilities, FINDINGS, patients, 0, referable={"dr_grade": 4}))
    expected = binary_reference((labels[known, 0] == 4).astype(int), probabilities["dr_grade"][known, 4])
    assert result["dr_grade_referable"] == pytest.approx(expected, abs=1e-6)
    assert "dr_grade_referable" not in evaluate(labels, probabilities, FINDINGS, patients, 0, referable={})


def test_two_classifiers_are_compared_on_the_same_replicates():
    labels, skilled, patients = case(12, 400, skill=1.5)
    _, unskilled, _ = case(12, 400, skill=0.5)
    weights = np.concatenate([np.ones((1, 400)), patient_weights(patients, 300, seed=0)])
    better, worse = (
        replicates(labels, chances, FINDINGS, weights)["macro"]["auroc"] for chances in (skilled, unskilled)
    )
    found, p_value = paired_difference(better[1:], worse[1:], better[0] - worse[0])
    assert 0 < found.low < found.value < found.high
    assert p_value < 0.01


def test_sixteen_findings_of_two_thousand_images_take_seconds():
    findings = {"dr_grade": 5} | {f"finding {number}": 2 for number in range(15)}
    labels, probabilities, patients = case(13, 2000, findings)
    start = time.perf_counter()
    result = evaluate(labels, probabilities, findings, patients, 1000)
    assert time.perf_counter() - start < 20  # 1.4 s on one free core
    assert result["macro"]["auroc"].low < result["macro"]["auroc"].value


def test_errors_name_the_finding_and_the_row():
    labels, probabilities, patients = case(14)
    wrong, logits = labels.copy(), probabilities["is_gc"].copy()
    row = int(np.flatnonzero(labels[:, 1] >= 0)[5])
    wrong[row, 1], logits[row] = 2, [3.0, -2.0]
    for changed, facts in (
        ({"labels": wrong}, ("is_gc", 2, f"row {row}", -1)),
        ({"labels": labels[:, :2]}, ("labels", "(200, 2)", "[N, F]", "F = 3")),
        ({"patients": patients[:-1]}, ("199 patients", "200 rows")),
        ({"probabilities": {"is_gc": probabilities["dr_grade"]}}, ("is_gc", "(200, 5)", "(200, 2)")),
        ({"probabilities": {"is_gc": logits}}, ("is_gc", f"row {row}", "[3.0, -2.0]")),
        ({"probabilities": {"is_glaucoma": logits}}, ("'is_glaucoma'", "dr_grade, is_gc, is_amd")),
        ({"thresholds": {"is_glaucoma": 0.5}}, ("'is_glaucoma'", "dr_grade, is_gc, is_amd")),
        ({"referable": {"dr_grade": 5}}, ("referable", "dr_grade", "level 5", "5 levels")),
    ):
        given_all = {"labels": labels, "probabilities": probabilities, "findings": FINDINGS, "patients": patients}
        with refuses(ValueError, *facts):
            evaluate(**(given_all | changed), num_replicates=0)
