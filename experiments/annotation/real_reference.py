"""What the annotators reach on images with labels, from the predictions that their own runs left: the ceiling.

"Real" is what no generator of ours has drawn: photographs, or the procedural phantoms that a classifier was tested on.
A finding's real images are those in the test splits of all members that tell it, with the same patient and the same
label in each: what a member was trained or selected on is nobody's test.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.errors import UserError
from datamodules.findings import NUM_LEVELS
from datamodules.sources.phantom import PhantomSource
from experiments.annotation.annotators import BEST, AnnotatorRun

REMEDY = "Remedy: take it from a whole copy of the run, or remove it, and nothing is told of the ceiling."
FILE, MANIFEST, SPLIT = "predictions.parquet", "manifest.parquet", "test"
Joined = dict[tuple[str, str], dict[str, tuple[int, np.ndarray]]]  # (id, patient) -> finding -> label, probabilities


def sources_of(members: Sequence[AnnotatorRun]) -> list[str]:
    """Names of the datasets that the members were tested on, as the manifests of their runs tell them."""
    found: set[str] = set()
    for member in members:
        path = None if member.run is None else member.run / MANIFEST
        if path is not None and path.is_file():
            table = _of_test(path, ["source"])
            found.update(table.column("source").to_pylist())
    return sorted(found)


def named(sources: Sequence[str]) -> str:
    """Datasets, with a word where they are no photographs."""
    said = [f"{name} (drawn by a program, no photographs)" if name == PhantomSource.name else name for name in sources]
    return ", ".join(said) or "a dataset that is not told"


def _of_test(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of the test split of a table that a run has left.

    Raises:
        ValueError: it is damaged, or has not these columns; names it.
    """
    try:
        table = pq.read_table(path, columns=None if columns is None else list(columns), filters=[("split", "=", SPLIT)])
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}). {REMEDY}") from error
    if columns is None:
        told = [name.removeprefix("label_") for name in table.column_names if name.startswith("label_")]
        columns = ["id", "patient", *(f"p_{name}_{level}" for name in told for level in range(NUM_LEVELS.get(name, 1)))]
    for name in columns:
        if name not in table.column_names:
            raise UserError(f"{path} has no column {name!r}. {REMEDY}")
        if name.startswith("p_") and not pa.types.is_floating(table.schema.field(name).type):
            raise UserError(f"{path}: the column {name!r} does not hold probabilities. {REMEDY}")
    return table


@dataclass(frozen=True)
class RealImages:
    """Labels int8 [N, F], -1 unknown or not to be used; probabilities float32 [N, K] by finding; patients [N].

    `notes` say what is missing, and why; `sources` are the names of the datasets that they are of.
    """

    labels: np.ndarray
    probabilities: dict[str, np.ndarray]
    patients: list[str]
    notes: list[str]
    sources: list[str]

    def __len__(self) -> int:
        return len(self.patients)


def real_images(members: Sequence[AnnotatorRun], findings: Mapping[str, int]) -> RealImages:
    """The real images of every finding of `findings` (its number of levels), in that order of columns.

    The probabilities of an ensemble are the mean over the members that tell a finding, as when it annotates.
    """
    tables, notes = {}, []
    for member in members:
        table, note = _predictions(member)
        if table is not None:
            tables[id(member)] = _Predictions(table)
        notes += [note] if note else []
    joined: Joined = {}
    without: dict[str, list[str]] = {}
    for name, num_levels in findings.items():
        telling = [member for member in members if name in member.classifier.findings]
        held = [tables.get(id(member)) for member in telling]
        if any(one is None or name not in one.labels for one in held):
            without.setdefault("an annotator that tells it left no predictions of a test split", []).append(name)
            continue
        common = set.intersection(*(set(one.rows) for one in held))
        agreed = [key for key in sorted(common) if len({one.label(key, name) for one in held}) == 1]
        if len(agreed) < len(common):
            notes.append(f"{name}: {len(common) - len(agreed)} real images are left out, labelled otherwise elsewhere.")
        if not agreed:
            without.setdefault("no image is in the test splits of all annotators that tell it", []).append(name)
        for key in agreed:
            mean = np.mean([one.chances(key, name, num_levels) for one in held], axis=0, dtype=np.float32)
            joined.setdefault(key, {})[name] = held[0].label(key, name), mean
    notes += [f"No ceiling for {', '.join(names)}: {why}." for why, names in without.items()]
    return _arrays(joined, findings, notes, sources_of(members))


class _Predictions:
    """The predictions of a member on its test split, by id and patient."""

    def __init__(self, table: pa.Table) -> None:
        keys = zip(table.column("id").to_pylist(), table.column("patient").to_pylist(), strict=True)
        self.rows = {key: row for row, key in enumerate(keys)}
        numbers = {
            name: table.column(name).to_numpy() for name in table.column_names if name.startswith(("label_", "p_"))
        }
        self.labels = {name[6:]: values for name, values in numbers.items() if name.startswith("label_")}
        self._numbers = numbers

    def label(self, key: tuple[str, str], name: str) -> int:
        return int(self.labels[name][self.rows[key]])

    def chances(self, key: tuple[str, str], name: str, num_levels: int) -> np.ndarray:
        row = self.rows[key]
        return np.array([self._numbers[f"p_{name}_{level}"][row] for level in range(num_levels)], dtype=np.float32)


def _predictions(member: AnnotatorRun) -> tuple[pa.Table | None, str]:
    """What a member predicted on its test split; what is wrong with it, "" for nothing."""
    path = None if member.run is None else member.run / FILE
    if path is None or not path.is_file():
        return None, f"{member.name}: there is no {FILE} in the folder of its run."
    table = _of_test(path)
    if table.num_rows == 0:
        return None, f"{member.name}: {FILE} has no test split."
    other = Path(member.checkpoint).name != BEST
    note = f"{member.name}: the ceiling is that of {BEST}, and {member.checkpoint.name} annotated." if other else ""
    return table, note


def _arrays(joined: Joined, findings: Mapping[str, int], notes: list[str], sources: list[str]) -> RealImages:
    keys = sorted(joined)
    labels = np.full((len(keys), len(findings)), -1, dtype=np.int8)
    chances = {name: np.zeros((len(keys), levels), dtype=np.float32) for name, levels in findings.items()}
    for row, key in enumerate(keys):
        for column, name in enumerate(findings):
            if name in joined[key]:
                labels[row, column], chances[name][row] = joined[key][name]
    return RealImages(labels, chances, [patient for _, patient in keys], notes, sources)
