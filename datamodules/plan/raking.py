"""Weights of label rows by which wished-for shares are met, and the rest stays as like the start as it can.

Iterative proportional fitting (Deming and Stephan 1940): each wish in turn scales the weights of the rows that it names
against those of the others, until all are met. What comes out is the distribution nearest to the start, in the sense of
Kullback and Leibler, among those that meet the wishes (Csiszar 1975).

Letters: K different label rows, F findings.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from datamodules.errors import UserError

TOLERANCE = 1e-6  # of a share
MOST_ROUNDS = 2000


class MarginalConstraint(NamedTuple):
    """That the rows `those`, bool [K], have this share of the weight of the rows `among`; `text` is for messages."""

    those: np.ndarray
    among: np.ndarray
    share: float
    text: str


def rake(weights: np.ndarray, wishes: Sequence[MarginalConstraint]) -> np.ndarray:
    """Weights float64 [K] that sum to 1 and meet every wish.

    Raises:
        ValueError: a wish for what no row shows, or wishes that contradict each other; names one of them.
    """
    weights = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    for wish in wishes:
        _check_support(weights, wish)
    for _ in range(MOST_ROUNDS):
        for wish in wishes:
            inside = wish.among & wish.those
            total, part = weights[wish.among].sum(), weights[inside].sum()
            if 0 < part < total:
                weights[inside] *= wish.share * total / part
                weights[wish.among & ~wish.those] *= (1 - wish.share) * total / (total - part)
        gaps = [abs(_share(weights, wish) - wish.share) for wish in wishes]
        if max(gaps, default=0) < TOLERANCE:
            return weights / weights.sum()
    worst = wishes[int(np.argmax(gaps))]
    raise UserError(
        f"the shares that are asked for contradict each other: {worst.text} cannot be {worst.share:g} while the others "
        f"are met, and ends at {_share(weights, worst):.3g}. Remedy: change one of them; or, where the rows of the "
        "training labels leave no room, base: independent."
    )


def _share(weights: np.ndarray, wish: MarginalConstraint) -> float:
    total = weights[wish.among].sum()
    return float(weights[wish.among & wish.those].sum() / total) if total > 0 else 0.0


def _check_support(weights: np.ndarray, wish: MarginalConstraint) -> None:
    shows = weights > 0
    having, lacking = (shows & wish.among & wish.those).any(), (shows & wish.among & ~wish.those).any()
    if (wish.share > 0 and not having) or (wish.share < 1 and not lacking):
        what = "shows that" if not having else "shows anything else"
        raise UserError(
            f"{wish.text}: {wish.share:g} is asked for, and no row of the labels {what}. Remedy: base: independent, "
            "which combines all levels of the findings that are named; or leave it out."
        )
