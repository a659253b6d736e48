"""`+exp=dataset_export`: a synthetic set as files: in SynFundus-1M's layout, or as a folder of images with a table."""

import json
from pathlib import Path
from typing import Any

from callbacks.files import refuse_link, remove_unfinished, write_text
from datamodules.errors import UserError
from datamodules.files import read_json
from datamodules.synthetic import SyntheticSet
from datamodules.synthetic.set import is_begun
from experiments.export.layouts import LAYOUTS, Layout, layout_named
from experiments.export.pictures import Written, write_pictures
from experiments.export.tables import write_tables
from experiments.report import heading, say
from experiments.session import Run

OWN_FOLDERS = ("images", "Part*")  # that layouts write into
MARK = "export.json"  # of which set and which layout the files of a folder are


def dataset_export(run: Run) -> dict[str, float]:
    """Write the set `cfg.job.dataset` into `cfg.output_dir`; what is there whole stays. Returns what the record keeps.

    Raises:
        ValueError: weights are given; a format that there is not; a set that is not complete, or has no filter where
            accepted images alone are wanted; a folder that holds something else.
        FileNotFoundError: no set at `cfg.job.dataset`.
    """
    run.refuse_weights()
    job, output_dir = run.job, run.output_dir
    layout, dataset = layout_named(job["format"]), SyntheticSet(Path(job["dataset"]).expanduser())
    check(dataset, job["only_accepted"])
    annotations = dataset.annotations
    claim(output_dir, layout, dataset, job["only_accepted"])
    with run.recorded() as record:
        written = write_pictures(dataset, layout, output_dir, job["only_accepted"], job["num_workers"])
        tables = write_tables(dataset, annotations, layout, output_dir, job["only_accepted"])
        metrics = {"export/num_written": float(written.num_new), "export/num_there": float(written.num_there)}
        record.finish("finished", metrics)
    say(summary(written, tables, layout, output_dir))
    run.end()
    return metrics


def check(dataset: SyntheticSet, only_accepted: bool) -> None:
    """See that the set is whole, and that it can be told which images are accepted where that is asked.

    Raises:
        ValueError: it is not, or cannot.
    """
    _ = dataset.manifest
    dataset.check_shards()
    if only_accepted and not dataset.recipe.get("filter"):
        raise UserError(
            f"job.only_accepted=true, but {str(dataset.root)!r} was made without a filter: nothing says which images "
            "are accepted. Leave it out, and all images are written."
        )


def claim(output_dir: Path, layout: Layout, dataset: SyntheticSet, only_accepted: bool) -> None:
    """Take a folder for this set in this layout: a new one, or one that such an export began; clear what it left.

    Raises:
        ValueError: the folder is that of a set, holds another export, files of which it cannot be told what of, or
            links in the place of its own folders.
    """
    if is_begun(output_dir) or output_dir.resolve().is_relative_to(dataset.root.resolve()):
        raise UserError(f"output_dir={output_dir} is the folder of a synthetic set, or in it: give another.")
    folders = [folder for name in OWN_FOLDERS for folder in output_dir.glob(name)]
    for folder in folders:
        refuse_link(folder)
    mark = _mark(layout, dataset, only_accepted)
    path = output_dir / MARK
    if path.is_file():
        there = read_json(path, remedy="give another output_dir")
        differing = [f"{key} {there.get(key)!r} instead of {value!r}" for key, value in mark.items()
                     if there.get(key) != value]  # fmt: skip
        if differing:
            raise UserError(f"output_dir={output_dir} holds another export ({'; '.join(differing)}): give another.")
        for folder in folders:
            remove_unfinished(folder)
        return
    foreign = sorted(
        file.name for any in LAYOUTS.values() for pattern in any.owned for file in output_dir.glob(pattern)
    )
    if foreign:
        raise UserError(
            f"output_dir={output_dir} holds {foreign[0]!r}, and no {MARK} says of which set: give an empty folder."
        )
    write_text(path, json.dumps(mark, indent=2) + "\n")


def _mark(layout: Layout, dataset: SyntheticSet, only_accepted: bool) -> dict[str, Any]:
    return {
        "format": layout.name,
        "set": dataset.id_prefix.rstrip("-"),
        "num_images": dataset.num_images,
        "weights": dataset.recipe["generator"]["weights"],
        "plan": dataset.recipe["plan"]["fingerprint"],
        "only_accepted": only_accepted,
    }


def summary(written: Written, tables: list[Path], layout: Layout, output_dir: Path) -> str:
    """What was written, and how it is read again."""
    data = "synfundus1m" if layout.name == "synfundus1m" else "csv"
    table = f" data.table={layout.tables['condition']}" if data == "csv" else ""
    lines = {
        "images": f"{written.num_new} written, {written.num_there} were there",
        "tables": " ".join(str(path) for path in tables),
        "read it again": f"data={data} data.root={output_dir}{table}",
    }
    return "\n".join([heading("export"), *(f"  {name + ':':<16}{line}" for name, line in lines.items())])
