"""Which side a patient is on: by a hash of (seed, patient), so that adding rows moves nobody, and eyes never part."""

import hashlib
import math
from collections.abc import Mapping
from numbers import Real

import numpy as np
import pyarrow as pa

from datamodules.columns import CHUNK, whole
from datamodules.errors import UserError, did_you_mean
from datamodules.manifest import SPACE, SPLITS, Manifest


def split_by_patient(manifest: Manifest, fractions: Mapping[str, float], seed: int) -> Manifest:
    """The manifest with a split for every row.

    A patient's split depends on the seed, the fractions and the patient's name alone: both eyes go together, and rows
    that are added later move nobody. `fractions` sums to 1; with few patients a small fraction may get none. A row
    whose official split is given (not "") keeps it, and takes the patient's other rows with it. But of a source that
    has an official `train` and no `val`, the training patients are shared out between the two, by their fractions.

    Raises ValueError when the fractions are not fractions, or when the official split has a patient on two sides.
    """
    patients = whole(manifest.table.column("patient"))
    official = whole(manifest.table.column("split"))
    sources = whole(manifest.table.column("source")).indices.to_numpy()
    chosen = _drawn(patients.dictionary, _edges(fractions), seed)
    rows = patients.indices.to_numpy()
    codes = np.array([SPLITS.index(name) if name else -1 for name in official.dictionary.to_pylist()], dtype=np.int8)
    given = codes[official.indices.to_numpy()]
    train, val = (fractions.get(name, 0.0) for name in ("train", "val"))
    shared = _train_without_val(given, sources) if train > 0 and val > 0 else np.zeros(len(given), dtype=bool)
    if shared.any():
        halves = _drawn(patients.dictionary, [("train", train / (train + val)), ("val", math.inf)], seed)
        chosen[rows[shared]] = halves[rows[shared]]
    _keep_official(chosen, rows, given, shared, patients.dictionary, manifest.table.column("id"))
    splits = pa.DictionaryArray.from_arrays(pa.array(chosen[rows]), pa.array(SPLITS))
    column = manifest.table.column_names.index("split")
    return Manifest(manifest.table.set_column(column, "split", splits))


def split_fingerprint(manifest: Manifest) -> str:
    """32 hexadecimal digits over who is on which side, whatever the order of the rows."""
    pairs = sorted(set(zip(manifest.patients, manifest.splits, strict=True)))
    text = "".join(f"{len(patient)}:{patient}{split}\n" for patient, split in pairs)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _drawn(patients: pa.Array, edges: list[tuple[str, float]], seed: int) -> np.ndarray:
    """The place in SPLITS of each patient by hash, int8 [P]."""
    ends = np.array([end for _, end in edges])
    places = np.array([SPLITS.index(name) for name, _ in edges], dtype=np.int8)
    chosen = np.empty(len(patients), dtype=np.int8)
    for start in range(0, len(chosen), CHUNK):
        names = patients.slice(start, CHUNK).to_pylist()
        positions = np.fromiter((uniform(name, seed) for name in names), dtype=np.float64, count=len(names))
        chosen[start : start + len(names)] = places[np.searchsorted(ends, positions, side="right")]
    return chosen


def _train_without_val(given: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Rows of the official training of sources that have no official validation, bool [N]."""
    train, val = given == SPLITS.index("train"), given == SPLITS.index("val")
    return train & ~np.isin(sources, np.unique(sources[val]))


def _keep_official(
    chosen: np.ndarray,
    rows: np.ndarray,
    given: np.ndarray,
    shared: np.ndarray,
    names: pa.Array,
    ids: pa.ChunkedArray,
) -> None:
    """Overwrite what was chosen by what is given; `shared` rows may be in train or in val."""
    known = np.flatnonzero((given >= 0) & ~shared)
    chosen[rows[known]] = given[known]
    agrees = (chosen[rows] == given) | (shared & (chosen[rows] != SPLITS.index("test")))
    known = np.flatnonzero(given >= 0)
    contradicted = known[~agrees[known]]
    if len(contradicted):
        row = contradicted[0]
        theirs = known[rows[known] == rows[row]]
        sides = {SPLITS[code]: int(theirs[np.argmax(given[theirs] == code)]) for code in np.unique(given[theirs])}
        said = " and ".join(f"in {side!r} (image {ids[row].as_py()!r})" for side, row in sides.items())
        raise UserError(
            f"patient {names[int(rows[row])].as_py()!r} is {said} of the official split: a patient must be on one "
            f"side. {len(np.unique(rows[contradicted]))} patients are on several. Correct the split column, or leave "
            "it blank for these patients; give the patients of two hospitals different names."
        )


def rows_of_fraction(manifest: Manifest, fraction: float, seed: int) -> np.ndarray:
    """The rows of a manifest with splits that stay when `fraction` of the training patients do, int64, ascending.

    Rows that are not for training all stay. Of P training patients round(fraction P), and one at least, are chosen by
    a hash of (seed, patient): those of a smaller fraction are among those of a larger one.
    """
    order = _training_order(manifest, seed)
    num_patients = int(order.max(initial=-1)) + 1
    return np.flatnonzero(order < max(1, round(fraction * num_patients)))


def rows_of_number(manifest: Manifest, number: int, seed: int) -> np.ndarray:
    """The rows of a manifest with splits that stay when `number` training images do, int64, ascending.

    Rows that are not for training all stay. Training patients come by a hash of (seed, patient), each with all of
    its images; of the last one only as many stay as are wanted. Images of a smaller number are among those of a larger.

    Raises:
        UserError: there are fewer training images.
    """
    order, train = _training_order(manifest, seed), manifest.rows("train")
    if number > len(train):
        raise UserError(
            f"data.num_train is {number}, and there are {len(train)} training images. Remedy: {len(train)} or fewer, "
            "or null for all of them."
        )
    kept = order < 0
    kept[train[np.argsort(order[train], kind="stable")[:number]]] = True
    return np.flatnonzero(kept)


def _training_order(manifest: Manifest, seed: int) -> np.ndarray:
    """The place of each row's patient among the training patients, int64 [N]; -1 of rows that are not for training."""
    patients = whole(manifest.table.column("patient"))
    codes, train = patients.indices.to_numpy(), manifest.rows("train")
    names, places = patients.dictionary, np.full(len(manifest), -1, dtype=np.int64)
    present = np.unique(codes[train])
    ordered = sorted(present.tolist(), key=lambda code: uniform(names[code].as_py(), seed, "fraction\0"))
    place_of = np.full(len(names), -1, dtype=np.int64)
    place_of[ordered] = np.arange(len(ordered))
    places[train] = place_of[codes[train]]
    return places


def uniform(patient: str, seed: int, purpose: str = "") -> float:
    """A number in [0, 1) that depends on (seed, patient, purpose) alone.

    Of a patient of a union (`people::patient`) it is that of the patient alone, so that a person is on the same side in
    a dataset and in a union with it.
    """
    name = f"{purpose}{patient.partition(SPACE)[2] or patient}"
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8, person=b"split").digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def _edges(fractions: Mapping[str, float]) -> list[tuple[str, float]]:
    """Upper ends of the splits' intervals in [0, 1], always in the order train, val, test; the last is infinite."""
    for name, fraction in fractions.items():
        if name not in SPLITS:
            hint = did_you_mean(name, SPLITS)
            raise UserError(f"fractions names {name!r}, which is not a split.{hint} The splits: {', '.join(SPLITS)}.")
        if not isinstance(fraction, Real) or not 0 <= fraction <= 1:
            raise UserError(f"fractions[{name!r}] is {fraction}, and must be in [0, 1].")
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise UserError(f"fractions sums to {sum(fractions.values()):g}, and must sum to 1: {dict(fractions)}.")
    names = [name for name in SPLITS if fractions.get(name, 0) > 0]
    ends = [sum(fractions.get(other, 0) for other in names[: i + 1]) for i in range(len(names))]
    return list(zip(names, [*ends[:-1], math.inf], strict=True))
