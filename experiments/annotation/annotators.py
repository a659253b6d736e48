"""The classifiers that annotate, and what is written down of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callbacks.advice import VERSION
from callbacks.run_record import code_revision, package_versions
from datamodules.errors import UserError
from datamodules.findings import NAMES, check_name
from datamodules.synthetic import SyntheticSet
from experiments.loading import load_classifier
from lightning_modules.annotator import Annotator
from lightning_modules.checkpoint import best_of_run, run_of
from lightning_modules.classifier import Classifier

FORMAT = 1
BEST = "best.ckpt"  # the weights that a run's predictions.parquet is of


@dataclass(frozen=True)
class AnnotatorRun:
    """A classifier, its checkpoint, and the folder of its run; None for a checkpoint that lies in none."""

    classifier: Classifier
    checkpoint: Path
    run: Path | None

    @property
    def name(self) -> str:
        """The run's name, or that of the file; nothing of where they lie, for a set is given away."""
        return self.checkpoint.name if self.run is None else self.run.resolve().name


def load_annotators(paths: Sequence[str], trusted: Sequence[str] = ()) -> list[AnnotatorRun]:
    """The classifiers at these paths: folders of runs, of which the best checkpoint is taken, or checkpoints.

    Raises:
        FileNotFoundError: there is none.
        ValueError: no path, one twice, or what is there is no classifier.
    """
    if not paths:
        raise UserError("job.annotators is empty: name runs of classifier_train, as in job.annotators=[runs/a,runs/b].")
    checkpoints = [best_of_run(path) for path in paths]
    for place, path in enumerate(checkpoints):
        if path.resolve() in [other.resolve() for other in checkpoints[:place]]:
            raise UserError(f"job.annotators names {path} twice: it would count twice. Leave one out.")
    return [AnnotatorRun(load_classifier(path, trusted), path, run_of(path)) for path in checkpoints]


def thresholds_of(given: float | Mapping[str, float], findings: Mapping[str, int]) -> dict[str, float]:
    """The probability from which each finding of two levels that is told counts as present.

    Args:
        given: one for all; or by name, 0.5 for those not named.
        findings: number of levels of each that is told.

    Raises:
        ValueError: one that is no probability, a name that is no finding, is not told, or is a grade.
    """
    binary = [name for name, levels in findings.items() if levels == 2]
    named = dict(given) if isinstance(given, Mapping) else dict.fromkeys(binary, given)
    for name, threshold in named.items():
        check_name(name)
        if name not in findings:
            raise UserError(f"job.thresholds names {name}, which no annotator tells; they tell: {', '.join(findings)}.")
        if name not in binary:
            raise UserError(f"job.thresholds names {name}, a grade: it is decided by its median, without a threshold.")
        number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        if not number or not 0 < threshold < 1:
            raise UserError(f"job.thresholds: {name} has {threshold!r}, and a number between 0 and 1 is needed.")
    return {name: float(named.get(name, 0.5)) for name in binary}


def recipe_of(
    members: Sequence[AnnotatorRun],
    annotator: Annotator,
    thresholds: Mapping[str, float],
    precision: str,
    data: SyntheticSet,
) -> dict[str, Any]:
    """What annotations follow from, in plain containers (datamodules/synthetic/annotations.py)."""
    described = zip(members, annotator.fingerprints(), annotator.image_sizes, strict=True)
    return {
        "format": FORMAT,
        "annotators": [
            {
                "run": member.name,
                "checkpoint": member.checkpoint.name,
                "weights": weights,
                "findings": [name for name in NAMES if name in member.classifier.findings],
                "image_size": size,
            }
            for member, weights, size in described
        ],
        "findings": list(annotator.findings),
        "thresholds": dict(thresholds),
        "precision": precision,
        "advice": VERSION,
        "versions": package_versions(),
        "code": code_revision(),
        "data": {Path(file["file"]).stem: file["sha256"] for file in data.manifest["files"]},
    }
