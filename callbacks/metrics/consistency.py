"""How far what an annotator says of images agrees with what they were to show, finding by finding, with intervals.

Letters: R = replicates, N = rows (images), F = findings, K = levels of a finding.

`labels` are the conditions of synthetic images, or the labels of real ones; -1 is unknown, and left out.
The figures are those of evaluation.py, by the same functions: of a grade precision and recall are means over levels,
kappa is the quadratic weighted one, the AUROC the mean over levels, each against the rest. Besides, a finding of K > 2
levels has an AUROC for each threshold, "this level or more" against less, by the name `<finding>>=<level>`.

A figure that has no value is NaN, and its `why` says why.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from callbacks.metrics import decisions
from callbacks.metrics.bootstrap import interval, patient_weights
from callbacks.metrics.estimate import SIZES, Estimate
from callbacks.metrics.evaluation import BETTER
from callbacks.metrics.ranking import auroc

METRICS = ("accuracy", "precision", "recall", "kappa", "auroc")
BLOCK_SIZE = 2**25  # weights drawn at a time: 128 MiB


def decided(probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """The level that each row of probabilities [N, K] is decided to have, int64 [N].

    Of two levels 1 from the threshold on, of more the median one (decisions.py).
    """
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] >= threshold).astype(np.int64)
    return decisions.median_level(probabilities)


def agreement(
    labels: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    findings: Mapping[str, int],
    patients: Sequence[str],
    thresholds: Mapping[str, float],
    num_replicates: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """Measure every finding that has probabilities, then its thresholds; also those that are known in no row.

    Returns estimates by finding and metric; an image is positive from level 1 on, or from the threshold's.

    Args:
        labels: int [N, F], -1 for unknown.
        probabilities: of each finding, float [N, K]; rows whose label is unknown are not looked at.
        findings: number of levels K of each finding, in the order of the columns.
        patients: of each row [N]: intervals are over patients. Every synthetic image is its own.
        thresholds: of findings of two levels, 0.5 for those not named.
        num_replicates: R of the bootstrap; 0 for no intervals.
    """
    labels = np.asarray(labels)
    parts: dict[str, dict[str, list[np.ndarray]]] = {}
    for weights in _drawn(patients, num_replicates, seed):
        for column, (name, num_levels) in enumerate(findings.items()):
            known = labels[:, column] >= 0
            if name not in probabilities or not known.any():
                continue
            levels, chances = labels[known, column], np.asarray(probabilities[name], dtype=np.float64)[known]
            cut = decided(probabilities[name][known], thresholds.get(name, 0.5))
            drawn = weights if known.all() else weights[:, known]
            for entry, metrics in _measured(name, levels, chances, cut, num_levels, drawn).items():
                for metric, values in metrics.items():
                    parts.setdefault(entry, {}).setdefault(metric, []).append(values)
    found, names = {}, np.asarray(patients, dtype=np.str_)
    for column, (name, num_levels) in enumerate(findings.items()):
        if name not in probabilities:
            continue
        known = labels[:, column] >= 0
        levels = labels[known, column]
        cut = decided(probabilities[name][known], thresholds.get(name, 0.5))
        for entry, least in _entries(name, num_levels).items():
            sizes = (len(levels), len(np.unique(names[known])), int((levels >= least).sum()))
            found[entry] = {}
            for metric in METRICS if entry == name else ("auroc",):
                drawn = np.concatenate(parts.get(entry, {}).get(metric, [[np.nan]]))
                why = _why(metric, levels, cut, least) if np.isnan(drawn[0]) else None
                facts = {"name": metric, "better": BETTER[metric], "why": why, **dict(zip(SIZES, sizes, strict=True))}
                found[entry][metric] = interval(drawn[0], drawn[1:], **facts)
    return found


def _entries(name: str, num_levels: int) -> dict[str, int]:
    """A finding and its thresholds, by name, with the level from which on an image is positive."""
    return {name: 1} | ({f"{name}>={level}": level for level in range(1, num_levels)} if num_levels > 2 else {})


def _drawn(patients: Sequence[str], num_replicates: int, seed: int) -> Iterator[np.ndarray]:
    """Weights [r, N]: first the set itself, then the replicates, some at a time."""
    yield np.ones((1, len(patients)), dtype=np.int32)
    size = max(1, BLOCK_SIZE // max(1, len(patients)))
    for block, start in enumerate(range(0, num_replicates, size)):
        own = seed if block == 0 else int(np.random.SeedSequence((seed, block)).generate_state(1)[0])
        yield patient_weights(patients, min(size, num_replicates - start), own)


def _measured(
    name: str, levels: np.ndarray, chances: np.ndarray, cut: np.ndarray, num_levels: int, weights: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Metrics [r] of a finding and of its thresholds, from known levels [n], probabilities [n, K], decisions [n]."""
    counts = decisions.confusion(levels, cut, num_levels, weights)
    metrics = {
        "accuracy": decisions.accuracy(counts),
        "precision": decisions.precision(counts),
        "recall": decisions.recall(counts),
        "kappa": (decisions.kappa if num_levels == 2 else decisions.quadratic_weighted_kappa)(counts),
    }
    if num_levels == 2:
        return {name: metrics | {"auroc": auroc(levels, chances[:, 1], weights)}}
    of_levels = [auroc((levels == level).astype(np.int64), chances[:, level], weights) for level in np.unique(levels)]
    found = {name: metrics | {"auroc": np.stack(of_levels).mean(axis=0)}}  # NaN in a replicate that lacks a level
    for entry, least in _entries(name, num_levels).items():
        if entry != name:
            above = (levels >= least).astype(np.int64)
            found[entry] = {"auroc": auroc(above, chances[:, least:].sum(axis=1), weights)}
    return found


def _why(metric: str, levels: np.ndarray, cut: np.ndarray, least: int) -> str:
    """Why a figure has no value: what does not occur among known levels [n] and decisions [n]."""
    if len(levels) == 0:
        return "known of no image"
    if metric == "auroc":
        side = "below" if (levels >= least).all() else "at or above"
        if least == 1 and len(np.unique(levels)) == 1:
            return f"only level {levels[0]} occurs"
        return f"no image is {side} level {least}"
    if metric == "precision":
        return "the annotator never decides for level 1"
    if metric == "recall":
        return "no image is at level 1"
    return f"only level {levels[0]} occurs, and is all that is decided"
