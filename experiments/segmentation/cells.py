"""The trainings of a segmentation study: arms, budgets, ratios, architectures and seeds, and the words of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.errors import UserError
from datamodules.files import safe_name
from experiments.cells import Cell
from experiments.typed_text import quoted

EXPERIMENT = "+exp=segmenter_train"
REAL, SYNTHETIC, MIXED = "real", "synthetic", "mixed"
LISTS = ("budgets", "ratios", "seeds", "architectures")
OURS = ("mix=", "seed=", "data.seed=", "data.num_train=", "data.train_fraction=", "data.synthetic",
        "model.network.architecture=", "output_dir=", "cache_dir=", "resume=")  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """What a segmenter is trained on: `real` images, `synthetic` ones of a set, or both, `mixed`.

    Attributes:
        kind: of REAL, SYNTHETIC, MIXED.
        dataset: name of the set; "" of real images.
        ratio: generated images for one real image of the budget; 0 of real images.
    """

    kind: str
    dataset: str = ""
    ratio: int = 0

    def __str__(self) -> str:
        """For people."""
        if self.kind == REAL:
            return "real only"
        what = "synthetic only" if self.kind == SYNTHETIC else "real + synthetic"
        return f"{self.dataset}: {what}, {self.ratio} : 1"


@dataclass(frozen=True)
class Training:
    """A cell: one segmenter. `budget` is the number of real images, None for all `num_real` of them."""

    arm: Arm
    budget: int | None
    num_real: int
    architecture: str
    seed: int
    cell: Cell

    @property
    def num_synthetic(self) -> int:
        """Generated images that it learns from."""
        return self.arm.ratio * self.num_real


def arms(job: Mapping[str, Any]) -> list[Arm]:
    """Real images alone; then of each set and ratio, the generated ones alone and both."""
    kinds = [(kind, name, ratio) for name in job["sets"] for kind in (SYNTHETIC, MIXED) for ratio in job["ratios"]]
    return [Arm(REAL), *(Arm(*each) for each in kinds)]


def trainings(root: Path, job: Mapping[str, Any], num_train: int, split_seed: int) -> list[Training]:
    """Every cell, those of one seed together, so that a study that is stopped has whole seeds.

    Args:
        num_train: real training images that there are.
        split_seed: by which patients are split, in every cell: the generator's.
    """
    found = []
    for seed in job["seeds"]:
        for architecture in job["architectures"]:
            for budget in job["budgets"]:
                for arm in arms(job):
                    number = num_train if budget is None else budget
                    parts = [arm.kind, *([f"{arm.dataset}x{arm.ratio}"] if arm.dataset else [])]
                    parts += ["all" if budget is None else str(budget), architecture, f"seed{seed}"]
                    name = safe_name("_".join(parts), "a cell of job.sets and job.architectures")
                    words = [EXPERIMENT, *job["real"], *job["common"], f"model.network.architecture={architecture}"]
                    words += [f"seed={seed}", f"data.seed={split_seed}", *words_of(arm, job, budget, number)]
                    cell = Cell(root / "cells" / name, tuple(words))
                    found.append(Training(arm, budget, number, architecture, seed, cell))
    return found


def words_of(arm: Arm, job: Mapping[str, Any], budget: int | None, number: int) -> list[str]:
    """The words that say which images a cell learns from; `number` is the budget as a number."""
    real = [] if budget is None or arm.kind == SYNTHETIC else [f"data.num_train={budget}"]
    if arm.kind == REAL:
        return real
    return [
        *real,
        "mix=synthetic",
        f"data.synthetic.root={quoted(job['sets'][arm.dataset])}",
        f"data.synthetic.ratio={float(arm.ratio) if arm.kind == MIXED else 'inf'}",
        f"data.synthetic.num_images={arm.ratio * number}",
        f"data.synthetic.accepted={str(arm.dataset in job['gated']).lower()}",
    ]


def check_job(job: Mapping[str, Any]) -> None:
    """See that there is something of everything, once each, that numbers count, and that no word is the study's own.

    Raises:
        UserError: it is not so; names the key, the value and the remedy.
    """
    for name in (*LISTS, "sets"):
        values = list(job[name])
        if not values:
            raise UserError(f"job.{name} is empty: name one at least.")
        if twice := [value for value in values if values.count(value) > 1]:
            raise UserError(f"job.{name} holds {'null' if twice[0] is None else twice[0]} twice: name it once.")
    for name, values in {"budgets": [b for b in job["budgets"] if b is not None], "ratios": job["ratios"]}.items():
        for value in values:
            if type(value) is not int or value < 1:
                also = ", or null for all of them" if name == "budgets" else ""
                raise UserError(f"job.{name} holds {value!r}, and must hold whole numbers of at least 1{also}.")
    if strange := [name for name in job["gated"] if name not in job["sets"]]:
        raise UserError(f"job.gated names {strange[0]!r}, which is none of job.sets: {', '.join(job['sets'])}.")
    if not job["real"]:
        raise UserError("job.real is empty: name the real data, \"job.real=['data=kvasir_seg','data.root=<folder>']\".")
    for key in ("real", "common"):
        for word in job[key]:
            if word.lstrip("+~").startswith(OURS):
                raise UserError(
                    f"job.{key} holds {word}, which the study sets in each cell. Remedy: leave it out; job.seeds, "
                    "job.budgets, job.ratios, job.architectures and job.sets say what cells there are, and seed how "
                    "patients are split."
                )
