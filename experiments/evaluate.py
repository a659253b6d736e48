"""`+exp=evaluate`: how near a dataset is to real images, beside how near real images are to each other."""

import math
from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate

from datamodules.errors import UserError
from experiments.assembly import build_datamodule
from experiments.composition import compose_config
from experiments.evaluation.measuring import FIGURES, Comparison, compare
from experiments.evaluation.page import HTML, cautions, how_to_read, write
from experiments.evaluation.sides import at_hand, splits_of
from experiments.evaluation.tables import Table, tables_of
from experiments.lineage import how_many_trained
from experiments.loading import load_segmenter
from experiments.report import heading, say
from experiments.session import Run
from experiments.typed_text import quoted


def evaluate(run: Run) -> dict[str, float]:
    """Compare the dataset `job.dataset` or `job.other` with the images of `data`; returns the figures.

    Raises:
        ValueError: weights are given; no dataset or two; too few images or patients; a segmenter of other masks.
    """
    run.refuse_weights()
    cfg, job = run.cfg, run.job
    splits, other_splits = splits_of(job, "split"), splits_of(job, "other_split")
    other_cfg = compose_config(other_words(job, cfg.data.image_size))
    segmenter = None if job["segmenter"] is None else load_segmenter(job["segmenter"])
    extractor = instantiate(cfg.job.extractor).to(run.device)
    with run.recorded() as record:
        most, datamodule = job["max_images"], build_datamodule(cfg)
        real = at_hand(datamodule, run.output_dir, splits, most, cfg.seed)
        other = at_hand(build_datamodule(other_cfg), run.output_dir / "compared", other_splits, most, other_cfg.seed)
        record.record["fingerprints"] = {"data": real.fingerprint, "compared": other.fingerprint}
        found = compare(real, other, extractor, segmenter, job, cfg.data.batch_size, cfg.seed)
        tables, sides = tables_of(found, job, cfg.data.image_size), (real, other)
        notes = cautions(sides, found.groups[FIGURES]["fd"]["other"].num_images)
        if segmenter is not None:
            trained_at = segmenter.config["data"]["image_size"]
            notes += dice_notes(
                *how_many_trained(datamodule, splits, job["segmenter"]), trained_at, cfg.data.image_size
            )
        write(run, record, found, tables, sides, [*notes, *how_to_read(found, segmenter is not None)], extractor.name)
        metrics = metrics_of(found)
        record.finish("finished", metrics)
    print_tables(tables)
    say("\n".join(f"note: {note}" for note in notes))
    say(f"page:         {run.output_dir / HTML}")
    run.end()
    return metrics


def other_words(job: Mapping[str, Any], image_size: int) -> list[str]:
    """The command line of the data that are compared, at the size of the real ones.

    Raises:
        ValueError: neither `dataset` nor `other` is given, or both.
    """
    if bool(job["dataset"]) == bool(job["other"]):
        raise UserError(
            "name one dataset that is compared: job.dataset=<folder of a synthetic set>, or "
            "\"job.other=['data=idrid','data.root=<folder>']\"."
        )
    words = ["data=shards", f"data.root={quoted(job['dataset'])}"] if job["dataset"] else list(job["other"])
    return ["+exp=inspect_data", *words, f"data.image_size={image_size}"]


def dice_notes(num_seen: int | None, num_patients: int, trained_at: int, image_size: int) -> list[str]:
    """Warnings where the segmenter has seen real patients, which makes their Dice too good, or images of another size.

    Args:
        num_seen: of the real side's patients those who trained the segmenter; None where that is not known.
        trained_at: pixels of the images that it was trained on.
    """
    found = []
    if num_seen is None:
        found.append("The segmenter does not say whose images trained it: the Dice of the real images may be too good.")
    elif num_seen:
        found.append(
            f"{num_seen:,} of {num_patients:,} real patients trained the segmenter: the Dice of the real images is too "
            "good. Remedy: job.split=val or test, split as for its training."
        )
    if trained_at != image_size:
        found.append(f"The segmenter was trained at {trained_at} pixels, and the images have {image_size}.")
    return found


def metrics_of(comparison: Comparison) -> dict[str, float]:
    """The figures that have a value, as `fd/other` and `fd/floor`."""
    return {
        f"{name}/{side}": one.value
        for found in comparison.groups.values()
        for name, sides in found.items()
        for side, one in sides.items()
        if math.isfinite(one.value)
    }


def print_tables(tables: list[Table]) -> None:
    """Print every table, a line a figure."""
    for table in tables:
        say(heading(table.title))
        for title, other, real, *rest in table.rows:
            apart = f"   told apart: {rest[-1]}" if rest else ""
            say(f"  {title:<30}{other:>28}   real: {real:>28}{apart}")
