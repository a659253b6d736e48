"""Whose photographs trained something: patients as hashes of their names, and the generated sets that carry them along.

A patient's *code* is a 64-bit BLAKE2b hash of `people::patient`, as a union of public datasets names patients, so that
it is the same whether a dataset is read alone or in a union, and whatever folder it lies in. Patients of sets of one's
own (csv, folder, `data.own`) are hashed by their name alone, and so agree under any name that the set is given.

A code does not tell a name; but who knows a name can compute its code and see whether it is there. Where that matters,
leave the codes out of what is handed on: downstream, the set is then one of unknown training data.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.columns import CHUNK, whole
from datamodules.errors import UserError
from datamodules.files import WHOLE_COPY, write_atomically
from datamodules.findings import NAMES, NUM_LEVELS
from datamodules.manifest import SPACE, Manifest
from datamodules.parquet import open_parquet
from datamodules.shards import ShardSource
from datamodules.sources.base import Source
from datamodules.sources.synfundus1m import SynFundus1M
from datamodules.sources.union import UnionSource
from datamodules.synthetic.layout import DATA, TRAINED_ON

COLUMN = "patient"  # of trained_on.parquet
REMEDY = f"{WHOLE_COPY} of the set"
UNKNOWN_KEY = b"unknown"  # of the file's schema: what the training began with and does not say whose data it saw


def patient_codes(manifest: Manifest, source: Source) -> np.ndarray:
    """Codes of the patients of a manifest of `source`, uint64, ascending, each once; generated images have no patient.

    A million patients take three seconds.
    """
    found = [codes for _, codes in _coded(manifest, source)]
    return np.unique(np.concatenate([np.zeros(0, dtype=np.uint64), *found]))


def patients_among(manifest: Manifest, source: Source, codes: np.ndarray) -> list[str]:
    """Names of the patients of a manifest whose codes are among `codes`, each once, in the order of their rows.

    Patient `17` is also found under the code of `17.0`, as earlier checkpoints may have it.
    """
    found: list[str] = []
    spelt = zip(_coded(manifest, source), _coded(manifest, source, _with_fraction), strict=True)
    for (names, theirs), (_, earlier) in spelt:
        found += [names[place] for place in np.flatnonzero(np.isin(theirs, codes) | np.isin(earlier, codes)).tolist()]
    return found


def _with_fraction(text: str) -> str:
    """A patient's text to be hashed as it was once written where a number stood in a column of fractions."""
    return re.sub(rf"(?:^|(?<={SPACE}))(\d+)$", r"\1.0", text)


class Ancestor(NamedTuple):
    """What a run learns from besides its own photographs: in words, codes of whose photographs trained it, uint64.

    `codes` is None where that is not known at all; `unknown` says what of it is not.
    """

    what: str
    codes: np.ndarray | None
    unknown: Sequence[str] = ()


def generators(source: Source) -> list[Ancestor]:
    """The generator of each generated set that a source reads."""
    members = source.sources.values() if isinstance(source, UnionSource) else [source]
    return [_generator(member.root) for member in members if is_generated(member)]


def _generator(root: Path) -> Ancestor:
    return Ancestor(f"the generator of {str(root)!r}", read_trained_on(root), unknown_of(root))


def is_generated(source: Source) -> bool:
    """Whether a source's images were generated; shards are where no column names patients."""
    if isinstance(source, ShardSource):
        return "patient" not in source.footers.columns
    return isinstance(source, SynFundus1M)


def write_trained_on(path: str | Path, codes: np.ndarray, unknown: Sequence[str] = ()) -> None:
    """Write `trained_on.parquet`, one column `patient` uint64, ascending; all or nothing.

    Args:
        codes: of `patient_codes`; also as int64 of the same bits, which is how checkpoints keep them.
        unknown: what the training began with that does not say whose photographs it saw, in words.
    """
    column = pa.array(np.unique(np.asarray(codes).view(np.uint64)))
    table = pa.table({COLUMN: column}).replace_schema_metadata({UNKNOWN_KEY: "\n".join(unknown)} if unknown else None)
    write_atomically(path, lambda partial: pq.write_table(table, partial))


def read_trained_on(root: str | Path) -> np.ndarray | None:
    """Codes of the patients who trained the generator of the set in a folder, uint64; None where it does not tell.

    Raises:
        ValueError: a file that is no such table.
    """
    path = _file(root)
    if path is None:
        return None
    with open_parquet(path, UserError, REMEDY) as file:
        table = file.read([COLUMN])
    codes = table.column(COLUMN) if COLUMN in table.column_names else None
    if codes is None or codes.null_count or codes.type not in (pa.uint64(), pa.int64()):
        raise UserError(
            f"{path} is no whole table of patients, a column {COLUMN!r} of uint64 without empty cells. "
            f"Remedy: {REMEDY}."
        )
    return np.unique(codes.cast(pa.uint64(), safe=False).to_numpy())


def unknown_of(root: str | Path) -> list[str]:
    """What the training of a set's generator began with that does not say whose photographs it saw, in words.

    Raises:
        ValueError: as `read_trained_on`.
    """
    path = _file(root)
    if path is None:
        return []
    with open_parquet(path, UserError, REMEDY) as file:
        return (file.schema_arrow.metadata or {}).get(UNKNOWN_KEY, b"").decode(errors="replace").splitlines()


def _file(root: str | Path) -> Path | None:
    """`trained_on.parquet` of a set, of which `root` may be the folder `data`."""
    root = Path(root)
    folders = [root, root.parent] if root.name == DATA else [root]
    return next((folder / TRAINED_ON for folder in folders if (folder / TRAINED_ON).is_file()), None)


def label_rows(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different rows of labels [N, F], -1 unknown, as int8 [K, F], and how often each occurs, int64 [K]."""
    bases = np.array([NUM_LEVELS[name] + 1 for name in NAMES], dtype=np.int64)
    weights = np.concatenate([np.cumprod(bases[:0:-1])[::-1], [1]]).astype(np.int64)
    keys, counts = np.unique(labels @ weights + weights.sum(), return_counts=True)
    return (keys[:, None] // weights % bases - 1).astype(np.int8), counts


def _coded(
    manifest: Manifest, source: Source, spelt: Callable[[str], str] = str
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Names of a manifest's patients, each once, and the codes uint64 of their texts as `spelt`, some at a time."""
    patients = whole(manifest.table.column("patient"))
    first = np.sort(np.unique(patients.indices.to_numpy(), return_index=True)[1])
    names = patients.take(pa.array(first)).cast(pa.string())
    hashed = _hashed_name(source)
    for start in range(0, len(names), CHUNK):
        pairs = [(name, hashed(name)) for name in names.slice(start, CHUNK).to_pylist()]
        some = [(name, text) for name, text in pairs if text is not None]
        digests = b"".join(_digest(spelt(text)) for _, text in some)
        yield [name for name, _ in some], np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _hashed_name(source: Source) -> Callable[[str], str | None]:
    """From a patient's name in a manifest of `source` to the text that is hashed; None for an image that no one had."""
    if not isinstance(source, UnionSource):
        return lambda name: _qualified(source, source.name, name)
    members = {getattr(each, "patient_space", "") or name: (each, name) for name, each in source.sources.items()}

    def hashed(name: str) -> str | None:
        people, _, alone = name.partition(SPACE)
        return _qualified(*members[people], alone)

    return hashed


def _qualified(source: Source, name: str, patient: str) -> str | None:
    """The text that is hashed of a patient of one source, which a union calls `name`."""
    if is_generated(source):
        return None
    is_public = hasattr(source, "patient_space")
    return f"{source.patient_space or name}{SPACE}{patient}" if is_public else patient


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8, person=b"patient").digest()
