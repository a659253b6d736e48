"""samples/contact_sheet.png: images of every condition, of the few row groups that hold them."""

import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from datamodules.files import WHOLE_COPY
from datamodules.findings import FINDINGS, NAMES
from datamodules.images import ImageError, read_image
from datamodules.synthetic import SyntheticSet, SyntheticSetError
from datamodules.synthetic.plan import Plan
from datamodules.synthetic.tables import opened, read_columns
from experiments.inspection.pictures import SheetRow, contact_sheet, shown

SIDE = 160  # pixels of a picture of the sheet at most
DISEASES = [column for column, name in enumerate(NAMES) if name not in ("is_fundus", "eye_side")
            and not name.endswith("_readable")]  # fmt: skip
IS_FUNDUS = NAMES.index("is_fundus")


class Condition(NamedTuple):
    """A row of the sheet: its title, and which labels int8 [n, F] belong to it, as bool [n]."""

    title: str
    holds: Callable[[np.ndarray], np.ndarray]


class Group(NamedTuple):
    """A row group: its place in the list of shards, its number there, and its images' numbers from first to stop."""

    shard: int
    number: int
    first: int
    stop: int


def conditions() -> list[Condition]:
    """No disease; then every grade, disease, unreadable region and eye."""
    found = [Condition("No disease", _no_disease)]
    for column, finding in enumerate(FINDINGS):
        if finding.name == "eye_side":
            levels = {level: f"{name.capitalize()} eye" for level, name in enumerate(finding.levels)}
        elif finding.name == "dr_grade":
            levels = {n: f"{finding.title}: {name}" for n, name in enumerate(finding.levels) if n}
        elif column in DISEASES:
            levels = {1: finding.title}
        else:
            levels = {0: f"{finding.title}: no"}
        found += [Condition(title, _has(column, level)) for level, title in levels.items()]
    return found


def _no_disease(labels: np.ndarray) -> np.ndarray:
    """A fundus of which a disease at least is known, and none is present."""
    known = labels[:, DISEASES]
    return (known <= 0).all(axis=1) & (known == 0).any(axis=1) & (labels[:, IS_FUNDUS] != 0)


def _has(column: int, level: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda labels: labels[:, column] == level


def row_groups(dataset: SyntheticSet) -> list[Group]:
    """All row groups of a whole set, in order; reads the shards' footers."""
    found = []
    for place, file in enumerate(dataset.shards):
        first, end = dataset.bounds(place)
        with opened(file) as parquet:
            sizes = [parquet.metadata.row_group(n).num_rows for n in range(parquet.metadata.num_row_groups)]
        if sum(sizes) != end - first:
            raise SyntheticSetError(f"{file} has {sum(sizes)} rows instead of {end - first}. {REMEDY}")
        for number, size in enumerate(sizes):
            found.append(Group(place, number, first, first + size))
            first += size
    return found


REMEDY = "Remedy: make the set whole, by the command that made it with resume=auto."


def count(plan: Plan, groups: Sequence[Group], rows: Sequence[Condition]) -> np.ndarray:
    """How many images of each row group hold each condition, int32 [G, R]."""
    starts = np.array([group.first for group in groups])
    found = np.zeros((len(groups), len(rows)), dtype=np.int32)
    for chunk in plan.chunks():
        places = np.searchsorted(starts, chunk.index, side="right") - 1
        low = int(places[0])
        for column, row in enumerate(rows):
            hits = np.bincount(places[row.holds(chunk.labels)] - low)
            found[low : low + len(hits), column] += hits.astype(np.int32)
    return found


def choose(counts: np.ndarray, num_columns: int) -> list[int]:
    """A few row groups that together hold `num_columns` images of each condition, or all that there are; ascending.

    Greedily: for the rarest condition that is not satisfied yet, the row group that helps most of them.
    """
    totals = counts.sum(axis=0)
    missing = np.minimum(totals, num_columns)
    chosen: list[int] = []
    left = counts.copy()
    while missing.any():
        unsatisfied = np.flatnonzero(missing)
        rarest = unsatisfied[np.argmin(totals[unsatisfied])]
        gain = np.where(left[:, rarest] > 0, np.minimum(left, missing).sum(axis=1), -1)
        best = int(np.argmax(gain))
        chosen.append(best)
        missing = np.maximum(missing - left[best], 0)
        left[best] = 0
    return sorted(chosen)


def sheet(dataset: SyntheticSet, plan: Plan, num_columns: int) -> np.ndarray:
    """A captioned sheet, uint8 [height, width, 3]: a row for each condition that an image has, and how many have it.

    Of a condition the first images of the row groups chosen are shown, whatever they look like.
    """
    groups, rows = row_groups(dataset), conditions()
    counts = count(plan, groups, rows)
    told = np.flatnonzero(counts.sum(axis=0))
    if len(told) == 0:
        rows, told = [Condition("Any image", lambda labels: np.ones(len(labels), dtype=bool))], np.array([0])
        counts = count(plan, groups, rows)
    pictures: dict[int, list[np.ndarray]] = {int(row): [] for row in told}
    for place in choose(counts[:, told], num_columns):
        group = groups[place]
        labels = plan.rows(group.first, group.stop).labels
        wanted = {r: np.flatnonzero(rows[r].holds(labels))[: num_columns - len(p)] for r, p in pictures.items()}
        if any(len(places) for places in wanted.values()):
            drawn = _decoded(dataset, group, np.unique(np.concatenate(list(wanted.values()))))
            for row, places in wanted.items():
                pictures[row] += [drawn[index] for index in places.tolist()]
    totals = counts.sum(axis=0)
    listed = [SheetRow(rows[r].title, int(totals[r]), np.arange(len(p))) for r, p in pictures.items()]
    return contact_sheet(listed, [np.stack(p) for p in pictures.values()], num_columns)


def _decoded(dataset: SyntheticSet, group: Group, places: np.ndarray) -> dict[int, np.ndarray]:
    """Images of a row group, uint8 [s, s, 3] as they are shown, by their place in it."""
    file = dataset.shards[group.shard]
    table = read_columns(file, ["index", "image.bytes"], group.number)
    if table.column("index")[0].as_py() != group.first:
        raise SyntheticSetError(f"{file}, row group {group.number}, does not begin with image {group.first}. {REMEDY}")
    pixels = table.column("image").combine_chunks().field("bytes")
    found = {}
    for place in places.tolist():
        try:
            content = pixels[place].as_buffer() if pixels[place].is_valid else b""
            found[place] = shown(read_image(io.BytesIO(content)), SIDE)
        except ImageError as error:
            raise SyntheticSetError(
                f"{file}, image {group.first + place}: it cannot be used: {error}. Remedy: {WHOLE_COPY}."
            ) from error
    return found
