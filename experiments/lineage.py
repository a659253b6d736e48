"""Whose photographs a run learns from, through its data and through the weights it begins with; leaks are refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.errors import UserError
from datamodules.fundus import FundusDataModule
from datamodules.manifest import Manifest
from datamodules.sources.base import Source
from datamodules.synthetic.lineage import Ancestor, generators, label_rows, patient_codes, patients_among
from experiments.report import say
from lightning_modules.checkpoint import TRAINED_ON_KEY, best_of_run, load_progress
from lightning_modules.checkpoint_contents import ContentsError

Parts = Sequence[tuple[Source, Manifest]]
WHOSE = "does not say whose photographs trained it"


def trained_on(datamodule: FundusDataModule, *ancestors: str | Path | None) -> dict[str, Any]:
    """What a checkpoint says of its training, as `write_facts` has it: patients and labels of a datamodule's training.

    Says in words what of it cannot be known.

    Args:
        ancestors: checkpoints, folders of runs or other files whose weights the training begins with; their patients
            count too, as do those of the generators of synthetic sets.
    """
    parts = datamodule.parts()
    codes = [patient_codes(manifest.select("train"), source) for source, manifest in parts]
    own = len(np.unique(np.concatenate(codes)))
    unknown: list[str] = []
    for what, known, lacking in _ancestors(parts, ancestors):
        codes += [] if known is None else [known]
        unknown += [f"{what} {WHOSE}"] if known is None else lacking
    for line in dict.fromkeys(unknown):
        say(f"note: {line}: whether patients of this run's test split are among them cannot be told.")
    rows, counts = label_rows(datamodule.training_labels().numpy())
    facts = {
        "patients": torch.from_numpy(np.unique(np.concatenate(codes)).view(np.int64)),
        "labels": torch.from_numpy(rows),
        "counts": torch.from_numpy(counts),
        "own_patients": own,
    }
    return facts | ({"unknown": list(dict.fromkeys(unknown))} if unknown else {})


def check_test_patients(datamodule: FundusDataModule, *ancestors: str | Path | None) -> None:
    """See that no test patient trained the generator of a synthetic set in the data, or the weights of an ancestor.

    Of validation patients it is said in words alone. The index is enough: no image needs to have been read.

    Args:
        ancestors: as `trained_on` has them.

    Raises:
        ValueError: some did; names how many, one of them, what they trained, and the remedy.
    """
    parts = datamodule.parts()
    check_ancestors(parts, _ancestors(parts, ancestors))


def check_ancestors(parts: Parts, found: Sequence[Ancestor]) -> None:
    """See that no test patient of these parts trained an ancestor; of validation patients it is said in words alone.

    Raises:
        ValueError: as `check_test_patients`.
    """
    for what, codes, _ in found:
        for split in ("val", "test") if codes is not None and len(codes) else ():
            leaked, number = _among(parts, split, codes)
            if not leaked:
                continue
            said = f"{len(leaked)} of {number} {split} patients (one is {leaked[0]!r}) trained {what}"
            if split == "val":
                say(f"note: {said}: figures on the validation split will be better than on strangers.")
                continue
            raise UserError(
                f"{said}: it has seen them, and figures on them would be too good. Remedy: split the data as for that "
                "training (the same data.fractions and seed, or a split column of your table), whose test patients it "
                "never saw; or test on other patients. If they are other people who have the same names in two tables "
                "of your own, give them names that differ."
            )


def how_many_trained(
    datamodule: FundusDataModule, splits: Sequence[str], weights: str | Path
) -> tuple[int | None, int]:
    """How many patients of these splits trained a checkpoint, or the best one of a run, and how many they have in all.

    None where the checkpoint does not say whose photographs trained it.
    """
    codes = _of_weights(Path(weights).expanduser()).codes
    found = [_among(datamodule.parts(), split, np.empty(0, np.uint64) if codes is None else codes) for split in splits]
    num_patients = sum(number for _, number in found)
    return (None if codes is None else sum(len(leaked) for leaked, _ in found)), num_patients


def _among(parts: Parts, split: str, codes: np.ndarray) -> tuple[list[str], int]:
    """Patients of a split whose codes are among `codes`, and how many patients the split has."""
    leaked, number = [], 0
    for source, manifest in parts:
        part = manifest.select(split)
        leaked += patients_among(part, source, codes)
        number += part.num_patients
    return leaked, number


def _ancestors(parts: Parts, weights: tuple[str | Path | None, ...]) -> list[Ancestor]:
    """The generators of the sets in the data, and the files of weights."""
    found = [ancestor for source, _ in parts for ancestor in generators(source)]
    return found + [_of_weights(Path(each).expanduser()) for each in weights if each]


def _of_weights(path: Path) -> Ancestor:
    """What a file of weights, or the best checkpoint of a run, says of its training."""
    path = best_of_run(path)
    what, facts = f"the checkpoint {str(path)!r}", None
    if path.exists() and path.suffix != ".safetensors":
        try:
            facts = load_progress(path).get(TRAINED_ON_KEY)
        except ContentsError:
            raise
        except ValueError:  # somebody else's
            facts = None
    if facts is None:
        return Ancestor(what, None)
    return Ancestor(what, facts["patients"].numpy().view(np.uint64), facts.get("unknown", ()))
