"""What becomes of photographs that a dataset holds twice: looked for once a cache, reported, left out on request."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.cache import ImageCache
from datamodules.duplicates import KINDS, VERSION, Duplicate, find_duplicates, groups, rows_to_drop
from datamodules.errors import UserError, did_you_mean
from datamodules.files import read_json, write_csv, write_text
from datamodules.findings import EYE_SIDE, NAMES, UNKNOWN
from datamodules.likeness import SIDE
from datamodules.manifest import Manifest

log = logging.getLogger(__name__)

HANDLING = ("ignore", "report", "drop")
FILE = f"duplicates-v{VERSION}.json"  # in the folder of the image cache
DESCRIBED = ("id", "source", "split", "patient")  # columns of the manifest that tell a row in duplicates.csv


class Pair(NamedTuple):
    """Two rows of a manifest that show the same photograph."""

    first: int
    second: int
    kind: str
    similarity: float
    crosses_splits: bool
    crosses_patients: bool
    contradicts: tuple[str, ...]  # findings that both know and differ in; of a mirror image not the eye's side


@dataclass(frozen=True)
class DuplicateReport:
    """The pairs of a manifest, and `dropped`: the rows of it, ascending, without which no photograph is there twice."""

    manifest: Manifest
    pairs: Sequence[Pair]
    dropped: np.ndarray

    def __str__(self) -> str:
        """What was found, in a line."""
        if not self.pairs:
            return "no photograph is there twice"
        across = sum(pair.crosses_splits for pair in self.pairs)
        persons = sum(pair.crosses_patients for pair in self.pairs)
        contradict = sum(bool(pair.contradicts) for pair in self.pairs)
        return (
            f"{len(self.pairs)} pairs of images show the same photograph, {across} of them in two splits, {persons} "
            f"of two patients, {contradict} with labels that contradict each other; without {len(self.dropped)} images "
            "each photograph is there once"
        )

    def write(self, path: str | Path) -> None:
        """duplicates.csv: a row a pair, with id, source, split and patient of both, those in two splits first."""
        columns = {name: self.manifest.table.column(name).to_pylist() for name in DESCRIBED}
        header = [f"{place}_{name}" for place in ("first", "second") for name in columns]
        rows = [
            [pair.kind, f"{pair.similarity:.4f}", *(cells[row] for row in pair[:2] for cells in columns.values()),
             *("yes" if crosses else "no" for crosses in pair[4:6]), " ".join(pair.contradicts)]
            for pair in self.pairs
        ]  # fmt: skip
        write_csv(path, [["kind", "similarity", *header, "crosses_splits", "crosses_patients", "contradicts"], *rows])


def check_handling(handling: str, image_size: int) -> str:
    """What to do about duplicates: `handling`, but `ignore` instead of `report` where images are too small to tell.

    Raises ValueError for what is none of HANDLING, and for duplicates to be dropped among images that are too small.
    """
    if handling not in HANDLING:
        hint = did_you_mean(handling, HANDLING)
        raise UserError(f"data.duplicates is {handling!r}, and must be one of: {', '.join(HANDLING)}.{hint}")
    if handling == "ignore" or image_size >= SIDE:
        return handling
    if handling == "drop":
        raise UserError(
            f"data.duplicates is 'drop', and data.image_size {image_size}: duplicates are told from {SIDE} pixels on. "
            "Remedy: larger images, or data.duplicates=ignore."
        )
    log.warning("data.image_size=%d: duplicates are not looked for below %d pixels", image_size, SIDE)
    return "ignore"


def cached_duplicates(cache: ImageCache) -> list[Duplicate]:
    """The duplicates among the rows of a cache: looked for the first time, with a progress bar, and kept beside it.

    Where what is kept is damaged they are looked for again.
    """
    path = cache.folder / FILE
    found = _read_duplicates(path, len(cache.images)) if path.is_file() else None
    if found is None:
        found = find_duplicates(cache.images, progress=True)
        write_text(path, json.dumps([astuple(duplicate) for duplicate in found]))
    return found


def _read_duplicates(path: Path, num_images: int) -> list[Duplicate] | None:
    """What was kept; None, with a word in the log, where it is damaged: it can be made again."""
    try:
        found = [Duplicate(*each) for each in read_json(path, [list])]
        for each in found:
            ordered = type(each.first) is type(each.second) is int and 0 <= each.first < each.second < num_images
            if not ordered or each.kind not in KINDS or not 0 <= each.similarity <= 1:
                raise UserError(f"{astuple(each)} is no pair of {num_images} images")
    except (ValueError, TypeError) as error:
        log.warning("%s is damaged, and duplicates are looked for again (%s)", path, error)
        return None
    return found


def found_among(images: np.ndarray, manifest: Manifest) -> DuplicateReport:
    """The duplicates among images, array-like uint8 [N, S, S, 3], that are the rows of a manifest; shows bars."""
    found = find_duplicates(images, progress=True)
    together = groups(found, len(images))
    return DuplicateReport(manifest, pairs_of(found, manifest), rows_to_drop(together, manifest.splits))


def copies_of(cache: ImageCache, rows: np.ndarray, manifest: Manifest) -> DuplicateReport:
    """The duplicates among `rows` of a cache, ascending, int64 [N], of which `manifest` tells splits and patients."""
    found = cached_duplicates(cache)
    together = groups(found, len(cache.images))[rows]
    here = _among(found, rows, together, len(cache.images))
    return DuplicateReport(manifest, pairs_of(here, manifest), rows_to_drop(together, manifest.splits))


def _among(found: Sequence[Duplicate], rows: np.ndarray, together: np.ndarray, num_images: int) -> list[Duplicate]:
    """The pairs of a cache among some of its rows, numbered by their places in `rows`.

    An image is paired with one other of its group, not with all: where that one is not among the rows, the first of the
    group that is there takes its place.
    """
    place = np.full(num_images, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    stand_in = {group: index for index, group in reversed(list(enumerate(together.tolist())))}
    group_of = dict(zip(rows.tolist(), together.tolist(), strict=True))
    pairs: dict[tuple[int, int], Duplicate] = {}
    for duplicate in found:
        group = group_of.get(duplicate.first, group_of.get(duplicate.second))
        if group is None:
            continue  # neither is there
        ends = [int(place[row]) if place[row] >= 0 else stand_in[group] for row in (duplicate.first, duplicate.second)]
        first, second = sorted(ends)
        if first != second:
            pairs.setdefault((first, second), Duplicate(first, second, duplicate.kind, duplicate.similarity))
    return list(pairs.values())


def pairs_of(duplicates: Iterable[Duplicate], manifest: Manifest) -> list[Pair]:
    """The pairs with where they lie: first those across splits, then those across patients, then by row."""
    duplicates = list(duplicates)
    splits, patients = manifest.splits, manifest.patients
    rows = sorted({row for d in duplicates for row in (d.first, d.second)})
    labels = dict(zip(rows, manifest.take(rows).labels, strict=True))
    pairs = [
        Pair(d.first, d.second, d.kind, d.similarity,
             splits[d.first] != splits[d.second], patients[d.first] != patients[d.second],
             _contradictions(labels[d.first], labels[d.second], d.kind))
        for d in duplicates
    ]  # fmt: skip
    return sorted(pairs, key=lambda pair: (not pair.crosses_splits, not pair.crosses_patients, *pair[:2]))


def _contradictions(first: np.ndarray, second: np.ndarray, kind: str) -> tuple[str, ...]:
    """Names of the findings that two rows of labels int64 [F] both know and differ in."""
    differs = (first != UNKNOWN) & (second != UNKNOWN) & (first != second)
    if kind == "mirrored":
        differs[EYE_SIDE] = False
    return tuple(NAMES[column] for column in np.flatnonzero(differs))
