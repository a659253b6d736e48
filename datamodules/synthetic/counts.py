"""How many images of a set are told, annotated and accepted as what; read in pieces, and no image is."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.files import WHOLE_COPY
from datamodules.findings import NAMES, NUM_LEVELS, UNKNOWN, describe_levels
from datamodules.synthetic.plan import CHUNK, Plan
from datamodules.synthetic.tables import SyntheticSetError, opened

Counts = Mapping[str, np.ndarray]  # finding -> images of each level, int64 [levels + 1], unknown last


class Acceptance(NamedTuple):
    """What a filter made of the images: how many it accepted in the end and at once, how many were drawn for that.

    `levels` has the images of each level of a finding and the accepted ones, int64 [levels + 1, 2], unknown last.
    """

    num_images: int
    num_accepted: int
    num_at_once: int
    num_drawn: int
    levels: Counts


def condition_counts(plan: Plan) -> Counts:
    """Of what the generator was told."""
    found = _none()
    for rows in plan.chunks():
        for column, name in enumerate(NAMES):
            _add(found[name], checked(rows.labels[:, column], name, plan.path))
    return found


def annotation_counts(files: Iterable[Path]) -> Counts:
    """Of what the annotators saw; a finding that a file lacks is unknown in all its rows."""
    found = _none()
    for file in files:
        with opened(file) as parquet:
            there = [name for name in NAMES if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(CHUNK, columns=there, use_threads=False):
                for name in there:
                    _add(found[name], levels_of(batch.column(name), name, file))
            for name in set(NAMES) - set(there):
                found[name][-1] += parquet.metadata.num_rows
    return found


def acceptance(shards: Sequence[Path], findings: Sequence[str]) -> Acceptance:
    """What a filter made of the images of these shards, and of each level of the findings that it looked at."""
    totals = np.zeros(4, dtype=np.int64)
    levels = {name: np.zeros((NUM_LEVELS[name] + 1, 2), dtype=np.int64) for name in findings}
    for file in shards:
        with opened(file) as parquet:
            for batch in parquet.iter_batches(CHUNK, columns=["attempts", "accepted", *findings], use_threads=False):
                attempts = batch.column("attempts").to_numpy().astype(np.int64)
                accepted = pc.fill_null(batch.column("accepted"), False).to_numpy(zero_copy_only=False)
                totals += len(attempts), accepted.sum(), (accepted & (attempts == 1)).sum(), attempts.sum()
                for name, counts in levels.items():
                    told = levels_of(batch.column(name), name, file)
                    _add(counts[:, 0], told)
                    _add(counts[:, 1], told[accepted])
    return Acceptance(*totals.tolist(), levels)


def levels_of(column: pa.Array, name: str, file: Path) -> np.ndarray:
    """Levels int8 of a finding's column of a file, boolean or int8; null is unknown (-1).

    Raises:
        SyntheticSetError: one that there is not.
    """
    try:
        levels = pc.fill_null(pc.cast(column, pa.int8()), UNKNOWN).to_numpy(zero_copy_only=False)
    except pa.ArrowException as error:
        raise SyntheticSetError(f"{file}, column {name!r}: {error}. Remedy: {WHOLE_COPY}.") from error
    return checked(levels, name, file)


def checked(levels: np.ndarray, name: str, file: Path) -> np.ndarray:
    """Levels of a finding in a file, int8 [n], all of which there are.

    Raises:
        SyntheticSetError: one that there is not.
    """
    wrong = levels[(levels < UNKNOWN) | (levels >= NUM_LEVELS[name])]
    if len(wrong):
        raise SyntheticSetError(
            f"{file}, column {name!r}: the level {wrong[0]}, and there are {describe_levels(name)}. Remedy: "
            f"{WHOLE_COPY}."
        )
    return levels


def _none() -> dict[str, np.ndarray]:
    return {name: np.zeros(NUM_LEVELS[name] + 1, dtype=np.int64) for name in NAMES}


def _add(counts: np.ndarray, levels: np.ndarray) -> None:
    """Count levels -1 … L - 1; unknown, -1, is the last."""
    counts += np.bincount(levels.astype(np.int64) % len(counts), minlength=len(counts))
