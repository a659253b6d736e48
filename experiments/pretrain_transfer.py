"""`+exp=pretrain_transfer`: does pretraining on synthetic images help? Cell by cell, against the other starts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from callbacks.files import write_atomically, write_text
from datamodules.errors import UserError
from datamodules.files import write_csv
from experiments.backbone_names import spelt_out
from experiments.cells import Cell, check, run_all
from experiments.composition import compose_config
from experiments.known_keys import locate
from experiments.launch import WorldInfo
from experiments.metric_directions import direction_of
from experiments.report import say
from experiments.reports.render import render
from experiments.session import Run
from experiments.transfer.cells import SYNTHETIC, FineTuning, fine_tunings, pretraining
from experiments.transfer.outcome import (
    Outcome,
    check_metric,
    differences,
    figure,
    outcomes,
    pretraining_facts,
    rows,
    table,
)


def pretrain_transfer(run: Run) -> dict[str, float]:
    """Pretrain each backbone on the source, fine-tune every cell on the target, and compare; returns the means.

    A cell that is finished is not run again, and one that was stopped goes on: the same command plus resume=auto.

    Raises:
        ValueError: settings that mean nothing; a cell that failed: the others are kept, and resume=auto goes on.
    """
    cfg, output_dir, job = run.cfg, run.output_dir, run.job
    if WorldInfo.here().size > 1:
        raise UserError(
            "pretrain_transfer runs each cell in a process of its own, and was started as several. Remedy: start it "
            "once, without torchrun or srun."
        )
    check_metric(job["metric"])
    direction_of(job["curve"], "job.curve", "a metric of classifier_train; compare_runs compares the cells by others")
    check_lists(job)
    tunings = fine_tunings(output_dir, job)
    pretrainings = {backbone: pretraining(output_dir, job, backbone) for backbone in job["backbones"]}
    check([*pretrainings.values(), *(tuning.cell for tuning in tunings)])
    unavailable = starts_that_cannot_be_had(tunings)
    for name, reason in unavailable.items():
        say(f"not available, left out: {name}: {reason}")
    with run.recorded() as record:
        record.record["unavailable"] = unavailable
        if SYNTHETIC in job["inits"]:
            run_all(list(pretrainings.values()), "pretraining", cfg.cache_dir)
        wanted = [t for t in tunings if f"{t.backbone}/{t.init}" not in unavailable]
        if not wanted:
            raise UserError(f"no start of job.inits={job['inits']} can be had: {next(iter(unavailable.values()))}")
        run_all([tuning.cell for tuning in wanted], "fine-tuning", cfg.cache_dir)
        found = outcomes(tunings, unavailable, job["metric"])
        write(found, job, pretrainings, unavailable, output_dir)
        compare(wanted, job, output_dir)
        metrics = means(found)
        record.finish("finished", metrics)
    say(f"{job['metric']}, mean over seeds ± standard deviation (seeds).\n\n{table(found)}")
    say(f"table:        {output_dir / 'transfer.md'}\nfigure:       {output_dir / 'transfer.png'}")
    run.end()
    return metrics


def check_lists(job: Mapping[str, Any]) -> None:
    """See that there is something of everything, that budgets are shares, and that starts are named as such.

    Raises:
        ValueError: an empty list, a budget outside (0, 1], a file of weights among the words of all cells.
    """
    for name in ("backbones", "inits", "budgets", "seeds"):
        if not job[name]:
            raise UserError(f"job.{name} is empty: name one at least.")
    for budget in job["budgets"]:
        if not 0 < budget <= 1:
            raise UserError(f"job.budgets holds {budget}, and must be shares of the training patients in (0, 1].")
    for word in [*job["common"], *job["finetune"]]:
        if word.startswith(("model.init.", "model/init")):
            raise UserError(
                f"{word} would be the start of every cell, whatever the table calls it. Remedy: name such a start, "
                "+job.init_paths.retfound=FILE job.inits=[random,synthetic,retfound]."
            )


def starts_that_cannot_be_had(tunings: Sequence[FineTuning]) -> dict[str, str]:
    """Of each backbone and start that is not made by this study, why its weights cannot be had; tried once each."""
    found: dict[str, str] = {}
    for tuning in tunings:
        name = f"{tuning.backbone}/{tuning.init}"
        if tuning.init in (SYNTHETIC, "random") or name in found:
            continue
        cfg = compose_config(spelt_out(tuning.cell.command))
        try:
            instantiate(cfg.model.init)(instantiate(cfg.model.backbone))
            found[name] = ""
        except (ValueError, FileNotFoundError) as error:
            found[name] = str(error)
    return {name: reason for name, reason in found.items() if reason}


def write(
    found: Sequence[Outcome], job: Mapping[str, Any], pretrainings: Mapping[str, Cell], unavailable: Mapping[str, str],
    output_dir: Path,
) -> None:  # fmt: skip
    """transfer.csv, transfer.md, transfer.png, and the same for TensorBoard."""
    write_csv(output_dir / "transfer.csv", rows(found))
    text = render(
        "transfer.md.j2", metric=job["metric"], inits=job["inits"], SYNTHETIC=SYNTHETIC, means=table(found),
        differences=differences(found, SYNTHETIC), unavailable=unavailable,
        pretraining={name: pretraining_facts(cell.folder) for name, cell in pretrainings.items()},
    )  # fmt: skip
    write_text(output_dir / "transfer.md", text)
    picture = figure(found, job["metric"])
    write_atomically(output_dir / "transfer.png", Image.fromarray(picture).save)
    with SummaryWriter(str(output_dir / "tensorboard")) as board:
        board.add_image("transfer", picture, dataformats="HWC")
        board.add_text("transfer", text)


def compare(wanted: Sequence[FineTuning], job: Mapping[str, Any], output_dir: Path) -> None:
    """Learning curves and paired tests of the cells of the largest budget, by compare_runs."""
    largest = max(tuning.budget for tuning in wanted)
    folders = [str(tuning.cell.folder) for tuning in wanted if tuning.budget == largest]
    cfg = compose_config(["+exp=compare_runs", f"job.metric={job['curve']}"])
    cfg.job.runs, cfg.output_dir = folders, str(output_dir / "comparison")
    locate(cfg.job._target_)(Run(cfg))


def means(found: Sequence[Outcome]) -> dict[str, float]:
    """Mean over seeds of each backbone, start and budget."""
    keys = dict.fromkeys((outcome.backbone, outcome.init, outcome.budget) for outcome in found)
    values = {}
    for backbone, init, budget in keys:
        mine = [o.value for o in found if (o.backbone, o.init, o.budget) == (backbone, init, budget)]
        known = [value for value in mine if value == value]
        if known:
            values[f"transfer/{backbone}_{init}_{100 * budget:03g}"] = sum(known) / len(known)
    return values
