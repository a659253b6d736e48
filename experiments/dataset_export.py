"""`+exp=dataset_export`: a synthetic set as files: images with tables, pairs of images and masks, or for nnU-Net."""

from pathlib import Path

from callbacks.files import write_json
from datamodules.errors import UserError
from datamodules.synthetic import SyntheticSet
from experiments.export.claims import check_set, claim, facts_of_set
from experiments.export.layouts import NNUNET, Layout, PairsLayout, layout_named
from experiments.export.masks import MaskValues, levels_of_set, pair_values
from experiments.export.nnunet_export import export_nnunet
from experiments.export.pictures import Written, write_pictures
from experiments.export.tables import write_tables
from experiments.report import heading, say
from experiments.session import Run

LEVELS = "levels.json"  # beside pairs: the grey value of each level


def dataset_export(run: Run) -> dict[str, float]:
    """Write the set `cfg.job.dataset` into `cfg.output_dir`; what is there whole stays. Returns what the record keeps.

    Raises:
        ValueError: weights are given; a format that there is not; a set that is not complete, has no masks where the
            format has some, or no filter where accepted images alone are wanted; a folder that holds something else;
            settings of another format.
        FileNotFoundError: no set at `cfg.job.dataset`.
    """
    run.refuse_weights()
    job, output_dir = run.job, run.output_dir
    if job["format"] == NNUNET:
        return export_nnunet(run)
    layout = layout_named(job["format"])
    if job["real"] or job["more_datasets"] or not job["dataset"]:
        raise UserError(
            f"job.format={layout.name} writes one synthetic set: job.dataset=<its folder>, without job.real and "
            "job.more_datasets, which are for job.format=nnunet."
        )
    dataset, values, mark = SyntheticSet(Path(job["dataset"]).expanduser()), None, {}
    check_set(dataset, job["only_accepted"])
    if isinstance(layout, PairsLayout):
        values = pair_values(levels_of_set(dataset, layout.name), job["binary_masks"])
        mark = {"binary_masks": job["binary_masks"]}
    annotations = dataset.annotations
    mark = {"format": layout.name, **facts_of_set(dataset), "only_accepted": job["only_accepted"], **mark}
    claim(output_dir, mark, [dataset])
    with run.recorded() as record:
        written = write_pictures(dataset, layout, output_dir, job["only_accepted"], job["num_workers"], values)
        tables = write_tables(dataset, annotations, layout, output_dir, job["only_accepted"])
        if values is not None:
            write_json(output_dir / LEVELS, values.facts())
        metrics = {"export/num_written": float(written.num_new), "export/num_there": float(written.num_there)}
        record.finish("finished", metrics)
    say(summary(written, tables, layout, output_dir, values))
    run.end()
    return metrics


def summary(
    written: Written, tables: list[Path], layout: Layout, output_dir: Path, values: MaskValues | None = None
) -> str:
    """What was written, and how it is read again."""
    data = "synfundus1m" if layout.name == "synfundus1m" else "csv"
    table = f" data.table={layout.tables['condition']}" if data == "csv" else ""
    lines = {
        "images": f"{written.num_new} written, {written.num_there} were there",
        "tables": " ".join(str(path) for path in tables),
        "read it again": f"data={data} data.root={output_dir}{table}",
    }
    if values is not None:
        lines["masks"] = ", ".join(f"{name} {grey}" for name, grey in values.facts()["levels"].items())
    return "\n".join([heading("export"), *(f"  {name + ':':<16}{line}" for name, line in lines.items())])
