"""Which side a patient is on: by a hash of (seed, patient), so that adding rows moves nobody, and eyes never part."""

import hashlib
import math
from collections.abc import Mapping, Sequence

from datamodules.findings import nearest
from datamodules.manifest import SPLITS


def assign_splits(
    patients: Sequence[str], fractions: Mapping[str, float], seed: int, official: Sequence[str] | None = None
) -> list[str]:
    """One of `train`, `val`, `test` for each row.

    A patient's split depends on the seed, the fractions and the patient's name alone: both eyes go together, and rows
    that are added later move nobody. `fractions` sums to 1; with few patients a small fraction may get none. A row
    whose `official` split is given (not "") keeps it, and takes the patient's other rows with it.

    Raises ValueError when the fractions are not fractions, or when the official split has a patient on two sides.
    """
    edges = _edges(fractions)
    chosen = _official(patients, official) if official is not None else {}
    for patient in dict.fromkeys(patients):
        if patient not in chosen:
            position = uniform(patient, seed)
            chosen[patient] = next(name for name, edge in edges if position < edge)
    return [chosen[patient] for patient in patients]


def uniform(patient: str, seed: int) -> float:
    """A number in [0, 1) that depends on (seed, patient) alone."""
    digest = hashlib.blake2b(f"{seed}\0{patient}".encode(), digest_size=8, person=b"split").digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def _edges(fractions: Mapping[str, float]) -> list[tuple[str, float]]:
    """Upper ends of the splits' intervals in [0, 1], always in the order train, val, test; the last is infinite."""
    for name, fraction in fractions.items():
        if name not in SPLITS:
            near = nearest(name, list(SPLITS))
            hint = f" Did you mean {near!r}?" if near else ""
            raise ValueError(f"fractions names {name!r}, which is not a split.{hint} The splits: {', '.join(SPLITS)}.")
        if not 0 <= fraction <= 1:
            raise ValueError(f"fractions[{name!r}] is {fraction}, and must be in [0, 1].")
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(f"fractions sums to {sum(fractions.values()):g}, and must sum to 1: {dict(fractions)}.")
    names = [name for name in SPLITS if fractions.get(name, 0) > 0]
    ends = [sum(fractions.get(other, 0) for other in names[: i + 1]) for i in range(len(names))]
    return list(zip(names, [*ends[:-1], math.inf], strict=True))


def _official(patients: Sequence[str], official: Sequence[str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for patient, split in zip(patients, official, strict=True):
        if split and chosen.setdefault(patient, split) != split:
            raise ValueError(
                f"patient {patient!r} is in {chosen[patient]!r} and in {split!r} of the official split: a patient must "
                "be on one side. Correct the split column, or leave it blank for this patient."
            )
    return chosen
