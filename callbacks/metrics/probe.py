"""A linear probe: which levels of findings an image shows, by ridge regression on its features; and how well it ranks.

Letters: N images, D features, F findings, R replicates. Labels int [N, F], -1 unknown. It is fitted in closed form;
its ridge is the one of RIDGES whose leave-one-out error is least (Hastie, Tibshirani and Friedman 2009, section 7.10).
"""

from collections.abc import Sequence

import numpy as np

from callbacks.metrics.bootstrap import interval, patient_weights
from callbacks.metrics.estimate import Estimate
from callbacks.metrics.ranking import auroc

BETTER = {"agreement": "max", "agreement_real": "max"}
RIDGES = tuple(10.0**power for power in range(0, 6))  # over features of unit variance
FEWEST = 5  # images of a level, and of the others, from which it is learnt


class LinearProbe:
    """Features -> a score for each finding, the higher the greater its level.

    Args:
        features: float [N, D].
        labels: of the same images.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        features = np.asarray(features, dtype=np.float64)
        self.mean, self.scale = features.mean(0), features.std(0) + 1e-6
        x = (features - self.mean) / self.scale
        self.weights = np.stack([_solved(x, labels[:, column]) for column in range(labels.shape[1])], axis=1)

    @property
    def told(self) -> np.ndarray:
        """Which findings have images enough to be learnt, bool [F]."""
        return np.isfinite(self.weights).all(axis=0)

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Float64 [N, F]; NaN for a finding that could not be learnt."""
        return (np.asarray(features, dtype=np.float64) - self.mean) / self.scale @ self.weights


def _solved(x: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Weights [D] of one finding; NaN where too few images show it, or do not."""
    known = levels >= 0
    counts = np.bincount(levels[known]) if known.any() else np.zeros(1, dtype=int)
    if (counts >= FEWEST).sum() < 2:
        return np.full(x.shape[1], np.nan)
    mine, wanted = x[known] - x[known].mean(0), levels[known] - levels[known].mean()
    values, vectors = np.linalg.eigh(mine @ mine.T)
    turned = vectors.T @ wanted
    best, weights = np.inf, np.zeros(x.shape[1])
    for ridge in RIDGES:
        shrunk = 1 / (values.clip(min=0) + ridge)
        dual = vectors @ (shrunk * turned)
        left_out = dual / (vectors**2 @ shrunk)  # errors of each image by the probe of the others
        if (error := float(np.square(left_out).mean())) < best:
            best, weights = error, mine.T @ dual
    return weights


def agreement(labels: np.ndarray, scores: np.ndarray, num_replicates: int, seed: int) -> list[Estimate]:
    """How well scores [N, F] rank images by their labels, for each finding, with an interval over images.

    Of a finding of two levels it is the area under the ROC curve; of more, its mean over the levels from which an image
    may count as positive, those that lack positives or negatives left out. NaN where there is none.
    """
    weights = patient_weights([str(row) for row in range(len(labels))], num_replicates, seed)
    return [_ranked(labels[:, column], scores[:, column], weights) for column in range(labels.shape[1])]


def _ranked(levels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Estimate:
    known = (levels >= 0) & np.isfinite(scores)
    levels, scores, weights = levels[known], scores[known], weights[:, known]
    facts = {"name": "agreement", "better": BETTER["agreement"], "num_images": len(levels)}
    cuts = np.unique(levels)[1:]
    if not len(cuts):
        return Estimate(np.nan, **facts)

    def mean(weights: np.ndarray | None) -> np.ndarray:
        return np.mean([auroc((levels >= cut).astype(int), scores, weights) for cut in cuts], axis=0)

    return interval(float(mean(None)[0]), mean(weights), **facts)


def mean_of(figures: Sequence[Estimate]) -> float:
    """Mean of the values that are defined; NaN for none."""
    values = [figure.value for figure in figures if np.isfinite(figure.value)]
    return float(np.mean(values)) if values else float("nan")


def balanced_rows(labels: np.ndarray, num_rows: int, seed: int) -> np.ndarray:
    """Rows of labels, int64 [num_rows], in which every level of every finding comes in turn, by a row that has it."""
    draw = np.random.default_rng(seed)
    having = [np.flatnonzero(labels[:, column] == level)
              for column in range(labels.shape[1]) for level in np.unique(labels[:, column]) if level >= 0]  # fmt: skip
    having = having or [np.arange(len(labels))]
    turns = np.concatenate([draw.permutation(len(having)) for _ in range(-(-num_rows // len(having)))])[:num_rows]
    return np.array([draw.choice(having[turn]) for turn in turns], dtype=np.int64)
