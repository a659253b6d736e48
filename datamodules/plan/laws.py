"""What the images of a synthetic set are to show: as the training labels are, balanced, by prevalences, or by a table.

A law gives chunks of labels int8 [n, F], with seeds int64 [n] or None where the plan is to choose them, and perhaps
with masks (masks.py).

Those that draw take whole rows of labels, with weights: systematic sampling, so that of each chunk of 65,536 images
each row of
labels gets its share but for less than one image, in an order at random.

Letters: K different label rows, F findings.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from datamodules.files import sha256
from datamodules.findings import NAMES, NUM_LEVELS
from datamodules.plan.table import check_table, table_chunks
from datamodules.synthetic.plan import CHUNK, Chunk, PlanError

NO_LABELS = (
    "the checkpoint does not hold the labels that its generator was trained on. Remedy: plan=table plan.path=<table>; "
    "or plan=prevalences with base: independent; or a checkpoint of a newer training."
)


@dataclass(frozen=True)
class LabelRows:
    """Different rows of labels int8 [K, F], -1 unknown, and how often each was seen, int64 [K]."""

    labels: np.ndarray
    counts: np.ndarray


class Law(Protocol):
    """What a plan is made by."""

    def chunks(self, num_images: int | None, seed: int, seen: LabelRows | None) -> Iterator[Chunk]:
        """Labels, and perhaps seeds, of `num_images` images; None: as many as the law has.

        `seen` are the labels that the generator was trained on, None where they are not known. Raises ValueError.
        """

    def describe(self) -> dict[str, Any]:
        """What it was, for the record: plain containers."""


class TrainingLaw:
    """As the generator's training labels are: findings as often, and together as often."""

    def chunks(self, num_images: int | None, seed: int, seen: LabelRows | None) -> Iterator[Chunk]:
        """As a Law."""
        rows = known(seen)
        return draw(rows.labels, rows.counts, number(num_images), seed)

    def describe(self) -> dict[str, Any]:
        """As a Law."""
        return {"law": "training"}


class BalancedLaw:
    """Rare levels as often as each other: for each image one of the levels that are not their finding's commonest, or
    none of them, is chosen with equal chances, then a row of the training labels that has it.

    So each of them is in at least 1 of (number of such levels + 1) images, and what comes along is what came along in
    training. Levels of the eye's side, of which neither is rare, are left as they come.
    """

    def chunks(self, num_images: int | None, seed: int, seen: LabelRows | None) -> Iterator[Chunk]:
        """As a Law."""
        rows = known(seen)
        cells = self._cells(rows)
        weights = sum(np.where(cell, rows.counts, 0) / rows.counts[cell].sum() for cell in cells) / len(cells)
        return draw(rows.labels, weights, number(num_images), seed)

    def _cells(self, rows: LabelRows) -> list[np.ndarray]:
        """For each rare level the rows that have it, bool [K]; and those that have none."""
        cells = []
        for column, name in enumerate(NAMES):
            if name == "eye_side":
                continue
            counts = [int(rows.counts[rows.labels[:, column] == level].sum()) for level in range(NUM_LEVELS[name])]
            common = int(np.argmax(counts))
            cells += [rows.labels[:, column] == level for level, n in enumerate(counts) if n and level != common]
        none = ~np.any(cells, axis=0) if cells else np.ones(len(rows.labels), dtype=bool)
        return [*cells, none] if none.any() else cells

    def describe(self) -> dict[str, Any]:
        """As a Law."""
        return {"law": "balanced"}


class TableLaw:
    """Row by row as a table of one's own says: CSV, Parquet or .xlsx, a column a finding, perhaps one of seeds.

    Findings without a column, blank cells and -1 are unknown: the generator is not told. Other columns than findings,
    `seed` and `index` are refused.

    Args:
        path: of the table.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"plan.path={self.path}: no such file.")
        check_table(self.path)

    def chunks(self, num_images: int | None, seed: int, seen: LabelRows | None) -> Iterator[Chunk]:
        """As a Law; `num_images` takes the first rows."""
        if num_images is not None and num_images < 1:
            raise PlanError(f"num_images={num_images} must be at least 1, or left out, which takes all rows.")
        left = num_images
        for labels, seeds in table_chunks(self.path):
            take = len(labels) if left is None else min(left, len(labels))
            yield Chunk(labels[:take], None if seeds is None else seeds[:take])
            left = None if left is None else left - take
            if left == 0:
                return
        if left:
            raise PlanError(
                f"num_images={num_images}, and {self.path} has {num_images - left} rows. Remedy: leave num_images out, "
                "which takes all rows."
            )

    def describe(self) -> dict[str, Any]:
        """As a Law."""
        return {"law": "table", "path": str(self.path), "sha256": sha256(self.path)}


def draw(labels: np.ndarray, weights: np.ndarray, num_images: int, seed: int) -> Iterator[Chunk]:
    """Rows of labels int8 [K, F] by weights [K], in chunks, by systematic sampling in an order at random."""
    ends = np.cumsum(np.asarray(weights, dtype=np.float64))
    ends /= ends[-1]
    for number, start in enumerate(range(0, num_images, CHUNK)):
        size = min(CHUNK, num_images - start)
        stream = np.random.default_rng(np.random.SeedSequence((seed, 0x9A7, number)))
        places = (stream.permutation(size) + stream.random()) / size
        rows = np.searchsorted(ends, places, side="right")
        yield Chunk(labels[np.minimum(rows, len(ends) - 1)])


def known(seen: LabelRows | None) -> LabelRows:
    """The training labels. Raises PlanError where they are not known."""
    if seen is None:
        raise PlanError(NO_LABELS)
    return seen


def number(num_images: int | None) -> int:
    """How many images. Raises PlanError where it is not said."""
    if num_images is None or num_images < 1:
        raise PlanError(f"num_images={num_images}: say how many images are to be made, 1 or more.")
    return num_images
