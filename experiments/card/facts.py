"""All that a card says of a set, read from the set's folder; nothing here comes from anywhere else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from callbacks.metrics.estimate import SHAPE
from datamodules.files import WHOLE_COPY, sha256
from datamodules.synthetic import SyntheticSet, SyntheticSetError
from datamodules.synthetic.annotations import Annotations
from datamodules.synthetic.counts import Acceptance, Counts, acceptance, annotation_counts, condition_counts
from datamodules.synthetic.layout import (
    CONSISTENCY,
    CONSISTENCY_FIGURE,
    CONSISTENCY_PAGE,
    MANIFEST,
    PRIVACY,
    TRAINED_ON,
)
from experiments.annotation.page import COLUMNS
from experiments.card.origin import generator_facts, sampling_facts

RECORD = "record.json"
AGREEMENT = {"num_images?": int, "num_positive?": int, **{f"{metric}?": SHAPE for metric in COLUMNS}}
SHAPES = {
    CONSISTENCY: {"synthetic?": {"findings?": {"*": AGREEMENT}},
                  "real?": {"findings?": {"*": AGREEMENT}, "sources?": [str]}, "notes?": [str]},
    PRIVACY: {"verdict?": str},
    RECORD: {"sessions?": [dict], "versions?": dict, "code?": {"commit?": str}},
}  # as misfit reads them  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What there is of a set.

    Attributes:
        annotations, annotated: the annotations and what they count; None where there are none.
        half_annotated: a folder of annotations is there, but they are not finished.
        acceptance: None without a filter.
        consistency, privacy: what the files of these names tell; None where they are not there.
        made: the day on which the set was finished, as 2026-01-31; "" where no record tells it.
        manifest_sha256: of manifest.json, which holds the checksums of all shards.
    """

    recipe: Mapping[str, Any]
    num_images: int
    num_bytes: int
    num_shards: int
    id_prefix: str
    conditions: Counts
    annotations: Annotations | None
    annotated: Counts | None
    half_annotated: bool
    acceptance: Acceptance | None
    consistency: Mapping[str, Any] | None
    privacy: Mapping[str, Any] | None
    generator: Mapping[str, str]
    sampling: Mapping[str, str]
    made: str
    manifest_sha256: str
    has_consistency_figure: bool
    has_consistency_page: bool
    has_patients: bool

    @property
    def image_size(self) -> int:
        """Pixels along a side."""
        return int(self.recipe["image"]["size"])


def gather(dataset: SyntheticSet) -> Facts:
    """Read what there is of a whole set; of its shards only the columns of the filter.

    Raises:
        SyntheticSetError: the set is not complete, or a file of it cannot be read.
    """
    root, manifest = dataset.root, dataset.manifest
    dataset.check_shards()
    plan, annotations = dataset.plan, dataset.annotations
    if plan.num_images != dataset.num_images:
        raise SyntheticSetError(
            f"{plan.path} has {plan.num_images:,} images, and {MANIFEST} {dataset.num_images:,}. Remedy: {WHOLE_COPY}."
        )
    record, filtered = _report(dataset, RECORD) or {}, dataset.recipe.get("filter")
    return Facts(
        recipe=dataset.recipe,
        num_images=manifest["num_images"],
        num_bytes=manifest["num_bytes"],
        num_shards=len(manifest["files"]),
        id_prefix=dataset.id_prefix.rstrip("-"),
        conditions=condition_counts(plan),
        annotations=annotations,
        annotated=None if annotations is None else annotation_counts(annotations.files),
        half_annotated=annotations is None and dataset.has_annotation_shards,
        acceptance=acceptance(dataset.shards, filtered["findings"]) if filtered else None,
        consistency=_report(dataset, CONSISTENCY),
        privacy=_report(dataset, PRIVACY),
        generator=generator_facts(dataset.recipe, root) | _code(record),
        sampling=sampling_facts(dataset.recipe),
        made=_day(record),
        manifest_sha256=sha256(dataset.root / MANIFEST),
        has_consistency_figure=(root / CONSISTENCY_FIGURE).is_file(),
        has_consistency_page=(root / CONSISTENCY_PAGE).is_file(),
        has_patients=(root / TRAINED_ON).is_file(),
    )


def _report(dataset: SyntheticSet, name: str) -> dict[str, Any] | None:
    return dataset.report(name, SHAPES[name], "write it again, or remove it")


def _day(record: Mapping[str, Any]) -> str:
    """When the run that made the set last stopped, or where it is still going when it began."""
    sessions = record.get("sessions") or [{}]
    return str(sessions[-1].get("end") or sessions[-1].get("start") or "")[:10]


def _code(record: Mapping[str, Any]) -> dict[str, str]:
    """Version of the package and revision of the code; {} where no record tells them."""
    version = (record.get("versions") or {}).get("synfundus")
    code = record.get("code") or {}
    changed = ", with changes" if code.get("changed") else ""
    revision = f"revision {str(code['commit'])[:12]}{changed}" if code.get("commit") else ""
    made_by = ", ".join(text for text in (f"synfundus {version}" if version else "", revision) if text)
    return {"made by": made_by} if made_by else {}
