"""What `evaluate` measures of two datasets: numbers alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.features import FeatureExtractor
from callbacks.mask_agreement import mask_dice
from callbacks.metrics.diversity import diversity
from callbacks.metrics.estimate import Estimate
from callbacks.metrics.evaluation import MACRO
from callbacks.metrics.fidelity import MEASURES, Measures, fidelity
from callbacks.metrics.mask_shapes import distances, moments
from datamodules.errors import UserError
from experiments.evaluation.sides import Side, dice_of, features_of, shapes_of
from lightning_modules.segmenter import Segmenter

Found = Mapping[str, Mapping[str, Estimate]]  # figure -> "other" and "floor", or "other" and "real"
FIGURES, SETS, MASK_DISTANCES, MASK_SHAPES = "figures", "sets", "mask_distances", "mask_shapes"


@dataclass(frozen=True)
class Comparison:
    """Figures by group: FIGURES and MASK_DISTANCES beside the floor, SETS and MASK_SHAPES beside the real set.

    Attributes:
        levels: of the masks, background first; empty where masks are not compared.
        real_shapes, other_shapes: properties of the masks of either side, float64 [N, L P].
    """

    groups: Mapping[str, Found]
    levels: tuple[str, ...] = ()
    real_shapes: np.ndarray | None = None
    other_shapes: np.ndarray | None = None


def compare(
    real: Side,
    other: Side,
    extractor: FeatureExtractor,
    segmenter: Segmenter | None,
    job: Mapping[str, Any],
    batch_size: int,
    seed: int,
) -> Comparison:
    """Everything that is measured of two sides.

    Raises:
        UserError: too few images or patients; a segmenter of masks that a side does not have.
    """
    device = next(extractor.buffers()).device
    if segmenter is not None:
        check_levels((real, other), job["segmenter"], segmenter)
        segmenter = segmenter.to(device)

    def beside_floor(rows: list[Tensor], measures: Measures) -> Found:
        return fidelity(rows[0], real.patients, rows[1], other.patients, job["num_halvings"], seed, measures)

    def beside_real(measure: Callable[..., Mapping[str, Estimate]], *each: Any) -> Found:
        ours, theirs = (measure(*one, job["num_replicates"], seed) for one in zip((real, other), *each, strict=True))
        return {name: {"other": theirs[name], "real": ours[name]} for name in ours}

    def by_itself(side: Side, num_replicates: int, seed: int) -> dict[str, Estimate]:
        draws = (num_replicates, seed, batch_size, device)
        found = {"ms_ssim": diversity(side.images, side.patients, job["num_pairs"], *draws)}
        return found if segmenter is None else found | obedience(side, segmenter, *draws)

    features = [features_of(side, extractor, batch_size) for side in (real, other)]
    groups = {FIGURES: beside_floor(features, MEASURES), SETS: beside_real(by_itself)}
    if not real.levels or real.levels != other.levels:
        return Comparison(groups)
    shapes = [shapes_of(side) for side in (real, other)]
    groups[MASK_DISTANCES] = beside_floor([torch.from_numpy(one) for one in shapes], distances(real.levels))
    groups[MASK_SHAPES] = beside_real(
        lambda side, values, *draws: moments(values, side.levels, side.patients, *draws), shapes
    )
    return Comparison(groups, real.levels, *shapes)


def obedience(
    side: Side, segmenter: Segmenter, num_replicates: int, seed: int, batch_size: int, device: torch.device
) -> dict[str, Estimate]:
    """Mean Dice of what a segmenter finds in the images and of their masks: `dice_<level>`, and `dice` over several."""
    found = mask_dice(dice_of(side, segmenter, batch_size, device), side.levels, side.patients, num_replicates, seed)
    of_all = found.pop(MACRO)
    named = {f"dice_{level.replace(' ', '_')}": one for level, one in found.items()}
    return named if len(named) == 1 else {"dice": of_all, **named}


def check_levels(sides: Sequence[Side], name: str, segmenter: Segmenter) -> None:
    """See that both sides have the masks that a segmenter finds.

    Raises:
        UserError: one has not.
    """
    levels = tuple(segmenter.config["model"]["mask_levels"])
    for side in sides:
        if side.levels != levels:
            raise UserError(
                f"job.segmenter={name} finds the levels {', '.join(levels)}, and the masks of {side.name} have "
                f"{', '.join(side.levels) or 'none: it has no masks'}. Remedy: a segmenter of these masks, data with "
                "masks, or no job.segmenter."
            )
