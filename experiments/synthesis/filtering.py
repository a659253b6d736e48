"""The acceptance filter of a synthetic set: whom it asks, and about what."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from datamodules.errors import UserError
from datamodules.findings import NAMES, check_name
from experiments.loading import load_classifier
from lightning_modules.annotator import Annotator
from lightning_modules.synthesizer import Agreement, Synthesizer


def build_agreement(settings: DictConfig, trusted: Sequence[str]) -> Agreement | None:
    """The filter of `job.filter`; None where no annotator is named.

    Raises:
        ValueError: settings that mean nothing, or a finding that no annotator tells.
    """
    if not settings.annotators:
        if settings.findings:
            raise UserError("job.filter.findings is given without job.filter.annotators: name a run to ask.")
        return None
    if not settings.findings:
        raise UserError("job.filter.findings is empty: name the findings that have to agree, as [dr_grade,is_gc].")
    if not 0 < settings.threshold < 1:
        raise UserError(f"job.filter.threshold={settings.threshold} must lie between 0 and 1.")
    if settings.tolerance < 0:
        raise UserError(f"job.filter.tolerance={settings.tolerance} must not be negative.")
    annotator = Annotator([load_classifier(path, trusted) for path in settings.annotators], NAMES)
    columns = {check_name(name): NAMES.index(name) for name in settings.findings}
    for name in columns:
        if name not in annotator.findings:
            raise UserError(
                f"job.filter.findings names {name}, which no annotator tells; they tell: "
                f"{', '.join(annotator.findings)}."
            )
    return Agreement(annotator, columns, settings.threshold, settings.tolerance)


def agreement_facts(synthesizer: Synthesizer) -> dict[str, Any] | None:
    """What is written down of a filter."""
    agreement = synthesizer.agreement
    if agreement is None:
        return None
    return {
        "annotators": agreement.annotator.fingerprints(),
        "findings": list(agreement.columns),
        "threshold": agreement.threshold,
        "tolerance": agreement.tolerance,
        "max_attempts": synthesizer.max_attempts,
    }
