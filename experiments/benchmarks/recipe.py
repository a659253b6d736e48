"""`job.case=recipe`: two experiments that train a generator, by wall time: how soon one is as good as the other.

Each is run for each seed, one after the other, in a process of its own, in `cells/<arm>_seed<n>`. The time of a run is
that of its whole process without measuring: starting, training its own autoencoder (each run has a `cache_dir` of its
own), encoding, label maps, training, validation losses and checkpoints. Measuring is what `frechet.csv` and
`agreement.csv` say that each measurement took. Photographs are read, or phantoms drawn, before the first run of a seed,
and both arms take them from one cache: that is in no run's time. Sample grids, which the default of `job.common` leaves
out, count where they are drawn. An arm that measures no agreement is given the other's measurement.

With `resume=auto` a run that has finished is not run again; one that was stopped begins anew, for its time would
have a gap.
"""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from PIL import Image

from callbacks.files import refuse_link, write_atomically, write_text
from callbacks.locks import alone
from datamodules.errors import UserError
from datamodules.files import read_json
from experiments.assembly import build_datamodule, plain
from experiments.benchmarks.common import FILE, machine_and_code, write_figures
from experiments.benchmarks.recipe_outcome import ARMS, Outcome, figure, read_outcome, rows, summary, table
from experiments.cells import Cell, check, run
from experiments.composition import compose_config
from experiments.launch import WorldInfo
from experiments.report import heading, say
from experiments.runs import differing_keys
from experiments.session import Run
from experiments.typed_text import quoted

CLOCK = "clock.json"  # of a finished run: when its process began, and how many seconds it took
TIMES = {"started": float, "seconds": float}
ALIKE = ("data.image_size", "data.source", "data.synthetic", "data.module._target_", "data.train_fraction",
         "data.fractions", "data.duplicates", "callbacks.frechet.guidance",
         *(f"callbacks.{name}.{key}" for name in ("frechet", "agreement")
           for key in ("num_images", "num_real", "seed", "extractor", "reference_split")))  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """A run of the comparison: `ours` or `theirs`, with which seed, and its folder and words."""

    name: str
    seed: int
    cell: Cell

    @property
    def clock(self) -> Path:
        """The file that says when it ran; written once it has finished."""
        return self.cell.folder / CLOCK

    @property
    def done(self) -> bool:
        """Whether it has finished, and how long it took is known."""
        return self.cell.status == "finished" and self.clock.is_file()


def compare_recipes(run: Run) -> dict[str, float]:
    """Run both arms for each seed and compare them; writes benchmark.json, benchmark.md and benchmark.png.

    Raises:
        ValueError: settings that mean nothing, arms that are not measured alike; a run that failed: those that have
            finished are kept, and resume=auto goes on.
    """
    output_dir, job = run.output_dir, run.job
    if WorldInfo.here().size > 1:
        raise UserError(
            "job.case=recipe runs each arm in a process of its own, and was started as several. Remedy: start it once, "
            "without torchrun or srun."
        )
    found = arms(output_dir, job, run.cfg.cache_dir)
    check([arm.cell for arm in found])
    check_alike(found)
    with run.recorded() as record:
        for number, arm in enumerate(found, 1):
            said = "done before" if arm.done else f"see {arm.cell.folder}"
            say(f"run {number}/{len(found)}: {arm.cell.name} ({job[arm.name]}), {said}")
            run_arm(arm)
        outcomes = [read_outcome(arm.cell.folder, arm.name, arm.seed, **clock(arm)) for arm in found]
        metrics = write(outcomes, job, output_dir)
        record.finish("finished", metrics)
    say("\n".join([heading("done"), table(outcomes, job), f"table:        {output_dir / 'benchmark.md'}",
                   f"figure:       {output_dir / 'benchmark.png'}", f"everything:   {output_dir / FILE}"]))  # fmt: skip
    return metrics


def arms(root: Path, job: Mapping[str, Any], cache_dir: str) -> list[Arm]:
    """The runs, both arms of a seed one after the other; images come from `cache_dir`.

    Raises:
        ValueError: no seeds.
    """
    if not job["seeds"]:
        raise UserError("job.seeds is empty: name one at least.")
    found, agreement = [], agreement_words(job)
    for seed in dict.fromkeys(job["seeds"]):
        for name in ARMS:
            words = (f"+exp={job[name]}", *agreement[name], *job["common"], f"seed={seed}",
                     f"data.cache_dir={quoted(cache_dir)}")  # fmt: skip
            found.append(Arm(name, seed, Cell(root / "cells" / f"{name}_seed{seed}", words)))
    return found


def agreement_words(job: Mapping[str, Any]) -> dict[str, list[str]]:
    """Words that let an arm without an agreement measure it as the other does, as often as its own distance."""
    others = [word for word in job["common"] if not word.lstrip("+~").startswith("callbacks.agreement")]
    callbacks = {name: compose_config([f"+exp={job[name]}", *others]).callbacks for name in ARMS}
    words: dict[str, list[str]] = {}
    for name, other in zip(ARMS, ARMS[::-1], strict=True):
        own, theirs, words[name] = callbacks[name], callbacks[other].get("agreement"), []
        if own.get("agreement") is None and theirs is not None and own.get("frechet") is not None:
            node = OmegaConf.to_container(theirs) | {"every_n_epochs": own.frechet.every_n_epochs}
            words[name] = [f"callbacks.agreement={literal(node)}"]
    return words


def literal(value: Any) -> str:
    """A value in plain containers as Hydra's command line has it."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(literal, value)) + "]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def check_alike(found: Sequence[Arm]) -> None:
    """See that both arms learn from the same data and are measured alike.

    Raises:
        ValueError: they differ; no Fréchet distance is measured.
    """
    ours, theirs = (plain(compose_config(arm.cell.command)) for arm in found[:2])
    for arm, config in zip(found, (ours, theirs), strict=False):
        if config["callbacks"].get("frechet") is None:
            raise UserError(
                f"{arm.cell.words[0]} measures no Fréchet distance. Remedy: an experiment with callbacks.frechet."
            )
    differing = [
        key for key in differing_keys(ours, theirs) if any(f"{key}.".startswith(f"{alike}.") for alike in ALIKE)
    ]
    if differing:
        raise UserError(
            f"the two arms differ in {', '.join(differing[:4])}: their figures could not be compared. Remedy: give one "
            f"value to both, job.common=['{differing[0]}=VALUE']."
        )


def run_arm(arm: Arm) -> None:
    """Run it from its start, unless it is done; images are read before its clock starts."""
    folder = arm.cell.folder
    refuse_link(folder)
    if arm.done:
        return
    if folder.exists():
        with alone(folder, "wait until that run has ended, or stop it"):
            shutil.rmtree(folder)
    build_datamodule(compose_config(arm.cell.command)).prepare_data()
    started = time.time()
    run(arm.cell, str(folder / "cache"))
    write_text(arm.clock, json.dumps({"started": started, "seconds": time.time() - started}) + "\n")


def clock(arm: Arm) -> dict[str, float]:
    """Unix time at which its process was started, and its seconds."""
    told = read_json(arm.clock, TIMES, f"delete {arm.cell.folder}, and it is run again")
    return {name: told[name] for name in TIMES}


def write(outcomes: Sequence[Outcome], job: Mapping[str, Any], output_dir: Path) -> dict[str, float]:
    """benchmark.json, benchmark.md, benchmark.png; returns the median of the share of their time that ours needs."""
    found = summary(outcomes)
    facts = {name: job[name] for name in (*ARMS, "common", "seeds")}
    everything = {"case": "recipe", **facts, "summary": found, "runs": rows(outcomes), **machine_and_code()}
    write_figures(output_dir, everything)
    write_text(output_dir / "benchmark.md", f"# Two recipes by wall time\n\n{table(outcomes, job)}\n")
    write_atomically(output_dir / "benchmark.png", Image.fromarray(figure(outcomes, job)).save)
    share = found["share_of_their_time"]
    return {} if share is None else {"benchmark/share_of_their_time": share["median"]}
