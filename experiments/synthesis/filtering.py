"""The acceptance filter of a synthetic set: whom it asks, and about what."""

from collections.abc import Sequence
from typing import Any

from datamodules.errors import UserError
from datamodules.findings import NAMES, check_name
from experiments.loading import load_classifier, load_segmenter
from experiments.synthesis.recipe import Generator
from lightning_modules.annotator import Annotator
from lightning_modules.checkpoint import weights_fingerprint
from lightning_modules.synthesizer import Agreement, MaskFilter, Synthesizer


def build_agreement(
    annotators: Sequence[str], findings: Sequence[str], threshold: float, tolerance: int, trusted: Sequence[str]
) -> Agreement | None:
    """The filter of `job.filter`; None where no annotator is named.

    Args:
        annotators: checkpoints of classifiers, or folders of their runs.
        findings: those that have to agree.
        threshold: above 0 and below 1; from which probability on a finding is there.
        tolerance: by how many grades an ordered finding may differ.
        trusted: as `load_classifier` has it.

    Raises:
        ValueError: settings that mean nothing, or a finding that no annotator tells.
    """
    if not annotators:
        if findings:
            raise UserError("job.filter.findings is given without job.filter.annotators: name a run to ask.")
        return None
    if not findings:
        raise UserError("job.filter.findings is empty: name the findings that have to agree, as [dr_grade,is_gc].")
    if not 0 < threshold < 1:
        raise UserError(f"job.filter.threshold={threshold} must lie between 0 and 1.")
    if tolerance < 0:
        raise UserError(f"job.filter.tolerance={tolerance} must not be negative.")
    annotator = Annotator([load_classifier(path, trusted) for path in annotators], NAMES)
    columns = {check_name(name): NAMES.index(name) for name in findings}
    for name in columns:
        if name not in annotator.findings:
            raise UserError(
                f"job.filter.findings names {name}, which no annotator tells; they tell: "
                f"{', '.join(annotator.findings)}."
            )
    return Agreement(annotator, columns, threshold, tolerance)


def build_mask_filter(
    segmenter: str | None, least_dice: float, generator: Generator, trusted: Sequence[str]
) -> MaskFilter | None:
    """The filter of masks of `job.filter`; None where no segmenter is named.

    Raises:
        UserError: a generator without masks; settings that mean nothing.
    """
    if segmenter is None:
        return None
    levels = list(generator.mask_levels)
    if not levels:
        raise UserError(
            f"job.filter.segmenter={segmenter}: the generator makes no masks, so there is nothing to compare. "
            "Remedy: leave it out, or a generator of ddpm_train_pairs."
        )
    module = load_segmenter(segmenter, trusted)
    found = list(module.config["model"]["mask_levels"])
    if found != levels:
        raise UserError(
            f"job.filter.segmenter={segmenter} finds the levels {', '.join(found)}, and the generator has "
            f"{', '.join(levels)}. Remedy: a segmenter that was trained on the same masks."
        )
    return MaskFilter(module, least_dice)


def agreement_facts(synthesizer: Synthesizer) -> dict[str, Any] | None:
    """What is written down of the filters."""
    agreement, mask_filter = synthesizer.agreement, synthesizer.mask_filter
    if agreement is None and mask_filter is None:
        return None
    facts: dict[str, Any] = {"findings": []}
    if agreement is not None:
        facts = {
            "annotators": agreement.annotator.fingerprints(),
            "findings": list(agreement.columns),
            "threshold": agreement.threshold,
            "tolerance": agreement.tolerance,
        }
    if mask_filter is not None:
        segmenter = mask_filter.segmenter
        facts |= {"segmenter": weights_fingerprint(segmenter.measured), "least_dice": mask_filter.least_dice}
    return facts | {"max_attempts": synthesizer.max_attempts}
