"""What came of the cells: Dice and IoU of each arm and budget, and how much better than real images alone.

Letters: S seeds, N test images, R replicates of the bootstrap.

Every cell is tested on the same images. A figure is the mean over images and over the seeds of a training. Its interval
is of a bootstrap that draws patients with all their images, and seeds, both anew in each replicate: the pigeonhole
bootstrap (Owen 2007, Annals of Applied Statistics 1(2), 386-411). A difference to real images alone is paired by image
and by seed: both arms have the same replicates.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from callbacks.metrics.bootstrap import interval, paired_difference, patient_weights
from callbacks.metrics.estimate import Estimate
from datamodules.errors import UserError
from datamodules.parquet import open_parquet
from experiments.segmentation.cells import REAL, Arm, Training
from experiments.segmentation.materials import OF_REAL_DATA
from experiments.segmentation.testing import place

METRICS = ("dice", "iou")
COLUMNS = ("id", "patient", "split", "level", *METRICS)


class Tested(NamedTuple):
    """Figures of the images of one cell, mean over levels: ids and patients [N], and float [N] of each metric."""

    ids: list[str]
    patients: list[str]
    values: dict[str, np.ndarray]


class Result(NamedTuple):
    """Of one arm at one budget, on one test set: each metric, and less that of real images alone with its p-value."""

    test: str
    architecture: str
    budget: int | None
    num_real: int
    arm: Arm
    figures: dict[str, Estimate]
    differences: dict[str, tuple[Estimate, float]]  # empty of real images alone


def results(trainings: Sequence[Training], tests: Sequence[str], num_replicates: int, seed: int) -> list[Result]:
    """Every arm and budget on every test set.

    Raises:
        UserError: figures of a cell that cannot be read, or cells that were tested on other images.
    """
    found = []
    for test in (OF_REAL_DATA, *tests):
        tested = {id(each): read(each, test) for each in trainings}
        first = check_alike(trainings, tested, test)
        weights = patient_weights(first.patients, num_replicates, seed)
        for key in dict.fromkeys((each.architecture, each.budget, each.num_real) for each in trainings):
            mine = [each for each in trainings if (each.architecture, each.budget, each.num_real) == key]
            values = {arm: _values([tested[id(each)] for each in mine if each.arm == arm])
                      for arm in dict.fromkeys(each.arm for each in mine)}  # fmt: skip
            found += [Result(test, *key, arm, *compare(values, arm, weights, seed)) for arm in values]
    return found


def read(training: Training, test: str) -> Tested:
    """What a cell's segmenter got on the images of a test set.

    Raises:
        UserError: a file that is damaged or lacks columns.
    """
    folder = training.cell.folder
    path = folder / "masks.parquet" if test == OF_REAL_DATA else place(training.cell, test)
    remedy = f"delete {folder}, and the cell is run again"
    with open_parquet(path, UserError, remedy) as file:
        if missing := [name for name in COLUMNS if name not in file.schema_arrow.names]:
            raise UserError(f"{path} has no column {missing[0]!r}. Remedy: {remedy}.")
        table = file.read(list(COLUMNS))
    return mean_over_levels(table.filter(pc.equal(table.column("split"), "test")))


def mean_over_levels(table: pa.Table) -> Tested:
    """Means of a table with a row an image and level; images without a mask are left out. In the order of ids."""
    by_image: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        by_image.setdefault(row["id"], []).append(row)
    known = {name: rows for name, rows in sorted(by_image.items()) if all(row["dice"] is not None for row in rows)}
    known = {name: rows for name, rows in known.items() if not any(np.isnan(row["dice"]) for row in rows)}
    values = {metric: np.array([np.mean([row[metric] for row in rows]) for rows in known.values()])
              for metric in METRICS}  # fmt: skip
    return Tested(list(known), [rows[0]["patient"] for rows in known.values()], values)


def check_alike(trainings: Sequence[Training], tested: Mapping[int, Tested], test: str) -> Tested:
    """The first of the cells' figures, where all are of the same images of the same patients.

    Raises:
        UserError: they are not, or of no image.
    """
    first = tested[id(trainings[0])]
    for each in trainings:
        other = tested[id(each)]
        if (other.ids, other.patients) != (first.ids, first.patients) or not other.ids:
            raise UserError(
                f"{each.cell.folder} was tested on {len(other.ids)} images of {test!r}, and "
                f"{trainings[0].cell.folder} on {len(first.ids)}, others or none: nothing can be paired. Remedy: "
                "delete the cell that is of other data, and it is run again."
            )
    return first


def _values(tested: Sequence[Tested]) -> dict[str, np.ndarray]:
    """Each metric of a training's seeds, float [S, N]."""
    return {metric: np.stack([each.values[metric] for each in tested]) for metric in METRICS}


def compare(
    values: Mapping[Arm, Mapping[str, np.ndarray]], arm: Arm, weights: np.ndarray, seed: int
) -> tuple[dict[str, Estimate], dict[str, tuple[Estimate, float]]]:
    """Figures of an arm with intervals, and their differences to real images alone, which has none.

    Args:
        values: of each arm each metric, float [S, N], of the same seeds and images.
        weights: how often each image is drawn, [R, N].
        seed: of the draw of seeds.
    """
    figures, differences = {}, {}
    for metric in METRICS:
        mine = values[arm][metric]
        replicates = resampled(mine, weights, seed)
        facts = {"name": metric, "better": "max", "num_images": mine.shape[1], "num_seeds": len(mine)}
        figures[metric] = interval(float(mine.mean()), replicates, **facts)
        if arm.kind != REAL:
            real = values[Arm(REAL)][metric]
            gap = float(mine.mean() - real.mean())
            differences[metric] = paired_difference(replicates, resampled(real, weights, seed), gap)
    return figures, differences


def resampled(values: np.ndarray, weights: np.ndarray, seed: int) -> np.ndarray:
    """Means of values [S, N] in each replicate, float [R]: images by `weights` [R, N], seeds drawn anew where S > 1."""
    num_seeds, num_replicates = len(values), len(weights)
    seeds = np.ones((num_replicates, num_seeds))
    if num_seeds > 1:
        names = [f"{place:09d}" for place in range(num_seeds)]
        seeds = patient_weights(names, num_replicates, seed + 1).astype(np.float64)
    total = seeds.sum(axis=1) * weights.sum(axis=1)
    sums = ((seeds @ values) * weights).sum(axis=1)
    return np.divide(sums, total, out=np.full(num_replicates, np.nan), where=total > 0)


def as_json(found: Result) -> dict[str, Any]:
    """A result for study.json; null where undefined."""
    told = {"test": found.test, "architecture": found.architecture, "budget": found.budget, "num_real": found.num_real,
            "arm": found.arm.kind, "set": found.arm.dataset or None, "ratio": found.arm.ratio,
            "num_synthetic": found.arm.ratio * found.num_real}  # fmt: skip
    for metric, one in found.figures.items():
        told |= {"num_images": one.num_images, "num_seeds": one.num_seeds, metric: one.json()}
    for metric, (one, p_value) in found.differences.items():
        told[f"{metric}_difference"] = one.json() | {"p": None if np.isnan(p_value) else p_value}
    return told


def cell_rows(trainings: Sequence[Training], tests: Sequence[str]) -> list[list[str]]:
    """Every cell and test set for CSV, header first: means over images, all digits."""
    rows = [["cell", "test", "arm", "set", "ratio", "num_real", "architecture", "seed", "num_images", *METRICS]]
    for test in (OF_REAL_DATA, *tests):
        for each in trainings:
            tested, arm = read(each, test), each.arm
            means = [str(float(tested.values[metric].mean())) for metric in METRICS]
            facts = [each.cell.name, test, arm.kind, arm.dataset, arm.ratio, each.num_real, each.architecture]
            rows.append([*map(str, [*facts, each.seed, len(tested.ids)]), *means])
    return rows
