"""`+exp=export_model`: a checkpoint as a folder for diffusers, or for timm and ONNX, compared with the original."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from callbacks.files import whole_folder, write_text
from callbacks.run_record import package_versions
from datamodules.errors import UserError
from experiments.model_export.agreement import Comparison, check
from experiments.model_export.card import Model, card
from experiments.model_export.code_licence import write_licence
from experiments.model_export.kinds import AVERAGED, RAW, export_of
from experiments.model_export.samples import write_samples
from experiments.model_export.training import level_counts
from experiments.report import heading, parameters_text, say
from experiments.reports.cards import check_licence
from experiments.session import Run
from lightning_modules.checkpoint import best_of_run, load_state
from lightning_modules.names import check_name

FOLDER, REPORT, CARD = "model", "export.json", "README.md"


def export_model(run: Run) -> dict[str, float]:
    """Write `model/` into the run's folder, if it gives what the original gives; returns what the record keeps.

    Raises:
        ValueError: settings that mean nothing, a checkpoint that cannot be exported, a bound that does not hold.
        FileNotFoundError: no such checkpoint.
    """
    output_dir, job = run.output_dir, check_job(run)
    path = best_of_run(run.cfg.ckpt)
    export = export_of(path, load_state(path), job["weights"], job["onnx"], job["trusted"])
    say(heading(f"{export.model.kind}, {export.model.weights} weights of {path}"))
    with run.recorded() as record, whole_folder(output_dir / FOLDER) as folder:
        networks = export.write(folder)
        say(parameters_text(networks))
        say(heading("the folder against the original, in a process that has only the folder"))
        comparisons = export.compare(folder)
        say("\n".join(map(str, comparisons)))
        check(comparisons)
        if export.model.kind == "generator":
            write_samples(folder, export.model.findings, level_counts(export.model.state))
        write_licence(folder)
        text = card(export.model, networks, comparisons, folder, job["license"], job["title"])
        write_text(folder / CARD, text)
        write_text(output_dir / REPORT, report(export.model, path, comparisons))
        metrics = {"export/largest_difference": max(one.largest_difference for one in comparisons)}
        record.finish("finished", metrics)  # before the folder is there: killed in between it is made again
    run.end(metrics)
    say(f"model:        {output_dir / FOLDER}   ({CARD} there says how to use it)")
    return metrics


def check_job(run: Run) -> dict[str, Any]:
    """The settings of the job in plain containers.

    Raises:
        ValueError: one that means nothing; a folder that holds a model.
    """
    if run.checkpoint:
        raise UserError("export_model trains nothing: leave resume out, and name the checkpoint by ckpt=<path>.")
    if not run.cfg.ckpt:
        raise UserError(
            "ckpt is not given: name a checkpoint of ddpm_train, vae_train or classifier_train, or the folder of such "
            "a run, whose best one is taken, as in ckpt=runs/ddpm_train/<date>_<time>."
        )
    job = run.job
    check_name("job.weights", job["weights"], (AVERAGED, RAW))
    check_licence(job["license"])
    there = run.output_dir / FOLDER
    if there.exists():
        raise UserError(
            f"{there} is there already, and is not written over. Remedy: move it away, or give another output_dir."
        )
    return job


def report(model: Model, path: Path, comparisons: Sequence[Comparison]) -> str:
    """What was exported, and how far it is from the original."""
    told = {
        "kind": model.kind,
        "ckpt": str(path),
        "weights": model.weights,
        "fingerprint": model.fingerprint,
        "versions": package_versions(),
        "comparisons": [comparison.plain() for comparison in comparisons],
    }
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"
