"""What the page of `inspect_data` shows: its figures, for templates/inspection.html.j2."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from callbacks.mask_outlines import OUTLINES
from datamodules.duplicate_report import DuplicateReport, Pair
from datamodules.findings import FINDINGS
from datamodules.manifest import SPLITS, Manifest
from experiments.inspection.pictures import SheetRow, data_uri, strip
from experiments.inspection.tables import Count, SourceFacts, by_finding, source_counts, split_counts
from experiments.reports.render import render

MAX_REJECTED = 100  # rows of the list; the file holds them all
MOST_PAIRS = 20  # pairs of duplicates that are pictured


@dataclass(frozen=True)
class Sheet:
    """Rows of images, the pictures of each row uint8 [n, T, T, 3], and the masks' levels if they are outlined."""

    rows: Sequence[SheetRow]
    pictures: Sequence[np.ndarray]
    levels: Sequence[str] = ()


@dataclass(frozen=True)
class Inspection:
    """All that the page shows.

    Attributes:
        manifest: the images in use, with their splits.
        seen: those of them that pictures and pairs are of: all, or of a stream the ones that are decoded.
        rejected: pairs of path and reason.
        copies: duplicates among `seen`; None if nobody looked for them, and `why_no_pairs`.
        pair_pictures: uint8 [2, T, T, 3] of the first MOST_PAIRS of them.
        cooccurrence: the matrix as a picture uint8 [H, W, 3].
        origin: name -> text that says what was run on what: command, fingerprints, versions.
        warnings: what the data said in the log.
    """

    name: str
    image_size: int
    manifest: Manifest
    seen: Manifest
    rejected: Sequence[tuple[str, str]]
    facts: Sequence[SourceFacts]
    counts: Sequence[Count]
    copies: DuplicateReport | None
    why_no_pairs: str
    pair_pictures: Sequence[np.ndarray]
    sheets: Sequence[Sheet]
    cooccurrence: np.ndarray
    origin: Mapping[str, str]
    warnings: Sequence[str] = ()


class PairCounts(NamedTuple):
    """Pairs of duplicates of a kind, and how many of them cross splits or patients, or contradict in their labels."""

    kind: str
    num: int
    crossing: int
    of_two_patients: int
    contradicting: int


def page(found: Inspection) -> str:
    """The page as text: one file, no address in it is fetched, every text of the data is escaped."""
    manifest, facts = found.manifest, found.facts
    splits = split_counts(manifest) | {"all": (len(manifest), manifest.num_patients)}
    sources = [(c.source, *c.images.values(), sum(c.images.values()), c.patients, ", ".join(c.known))
               for c in source_counts(manifest)]  # fmt: skip
    levels, unknown = level_rows(found.counts)
    values = {
        "title": f"{found.name} at {found.image_size} px",
        "splits": [(name, *numbers) for name, numbers in splits.items()],
        "sources": sources,
        "terms": [(f.name, f.title, f.licence, f.address, f.trap) for f in facts if f.licence or f.address],
        "without_terms": [f.name for f in facts if not (f.licence or f.address)],
        "differing": [(f.title or f.name, key, here, there, f"{here - there:+,}")
                      for f in facts for key, (here, there) in f.differences.items()],
        "as_published": [f"{f.title or f.name} ({f.num_published} counts)" for f in facts
                         if f.num_published and not f.differences],
        "unpublished": [f.title or f.name for f in facts if not f.num_published],
        "levels": levels, "unknown": unknown, "num_images": len(manifest), "num_seen": len(found.seen),
        "pairs": pair_counts(found.copies.pairs) if found.copies else [], "pictured": list(pictured(found)),
        "cooccurrence": data_uri(found.cooccurrence, lossless=True),
        "sheets": [{"levels": sheet.levels, "strips": strips(sheet)} for sheet in found.sheets],
    }  # fmt: skip
    shown = {
        name: getattr(found, name) for name in ("rejected", "copies", "why_no_pairs", "facts", "warnings", "origin")
    }
    constants = {"SPLITS": SPLITS, "OUTLINES": OUTLINES, "MAX_REJECTED": MAX_REJECTED}
    return render("inspection.html.j2", **values, **shown, **constants)


def level_rows(counts: Sequence[Count]) -> tuple[list[tuple], list[str]]:
    """Images of each level by split and over all, and their patients; and the findings that nobody annotated."""
    patients: dict[tuple[str, str], int] = {}
    for count in counts:  # a patient has one split, so that patients may be added
        patients[count.finding, count.name] = patients.get((count.finding, count.name), 0) + count.patients
    rows, unknown, nested = [], [], by_finding(counts)
    for finding in FINDINGS:
        levels = {name: [split[key] for key in SPLITS] for name, split in nested[finding.name].items()}
        if not any(map(any, (levels[name] for name in finding.levels))):
            unknown.append(finding.title)
            continue
        for name, images in levels.items():
            if name != "unknown" or any(images):
                rows.append((finding.title, name, *images, sum(images), patients[finding.name, name]))
    return rows, unknown


def pair_counts(pairs: Sequence[Pair]) -> list[PairCounts]:
    """Of each kind, and of all; [] where there are no pairs."""
    kinds = sorted({pair.kind for pair in pairs})
    groups = {kind: [pair for pair in pairs if pair.kind == kind] for kind in kinds} | ({"all": pairs} if pairs else {})
    return [
        PairCounts(kind, len(group), sum(p.crosses_splits for p in group), sum(p.crosses_patients for p in group),
                   sum(bool(p.contradicts) for p in group))
        for kind, group in groups.items()
    ]  # fmt: skip


def pictured(found: Inspection) -> Iterator[tuple[Pair, dict[str, str], dict[str, str], str]]:
    """The first pairs of duplicates: pair, what is known of either image, and both as a picture."""
    seen = found.seen
    columns = {"id": seen.ids, "split": seen.splits, "patient": seen.patients,
               "source": seen.table.column("source").to_pylist()}  # fmt: skip
    for pair, pictures in zip(found.copies.pairs if found.copies else (), found.pair_pictures, strict=False):
        first, second = ({name: column[row] for name, column in columns.items()} for row in pair[:2])
        yield pair, first, second, data_uri(strip(pictures))


def strips(sheet: Sheet) -> list[tuple[SheetRow, int, str]]:
    """A row of images for each level of a finding: the row, how many images are shown, and the picture."""
    num_columns = max(map(len, sheet.pictures))
    pairs = zip(sheet.rows, sheet.pictures, strict=True)
    return [(row, len(pictures), data_uri(strip(pictures, num_columns))) for row, pictures in pairs]
