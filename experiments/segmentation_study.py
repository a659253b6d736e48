"""`+exp=segmentation_study`: do generated pairs of image and mask help to train segmenters? Cell by cell."""

from collections.abc import Mapping
from typing import Any

from callbacks.run_record import code_words
from datamodules.errors import UserError
from datamodules.fundus import FundusDataModule
from experiments.cells import Cell, check, run_all
from experiments.decoded import read_all
from experiments.launch import WorldInfo
from experiments.report import heading, say
from experiments.reports.render import markdown_table
from experiments.segmentation.cells import Training, check_job, trainings
from experiments.segmentation.materials import Materials, look
from experiments.segmentation.outcome import cell_rows, results
from experiments.segmentation.page import tables, write
from experiments.segmentation.testing import measure_on
from experiments.session import Run


def segmentation_study(run: Run) -> dict[str, float]:
    """Train a segmenter for each cell, test all on the same images, and compare; returns Dice and IoU of each arm.

    A cell that is finished is not run again, and one that was stopped goes on: the same command plus resume=auto.

    Raises:
        UserError: settings that mean nothing or data that do not fit; a cell that failed: the others are kept.
    """
    run.refuse_weights()
    if WorldInfo.here().size > 1:
        raise UserError(
            "segmentation_study runs each cell in a process of its own, and was started as several. Remedy: start it "
            "once, without torchrun or srun."
        )
    cfg, job = run.cfg, run.job
    check_job(job)
    if job["num_replicates"] < 0:
        raise UserError(f"job.num_replicates={job['num_replicates']} must be at least 0; 0 gives no intervals.")
    materials = look(job, cfg)
    cells = trainings(run.output_dir, job, materials.num_train, cfg.seed)
    say(heading("study"))
    say(plan_text(cells, materials))
    check([each.cell for each in cells])
    with run.recorded() as record:
        tests = {name: opened(name, test, run) for name, test in materials.tests.items()}

        def measured(cell: Cell) -> None:
            for name, test in tests.items():
                measure_on(cell, name, test, materials.levels, run.device)

        run_all([each.cell for each in cells], "training", cfg.cache_dir, measured)
        found = results(cells, list(tests), job["num_replicates"], cfg.seed)
        facts, rows = facts_of(job, cells, materials), cell_rows(cells, list(tests))
        write(run.output_dir, found, rows, facts, run.command, code_words(record.record["code"]))
        metrics = {
            f"{each.test}/{metric}/{each.architecture}/{each.arm}/{each.num_real}": one.value
            for each in found
            for metric, one in each.figures.items()
        }
        record.finish("finished", metrics)
    for part in tables(found):
        say(f"{part.title}\n\n{markdown_table(part.header, part.rows)}\n")
    say(f"page:         {run.output_dir / 'study.html'}")
    run.end()
    return metrics


def plan_text(cells: list[Training], materials: Materials) -> str:
    """How many cells there are, of what, and what is done already."""
    done = sum(each.cell.status == "finished" for each in cells)
    lines = [
        f"{len(cells)} segmenters are trained, each in {materials.num_steps:,} steps of {materials.batch_size} images "
        f"at {materials.image_size} px, one after the other; {done} are done before.",
        f"{materials.num_train} real training images; levels: {', '.join(materials.levels)}",
    ]
    return "\n".join([*lines, "how long it takes is said after the first of them"])


def opened(name: str, datamodule: FundusDataModule, run: Run) -> FundusDataModule:
    """Further test data, every image read; what is rejected is listed in `tests/<name>`."""
    say(f"reading the test data {name!r}")
    read_all(datamodule, run.output_dir / "tests" / name)
    return datamodule


def facts_of(job: Mapping[str, Any], cells: list[Training], materials: Materials) -> dict[str, Any]:
    """What study.json says of the study besides its results."""
    return {name: value for name, value in job.items() if name != "_target_"} | {
        "num_cells": len(cells), "num_steps": materials.num_steps, "batch_size": materials.batch_size,
        "image_size": materials.image_size, "num_train": materials.num_train, "levels": list(materials.levels),
    }  # fmt: skip
