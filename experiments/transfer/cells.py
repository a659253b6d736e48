"""The runs of a transfer study: one pretraining a backbone, then a cell for each start, budget and seed."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from callbacks.files import open_own, own_folder
from datamodules.errors import UserError
from datamodules.files import read_json, read_yaml, safe_name
from experiments.assembly import plain
from experiments.backbone_names import spelt_out
from experiments.composition import compose_config
from experiments.runs import differing_keys
from experiments.typed_text import quoted

EXPERIMENT = "+exp=classifier_train"
SYNTHETIC = "synthetic"  # the start from the pretraining of this study
LOG = "terminal.txt"


@dataclass(frozen=True)
class Cell:
    """A run of classifier_train: its folder and the words of its command, without `output_dir` and `resume`."""

    folder: Path
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.name

    @property
    def status(self) -> str:
        """That of its record; `new` where there is none."""
        record = self.folder / "record.json"
        if not record.is_file():
            return "new"
        return read_json(record, {"status": str}, f"delete {self.folder}, and the cell is run again")["status"]

    @property
    def command(self) -> list[str]:
        """The words as Hydra reads them, with the folder."""
        return [*self.words, f"output_dir={quoted(self.folder)}"]


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


def check(cells: Sequence[Cell]) -> None:
    """Compose the command of every cell, so that a misspelt word is said before the first run and not after hours.

    Raises:
        CommandError: words that mean nothing.
        ValueError: a cell that is finished was run with other settings.
    """
    for cell in cells:
        config = plain(compose_config(spelt_out(cell.command)))
        if cell.status != "finished":
            continue
        remedy = f"delete {cell.folder}, and the cell is run again"
        before = read_yaml(cell.folder / "config.yaml", {"output_dir": str}, remedy)
        changed = differing_keys(_of_the_study(config), _of_the_study(before))
        if changed:
            raise UserError(
                f"{cell.folder} is finished, and was run with another {', '.join(changed[:4])}: its figures do not "
                "belong into this table. Remedy: the settings of before, or another output_dir."
            )


def _of_the_study(config: Mapping) -> dict:
    """A cell's configuration as one of the whole folder, which moves with the cells that others begin with."""
    return {**config, "output_dir": str(Path(config["output_dir"]).parent.parent)}


def run(cell: Cell, cache_dir: str) -> str:
    """Run a cell in a process of its own, going on where an earlier one stopped; returns its status.

    What it prints goes to `terminal.txt` in its folder.

    Raises:
        ValueError: it failed; says where its messages are, and the last of them.
    """
    if cell.status == "finished":
        return "finished"
    own_folder(cell.folder.parents[1], Path(cell.folder.parent.name, cell.name))
    words = [*cell.command, f"cache_dir={quoted(cache_dir)}", "resume=auto"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SYNFUNDUS_OUTPUT")}
    environment.pop("SYNFUNDUS_RESUME_FROM", None)
    with open_own(cell.folder / LOG, "a") as log:
        done = subprocess.run(
            [sys.executable, "-m", "experiments.run", *words], stdout=log, stderr=subprocess.STDOUT, env=environment,
            check=False,
        )  # fmt: skip
    if done.returncode or cell.status != "finished":
        lines = (cell.folder / LOG).read_text(encoding="utf-8").strip().splitlines()
        said = next((line for line in reversed(lines) if line.startswith("error")), lines[-1] if lines else "nothing")
        raise UserError(f"cell {cell.name} {cell.status} ({said}). All it said: {cell.folder / LOG}")
    return cell.status
