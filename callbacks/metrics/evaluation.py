"""Everything that is measured of a classifier of findings, with intervals over patients.

Letters: R = replicates, N = rows (images), F = findings, K = levels of a finding.

Each finding is measured over the rows where its label is known. Finding by finding and for the mean over them (macro)
the same replicates are used, so that the mean, and the difference between two classifiers, are paired.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from callbacks.metrics import calibration, decisions, ranking
from callbacks.metrics.bootstrap import interval, patient_weights
from callbacks.metrics.calibration import brier_score, expected_calibration_error
from callbacks.metrics.estimate import SIZES, Estimate
from callbacks.metrics.ranking import ranking_metrics
from datamodules.errors import UserError

MACRO = "macro"
BETTER = {**ranking.BETTER, **decisions.BETTER, **calibration.BETTER}
MACRO_METRICS = ("auroc", "aupr", "f1", "accuracy", "ece")
REFERABLE: Mapping[str, int] = MappingProxyType({"dr_grade": 2})  # from moderate on: Wilkinson et al. 2003
SUM_TOLERANCE = 0.02  # of probabilities: half-precision ones do not add up to 1


def evaluate(
    labels: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    findings: Mapping[str, int],
    patients: Sequence[str],
    num_replicates: int = 1000,
    seed: int = 0,
    thresholds: Mapping[str, float] | float = 0.5,
    referable: Mapping[str, int] = REFERABLE,
) -> dict[str, dict[str, Estimate]]:
    """Measure a classifier, by finding, then by `<finding>_referable`, then `macro`: estimates by the name of a metric.

    Left out is a finding that is unknown in every row, or of which there are no probabilities; if nothing is left
    the answer is empty. An image is positive from level 1 on. `macro` counts an image if any finding is known, and as
    positive if any is at level 1 or up.

    Args:
        labels: int [N, F], -1 for unknown.
        probabilities: of each finding, float [N, K], rows adding up to 1.
        findings: number of levels K of each finding, in the order of the columns.
        patients: of each row [N]; the intervals are over patients, not over images.
        num_replicates: R; 0 for no intervals.
        seed: of the replicates.
        thresholds: a finding of two levels is decided to be at level 1 from this probability on; one for all, or by
            name (`<finding>` or `<finding>_referable`), 0.5 for those not named. More levels: the median.
        referable: findings of more levels that are also measured as "this level or a higher one".

    Raises:
        ValueError: shapes that do not fit, names that are no findings, levels that a finding does not have, or
            probabilities that are none.
    """
    labels = np.asarray(labels)
    if len(patients) != len(labels):
        raise UserError(f"there are {len(patients)} patients for {len(labels)} rows of labels: expected one for each")
    drawn = patient_weights(patients, num_replicates, seed)
    weights = np.concatenate([np.ones((1, len(labels)), dtype=drawn.dtype), drawn])  # first the set itself
    measured = replicates(labels, probabilities, findings, weights, thresholds, referable)
    patients, result = np.asarray(patients, dtype=np.str_), {}
    columns = {name: labels[:, column] for column, name in enumerate(findings)}
    for name, metrics in measured.items():
        if name == MACRO:
            kept = labels[:, [name in measured for name in findings]]
            known, positive = (kept >= 0).any(axis=1), (kept >= 1).any(axis=1)
        elif name in columns:
            known, positive = columns[name] >= 0, columns[name] >= 1
        else:
            of_finding = name.removesuffix("_referable")
            known, positive = columns[of_finding] >= 0, columns[of_finding] >= referable[of_finding]
        sizes = (int(known.sum()), len(np.unique(patients[known])), int(positive.sum()))
        facts = dict(zip(SIZES, sizes, strict=True))
        result[name] = {
            metric: interval(values[0], values[1:], name=metric, better=BETTER[metric], **facts)
            for metric, values in metrics.items()
        }
    return result


def replicates(
    labels: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    findings: Mapping[str, int],
    weights: np.ndarray,
    thresholds: Mapping[str, float] | float = 0.5,
    referable: Mapping[str, int] = REFERABLE,
) -> dict[str, dict[str, np.ndarray]]:
    """Every metric [R] of every finding by name, then of `macro`, in every replicate: what `evaluate` measures.

    For paired differences: measure two classifiers with the same weights [R, N] and subtract. `macro` is the mean over
    the findings in which the metric has a value in any replicate, and NaN in a replicate that lacks one of them; the
    `_referable` ones are not counted twice.

    Raises:
        ValueError: as for `evaluate`.
    """
    labels = np.asarray(labels)
    referable = {name: level for name, level in referable.items() if name in findings}
    _check(labels, probabilities, findings, thresholds, referable)
    measured: dict[str, dict[str, np.ndarray]] = {}
    cuts: dict[str, dict[str, np.ndarray]] = {}
    for column, (name, num_levels) in enumerate(findings.items()):
        known = labels[:, column] >= 0
        if name not in probabilities or not known.any():
            continue
        levels, chances = labels[known, column], _chances(name, probabilities[name], known, num_levels)
        drawn = weights if known.all() else weights[:, known]
        if num_levels == 2:
            measured[name] = _binary(levels, chances, _threshold(thresholds, name), drawn)
        else:
            measured[name] = _graded(levels, chances, drawn)
        if name in referable:
            cut, chance = f"{name}_referable", chances[:, referable[name] :].sum(axis=1)
            chances = np.stack([1 - chance, chance], axis=1)
            levels = (levels >= referable[name]).astype(np.int64)
            cuts[cut] = _binary(levels, chances, _threshold(thresholds, cut), drawn)
    if not measured:
        return {}
    macro = {metric: _mean([metrics[metric] for metrics in measured.values()]) for metric in MACRO_METRICS}
    return measured | cuts | {MACRO: macro}


def _binary(levels: np.ndarray, chances: np.ndarray, threshold: float, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics [R] of a finding of two levels, from probabilities [N, 2]."""
    counts = decisions.confusion(levels, (chances[:, 1] >= threshold).astype(np.int64), 2, weights)
    return ranking_metrics(levels, chances[:, 1], weights) | {
        "accuracy": decisions.accuracy(counts),
        "precision": decisions.precision(counts),
        "recall": decisions.recall(counts),
        "specificity": decisions.specificity(counts),
        "f1": decisions.f1(counts),
        "kappa": decisions.kappa(counts),
        "ece": expected_calibration_error(levels, chances, weights=weights),
        "brier": brier_score(levels, chances, weights),
    }


def _graded(levels: np.ndarray, chances: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics [R] of a finding of more levels; the ranking ones are means over the levels, each against the rest."""
    counts = decisions.confusion(levels, decisions.median_level(chances), chances.shape[1], weights)
    of_levels = [
        ranking_metrics((levels == level).astype(np.int64), chances[:, level], weights, ("auroc", "aupr"))
        for level in np.unique(levels)
    ]
    return {
        "qwk": decisions.quadratic_weighted_kappa(counts),
        "accuracy": decisions.accuracy(counts),
        "f1": decisions.f1(counts),
        "kappa": decisions.kappa(counts),
        "ece": expected_calibration_error(levels, chances, weights=weights),
        "auroc": _mean([metrics["auroc"] for metrics in of_levels]),
        "aupr": _mean([metrics["aupr"] for metrics in of_levels]),
    }


def _mean(values: Sequence[np.ndarray]) -> np.ndarray:
    """Mean [R] over those that have a value in any replicate; NaN in a replicate that lacks one of them.

    Over whatever has a value there, every replicate would be the mean of something else.
    """
    stacked = np.stack(values)
    stacked = stacked[~np.isnan(stacked).all(axis=1)]
    return stacked.mean(axis=0) if len(stacked) else np.full(stacked.shape[1], np.nan)


def _threshold(thresholds: Mapping[str, float] | float, name: str) -> float:
    return thresholds.get(name, 0.5) if isinstance(thresholds, Mapping) else thresholds


def _chances(name: str, probabilities: np.ndarray, known: np.ndarray, num_levels: int) -> np.ndarray:
    """Probabilities of the known rows, float64 [n, K], checked."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.shape != (len(known), num_levels):
        raise UserError(
            f"the probabilities of {name} have shape {probabilities.shape}: expected [N, K], that is "
            f"{(len(known), num_levels)}"
        )
    if not np.isfinite(probabilities[known]).all():
        raise UserError(
            f"the probabilities of {name} are not finite: the training has diverged. Remedy: a lower learning rate, "
            "more warm-up, or trainer.gradient_clip_val=1."
        )
    off = np.abs(probabilities.sum(axis=1) - 1)
    bad = np.flatnonzero(known & ~((off <= SUM_TOLERANCE) & (probabilities >= 0).all(axis=1)))
    if len(bad):
        raise UserError(
            f"the probabilities of {name} in row {bad[0]} are {probabilities[bad[0]].tolist()}, and must be at least 0 "
            "and add up to 1: give the softmax, not what goes into it"
        )
    return probabilities[known]


def _check(
    labels: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    findings: Mapping[str, int],
    thresholds: Mapping[str, float] | float,
    referable: Mapping[str, int],
) -> None:
    """Raise ValueError for labels or names that do not fit the findings."""
    if labels.ndim != 2 or labels.shape[1] != len(findings):
        raise UserError(f"labels have shape {labels.shape}: expected [N, F] with F = {len(findings)}")
    for column, (name, num_levels) in enumerate(findings.items()):
        bad = np.flatnonzero(~np.isin(labels[:, column], np.arange(-1, num_levels)))
        if len(bad):
            raise UserError(
                f"{name} is {labels[bad[0], column]} in row {bad[0]}, and must be 0 to {num_levels - 1}, or -1"
            )
    for name, level in referable.items():
        if findings[name] < 3 or not 0 < level < findings[name]:
            raise UserError(f"referable names {name} from level {level} on, and it has {findings[name]} levels")
    known = {*findings, *(f"{name}_referable" for name in referable)}
    named = thresholds if isinstance(thresholds, Mapping) else {}
    for name in [name for name in probabilities if name not in findings] + [
        name for name in named if name not in known
    ]:
        raise UserError(f"{name!r} is not a finding. The findings are: {', '.join(findings)}.")
