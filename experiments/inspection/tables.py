"""What a manifest holds, in numbers: images and patients of each level, pairs of findings, sources."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.files import write_csv
from datamodules.findings import FINDINGS, UNKNOWN
from datamodules.manifest import SPLITS, Manifest
from datamodules.sources.base import Source
from experiments.reports.render import markdown_table


class Count(NamedTuple):
    """How many images of a split have a level of a finding, and of how many patients they are; level -1 is unknown."""

    finding: str
    level: int
    name: str
    split: str
    images: int
    patients: int


class SourceCount(NamedTuple):
    """Images and patients of a source, by split, and the findings of which it knows something."""

    source: str
    images: dict[str, int]
    patients: int
    known: list[str]


class SourceFacts(NamedTuple):
    """What a source says of itself, "" where it says nothing; `differences` are key -> (found, published)."""

    name: str
    title: str
    licence: str
    address: str
    trap: str
    num_published: int
    differences: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Cooccurrence:
    """How often a finding is present where another one is.

    Attributes:
        names: the K findings that are known in an image at least.
        share: float [K, K], P(column present | row present) over images where both are known; NaN where there are none.
        num_images: int [K, K], images in which the row is present and the column known: what `share` is a share of.
    """

    names: tuple[str, ...]
    share: np.ndarray
    num_images: np.ndarray


def level_counts(manifest: Manifest) -> list[Count]:
    """Every finding, level and split, also those without an image, in the order of the findings."""
    patients = manifest.table.column("patient").combine_chunks()
    codes, num_patients = patients.indices.to_numpy(), len(patients.dictionary)
    rows = {split: manifest.rows(split) for split in SPLITS}
    found = []
    for finding in FINDINGS:
        column = manifest.table.column(finding.name).to_numpy()
        for level, name in [*enumerate(finding.levels), (UNKNOWN, "unknown")]:
            for split in SPLITS:
                of_level = rows[split][column[rows[split]] == level]
                number = _num_distinct(codes[of_level], num_patients)
                found.append(Count(finding.name, level, name, split, len(of_level), number))
    return found


def split_counts(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Images and patients of each split."""
    parts = {split: manifest.select(split) for split in SPLITS}
    return {split: (len(part), part.num_patients) for split, part in parts.items()}


def source_counts(manifest: Manifest) -> list[SourceCount]:
    """Each source of the manifest, in the order in which they come."""
    sources = manifest.table.column("source").combine_chunks()
    names, codes = sources.dictionary.to_pylist(), sources.indices.to_numpy()
    present, first = np.unique(codes, return_index=True)
    found = []
    for code in present[np.argsort(first)]:
        part = manifest.take(np.flatnonzero(codes == code))
        images = {split: len(part.rows(split)) for split in SPLITS}
        known = [f.name for f in FINDINGS if (part.table.column(f.name).to_numpy() != UNKNOWN).any()]
        found.append(SourceCount(names[code], images, part.num_patients, known))
    return found


def source_facts(source: Source) -> list[SourceFacts]:
    """Of the source, or of each member of a union."""
    members: Mapping[str, Any] = getattr(source, "sources", None) or {source.name: source}
    return [
        SourceFacts(
            name,
            *(str(getattr(member, attribute, "")) for attribute in ("title", "licence", "address", "trap")),
            len(getattr(member, "published", ())),
            dict(getattr(member, "differences", {})),
        )
        for name, member in members.items()
    ]


def cooccurrence(labels: np.ndarray) -> Cooccurrence:
    """Of labels int [N, F]. Present is any level but 0: any retinopathy, a readable macula, a left eye."""
    known_anywhere = np.flatnonzero((labels != UNKNOWN).any(axis=0))
    labels = labels[:, known_anywhere]
    present, known = (labels > 0).astype(np.float64), (labels != UNKNOWN).astype(np.float64)
    both, num_images = present.T @ present, present.T @ known
    share = np.divide(both, num_images, out=np.full_like(both, np.nan), where=num_images > 0)
    return Cooccurrence(tuple(FINDINGS[i].name for i in known_anywhere), share, num_images.astype(np.int64))


def write_counts(path: Path, counts: Sequence[Count]) -> None:
    """counts.csv: a row a finding, level and split."""
    write_csv(path, [Count._fields, *counts])


def counts_text(counts: Sequence[Count]) -> str:
    """The counts as a Markdown table for TensorBoard: images by split, without the findings nobody knows."""
    rows = [
        [finding, name, *(split[key] for key in SPLITS)]
        for finding, levels in by_finding(counts).items()
        if any(sum(split.values()) for name, split in levels.items() if name != "unknown")
        for name, split in levels.items()
    ]
    return markdown_table(["finding", "level", *SPLITS], rows, range(2, 5))


def by_finding(counts: Sequence[Count]) -> dict[str, dict[str, dict[str, int]]]:
    """Finding -> level's name -> split -> images."""
    nested: dict[str, dict[str, dict[str, int]]] = {}
    for count in counts:
        nested.setdefault(count.finding, {}).setdefault(count.name, {})[count.split] = count.images
    return nested


def _num_distinct(codes: np.ndarray, num_codes: int) -> int:
    seen = np.zeros(num_codes, dtype=bool)
    seen[codes] = True
    return int(seen.sum())
