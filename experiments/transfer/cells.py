"""The runs of a transfer study: one pretraining a backbone, then a cell for each start, budget and seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datamodules.files import safe_name
from experiments.cells import Cell
from experiments.typed_text import quoted

EXPERIMENT = "+exp=classifier_train"
SYNTHETIC = "synthetic"  # the start from the pretraining of this study


@dataclass(frozen=True)
class FineTuning:
    """A cell of the table: what its run starts from, on which share of the labels, with which seed."""

    backbone: str
    init: str
    budget: float
    seed: int
    cell: Cell


def pretraining(root: Path, job: Mapping, backbone: str) -> Cell:
    """The run on the source data whose backbone the synthetic start takes."""
    words = (EXPERIMENT, f"model/backbone={backbone}", *job["common"], f"model/init={job['pretrain_init']}",
             *job["pretrain"], f"seed={job['seeds'][0]}")  # fmt: skip
    return Cell(root / "pretraining" / safe_name(backbone, "job.backbones"), words)


def fine_tunings(root: Path, job: Mapping) -> list[FineTuning]:
    """Every cell, those of one seed together, so that a study that is stopped has whole seeds."""
    found = []
    for seed in job["seeds"]:
        for backbone in job["backbones"]:
            for budget in job["budgets"]:
                for init in job["inits"]:
                    words = [EXPERIMENT, f"model/backbone={backbone}", *job["common"], *job["finetune"]]
                    words += [f"data.train_fraction={budget}", f"seed={seed}", *start_words(root, job, backbone, init)]
                    name = f"{backbone}_{init}_{100 * budget:03g}_seed{seed}"
                    safe_name(name, "a cell of job.backbones and job.inits")
                    found.append(FineTuning(backbone, init, budget, seed, Cell(root / "cells" / name, tuple(words))))
    return found


def start_words(root: Path, job: Mapping, backbone: str, init: str) -> list[str]:
    """The words that name a start: an option of model/init, or a file of `job.init_paths`."""
    if init in job["init_paths"]:
        return ["model/init=checkpoint", f"model.init.path={quoted(job['init_paths'][init])}"]
    words = [f"model/init={init}"]
    if init == SYNTHETIC:
        words.append(f"model.init.path={quoted(pretraining(root, job, backbone).folder)}")
    return words
