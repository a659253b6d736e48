"""How well the annotations of a set agree with its conditions: read, measured, written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from callbacks.annotation_writer import chance_columns
from callbacks.consistency_figure import DPI, figure_of
from callbacks.files import write_atomically, write_text
from callbacks.metrics.consistency import agreement
from callbacks.metrics.estimate import Estimate, to_json
from datamodules.errors import UserError
from datamodules.files import write_json
from datamodules.findings import FINDINGS, NAMES, UNKNOWN
from datamodules.synthetic import SyntheticSet
from datamodules.synthetic.layout import CONSISTENCY, CONSISTENCY_FIGURE, CONSISTENCY_PAGE
from datamodules.synthetic.tables import read_columns
from experiments.annotation.page import page
from experiments.annotation.real_reference import SPLIT, RealImages, named

FORMAT = 1
TITLES = {finding.name: finding.title for finding in FINDINGS}


class Found(NamedTuple):
    """What was measured of a set: against its conditions, and against the labels of real images."""

    synthetic: dict[str, dict[str, Estimate]]
    real: dict[str, dict[str, Estimate]]

    def aurocs(self) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
        """AUROC by finding, of both."""
        synthetic, real = ({name: metrics["auroc"] for name, metrics in part.items()} for part in self)
        return synthetic, real


def read_set(
    data: SyntheticSet, annotations: Sequence[Path], findings: Mapping[str, int]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Conditions int8 [N, F] in the order of `findings`, and probabilities float32 [N, K] by finding, of all images.

    Raises:
        ValueError: annotations that are not of the images of their shard.
    """
    count = data.manifest["num_images"]
    labels = np.full((count, len(findings)), UNKNOWN, dtype=np.int8)
    chances = {name: np.empty((count, levels), dtype=np.float32) for name, levels in findings.items()}
    start = 0
    for shard, path in zip(data.shards, annotations, strict=True):
        columns = {name: chance_columns(name, levels) for name, levels in findings.items()}
        told = _read(shard, ["id", *findings])
        said = _read(path, ["id", *(column for names in columns.values() for column in names)])
        if not told.column("id").equals(said.column("id")):
            raise UserError(
                f"{path} is not of the images of {shard}: their ids differ. Remedy: remove it, and annotate again."
            )
        rows = slice(start, start + told.num_rows)
        for column, (name, levels) in enumerate(findings.items()):
            labels[rows, column] = _numbers(told, name, UNKNOWN)
            values = np.stack([_numbers(said, one, np.nan) for one in columns[name]], axis=1)
            chances[name][rows] = np.concatenate([1 - values, values], axis=1) if levels == 2 else values
        start = rows.stop
    return labels, chances


def _read(path: Path, columns: list[str]) -> pa.Table:
    table = read_columns(path, columns)
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}. Remedy: remove it, and annotate again.")
    return table


def _numbers(table: pa.Table, name: str, null: float) -> np.ndarray:
    return table.column(name).fill_null(pa.scalar(null, table.schema.field(name).type)).to_numpy()


def measure(
    data: SyntheticSet, annotations: Sequence[Path], findings: Mapping[str, int], real: RealImages,
    thresholds: Mapping[str, float], num_replicates: int, seed: int,
) -> Found:  # fmt: skip
    """Agreement with the conditions, every image its own patient, and with the labels of real images."""
    labels, chances = read_set(data, annotations, findings)
    drawing = {"thresholds": thresholds, "num_replicates": num_replicates, "seed": seed}
    images = np.arange(len(labels)).astype(np.str_)
    synthetic = agreement(labels, chances, findings, images, **drawing)
    return Found(synthetic, agreement(real.labels, real.probabilities, findings, real.patients, **drawing))


def notes_of(data: SyntheticSet, recipe: Mapping[str, Any], real: RealImages) -> list[str]:
    """Cautions for the reader of the figures, about this set and these annotators."""
    notes = []
    asked = data.recipe.get("filter")
    if asked:
        same = set(asked.get("annotators", ())) & {one["weights"] for one in recipe["annotators"]}
        whose = "the very annotators that are asked here" if same else "other annotators"
        notes.append(
            f"The images were filtered: those that {whose} did not agree with were drawn again, by "
            f"{', '.join(asked.get('findings', ()))}. Their figures are what the filter made them"
            f"{', and confirm nothing' if same else ''}."
        )
    size = data.recipe["image"]["size"]
    for one in recipe["annotators"]:
        if one["image_size"] > size:
            notes.append(
                f"{one['run']} was trained on {one['image_size']} px and sees the images of {size} px enlarged: it may "
                "tell less of them than of real ones."
            )
    return [*notes, *real.notes]


def write(
    found: Found, data: SyntheticSet, recipe: Mapping[str, Any], real: RealImages, num_replicates: int, seed: int
) -> None:
    """Write consistency.png, consistency.md and consistency.json into the folder of the set."""
    notes = notes_of(data, recipe, real)
    not_told = [name for name in NAMES if name not in recipe["findings"]]
    picture = figure_of(*found.aurocs(), TITLES)
    write_atomically(data.root / CONSISTENCY_FIGURE, lambda path: Image.fromarray(picture).save(path, dpi=(DPI, DPI)))
    runs = ", ".join(one["run"] for one in recipe["annotators"])
    patients = len(set(real.patients))
    ceiling = (
        f"Split `{SPLIT}` of the annotators' own runs ({runs}): {len(real):,} images of {patients:,} patients, of "
        f"{named(real.sources)}."
        if len(real)
        else "There are none: see the notes below."
    )
    facts = _facts(data, recipe, num_replicates, seed)
    text = page(found.synthetic, found.real if len(real) else {}, facts, notes, not_told, ceiling)
    write_text(data.root / CONSISTENCY_PAGE, text)
    content = {
        "format": FORMAT,
        "annotators": recipe["annotators"],
        "thresholds": recipe["thresholds"],
        "level": 0.95,
        "num_replicates": num_replicates,
        "seed": seed,
        "kappa": "quadratic weighted for dr_grade",
        "synthetic": {"num_images": data.manifest["num_images"], "findings": to_json(found.synthetic)},
        "real": {
            "split": SPLIT,
            "sources": real.sources,
            "num_images": len(real),
            "num_patients": patients,
            "findings": to_json(found.real),
        },
        "not_told": not_told,
        "notes": notes,
    }
    write_json(data.root / CONSISTENCY, content)


def _facts(data: SyntheticSet, recipe: Mapping[str, Any], num_replicates: int, seed: int) -> dict[str, str]:
    """What stands at the top of the page."""
    size, count = data.recipe["image"]["size"], data.manifest["num_images"]
    who = [f"{one['run']} (`{one['weights']}`, {one['image_size']} px)" for one in recipe["annotators"]]
    cuts = [f"{value:g} on ({', '.join(names)})" for value, names in _by_value(recipe["thresholds"]).items()]
    return {
        "set": f"`{data.id_prefix.rstrip('-')}`, {count:,} images of {size} px",
        "annotators": ", ".join(who),
        "decided": "; ".join(["grades by their median level", *(f"from the probability {cut}" for cut in cuts)]),
        "intervals": f"{num_replicates:,} replicates, seed {seed}" if num_replicates else "none",
    }


def _by_value(thresholds: Mapping[str, float]) -> dict[float, list[str]]:
    """Threshold -> the findings that have it."""
    groups: dict[float, list[str]] = {}
    for name, value in thresholds.items():
        groups.setdefault(value, []).append(name)
    return groups


def numbers(found: Found) -> dict[str, float]:
    """What the record keeps: AUROC of every finding that has one."""
    groups = zip(("consistency", "ceiling"), found.aurocs(), strict=True)
    values = {f"{group}/auroc_{name}": auroc.value for group, part in groups for name, auroc in part.items()}
    return {name: value for name, value in values.items() if np.isfinite(value)}
