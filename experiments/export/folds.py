"""Folds of cross-validation for nnU-Net: patients stay together, and generated cases are in training alone."""

from collections.abc import Mapping, Sequence

import numpy as np

from datamodules.errors import UserError
from datamodules.manifest import Manifest
from datamodules.splits import uniform

NO_FOLD = -1


def folds_of(manifest: Manifest, num_folds: int, seed: int) -> np.ndarray:
    """The fold that each image is validated in, int64 [N], NO_FOLD for none; images of the test split have none.

    From two folds on the patients of training and validation are dealt out in an order drawn by hash of
    (seed, patient), so that the folds' numbers of patients differ by one at most. With one fold the split of the data
    stays: its validation images are validated on, and its training images never.

    Raises:
        ValueError: fewer than one fold, fewer patients than folds, or one fold without images for either side.
    """
    if num_folds < 1:
        raise UserError(f"job.folds={num_folds} must be at least 1.")
    folds = np.full(len(manifest), NO_FOLD, dtype=np.int64)
    if num_folds == 1:
        folds[manifest.rows("val")] = 0
        if not len(manifest.rows("val")) or not len(manifest.rows("train")):
            raise UserError(
                "job.folds=1 takes the split of the data, of which training or validation has no pair. Remedy: other "
                "data.fractions in job.real, or job.folds=5."
            )
        return folds
    rows = np.concatenate([manifest.rows("train"), manifest.rows("val")])
    patients = manifest.patients
    names = sorted({patients[row] for row in rows}, key=lambda name: (uniform(name, seed, "folds\0"), name))
    if len(names) < num_folds:
        raise UserError(
            f"job.folds={num_folds}, and the real pairs for training and validation are of {len(names)} patients: each "
            f"fold needs one. Remedy: job.folds={max(len(names), 1)} or fewer, or more data in job.real."
        )
    fold = {name: place % num_folds for place, name in enumerate(names)}
    folds[rows] = [fold[patients[row]] for row in rows]
    return folds


def splits_of(folds: Mapping[str, int], synthetic: Sequence[str], num_folds: int) -> list[dict[str, list[str]]]:
    """The content of nnU-Net's splits_final.json: of each fold the cases that train, and those that validate.

    Args:
        folds: of each real case for training or validation the fold that it is validated in.
        synthetic: names of the generated cases, which train in every fold.
    """
    return [
        {
            "train": sorted([*(case for case, fold in folds.items() if fold != number), *synthetic]),
            "val": sorted(case for case, fold in folds.items() if fold == number),
        }
        for number in range(num_folds)
    ]
