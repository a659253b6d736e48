"""`+exp=inspect_data`: what to look at before training: counts, rejected files, duplicates, images of every finding."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from callbacks.files import write_atomically, write_text
from callbacks.run_record import RunRecord, code_words
from datamodules.dataset import RowsOf
from datamodules.duplicate_report import DuplicateReport, found_among
from datamodules.errors import UserError
from datamodules.fundus import FundusDataModule
from datamodules.likeness import SIDE
from datamodules.manifest import Manifest
from experiments.assembly import build_datamodule
from experiments.decoded import decoded_rows, read_all
from experiments.inspection.page import MOST_PAIRS, Inspection, Sheet, page
from experiments.inspection.pictures import (
    contact_sheet,
    cooccurrence_plot,
    masked_pictures,
    row_pictures,
    sheet_rows,
    shown,
    with_legend,
)
from experiments.inspection.tables import (
    cooccurrence,
    counts_text,
    level_counts,
    source_facts,
    write_counts,
)
from experiments.report import data_text, heading, say
from experiments.session import Run
from experiments.training import describe_data


def inspect_data(run: Run) -> dict[str, float]:
    """Read every image of `cfg.data`, and write what there is as tables, pictures and a page; returns the counts.

    Raises:
        ValueError: weights are given, or a number of columns below 1.
    """
    run.refuse_weights()
    cfg, output_dir = run.cfg, run.output_dir
    if cfg.job.num_columns < 1:
        raise UserError(f"job.num_columns={cfg.job.num_columns}: a row of images needs at least 1.")
    datamodule = build_datamodule(cfg)
    say(heading("data, by the index"))
    with heard() as warnings, run.recorded() as record:
        indexed = datamodule.preview()
        say(data_text(indexed))
        datamodule.max_rejected = indexed["num_images"]  # they are put up with, and listed
        datamodule.duplicates = "ignore" if why_not_compared(run, datamodule) else "report"
        read_all(datamodule, output_dir)
        describe_data(datamodule, output_dir)
        record.record["fingerprints"] = {"data": datamodule.fingerprint, "split": datamodule.split_fingerprint}
        found = look(run, datamodule, record, list(dict.fromkeys(warnings)))
        write(found, output_dir)
        metrics = numbers(found)
        record.finish("finished", metrics)
    say(summary(found, output_dir))
    run.end()
    return metrics


@contextmanager
def heard() -> Iterator[list[str]]:
    """What the data say in the log while this lasts."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("datamodules")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


def look(run: Run, datamodule: FundusDataModule, record: RunRecord, warnings: Sequence[str] = ()) -> Inspection:
    """All that the page shows."""
    cfg = run.cfg
    manifest = datamodule.manifest
    seen, images, masks = decoded_rows(datamodule)
    why_no_pairs = why_not_compared(run, datamodule)
    copies = datamodule.copies
    if copies is None and not why_no_pairs:  # a stream looks at none of its images before it is trained on
        copies = found_among(images, seen)
    return Inspection(
        name=datamodule.source.name,
        image_size=datamodule.image_size,
        manifest=manifest,
        seen=seen,
        rejected=datamodule.rejected,
        facts=source_facts(datamodule.source),
        counts=level_counts(manifest),
        copies=copies,
        why_no_pairs=why_no_pairs,
        pair_pictures=pair_pictures(copies, images),
        sheets=sheets(
            seen, images, masks, getattr(datamodule.source, "mask_levels", ()), cfg.seed, cfg.job.num_columns
        ),
        cooccurrence=cooccurrence_plot(cooccurrence(manifest.labels)),
        origin=origin(run, record),
        warnings=warnings,
    )


def why_not_compared(run: Run, datamodule: FundusDataModule) -> str:
    """Why nobody looks for duplicates; "" where somebody does."""
    if not run.cfg.job.find_duplicates:
        return "job.find_duplicates=false"
    if datamodule.image_size < SIDE:
        return f"images are compared at {SIDE} px or more, and data.image_size={datamodule.image_size}"
    return ""


def pair_pictures(copies: DuplicateReport | None, images: RowsOf) -> list[np.ndarray]:
    """The first pairs of duplicates, uint8 [2, s, s, 3] each."""
    pairs = () if copies is None else copies.pairs[:MOST_PAIRS]
    return [np.stack([shown(image) for image in images[list(pair[:2])]]) for pair in pairs]


def sheets(
    seen: Manifest, images: RowsOf, masks: RowsOf | None, levels: Sequence[str], seed: int, num_columns: int
) -> list[Sheet]:
    """Images of every level, and where the source has masks those of them that have one, outlined."""
    labels, sources = seen.labels, seen.table.column("source").to_pylist()
    rows = sheet_rows(labels, seed, num_columns, sources=sources)
    found = [Sheet(rows, [row_pictures(row.rows, images) for row in rows])]
    if masks is not None:
        has_mask = np.array([mask != "" for mask in seen.table.column("mask").to_pylist()])
        rows = sheet_rows(labels, seed, num_columns, has_mask, sources)
        if rows:
            found.append(Sheet(rows, [masked_pictures(row.rows, images, masks, len(levels)) for row in rows], levels))
    return found


def origin(run: Run, record: RunRecord) -> dict[str, str]:
    """What the page says of how it came about: command, seed, fingerprints, code and versions."""
    versions = record.record["versions"]
    return {
        "command": run.command,
        "seed": str(run.cfg.seed),
        **{f"fingerprint of the {name}": value for name, value in record.record["fingerprints"].items()},
        "code": code_words(record.record["code"]),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "started": record.record["sessions"][-1]["start"],
    }


def write(found: Inspection, output_dir: Path) -> None:
    """Tables, pictures, the page, and the same for TensorBoard."""
    write_counts(output_dir / "counts.csv", found.counts)
    if found.copies is not None:
        found.copies.write(output_dir / "duplicates.csv")
    pictures = {"cooccurrence": found.cooccurrence}
    for part in found.sheets:
        columns = max(map(len, part.pictures))
        drawn = contact_sheet(part.rows, part.pictures, columns)
        if part.levels:
            pictures["contact_sheet_masks"] = with_legend(drawn, part.levels)
        else:
            pictures["contact_sheet"] = drawn
    with SummaryWriter(str(output_dir / "tensorboard")) as board:
        for name, picture in pictures.items():
            write_atomically(output_dir / f"{name}.png", Image.fromarray(picture).save)
            board.add_image(f"data/{name}", picture, dataformats="HWC")
        board.add_text("data/counts", counts_text(found.counts))
    write_text(output_dir / "report.html", page(found))


def numbers(found: Inspection) -> dict[str, float]:
    """What the record keeps; duplicates only where somebody looked for them."""
    counts = {"images": len(found.manifest), "patients": found.manifest.num_patients, "rejected": len(found.rejected)}
    if found.copies is not None:
        counts["duplicates"] = len(found.copies.pairs)
        counts["duplicates_across_splits"] = sum(pair.crosses_splits for pair in found.copies.pairs)
    return {f"data/num_{name}": float(number) for name, number in counts.items()}


def summary(found: Inspection, output_dir: Path) -> str:
    """What was found, and where it is to be seen."""
    duplicates = str(found.copies or f"not looked for: {found.why_no_pairs}")
    differing = [f"{fact.title or fact.name} ({len(fact.differences)})" for fact in found.facts if fact.differences]
    lines = {
        "images": f"{len(found.manifest)} of {found.manifest.num_patients} patients, {len(found.rejected)} rejected",
        "duplicates": duplicates,
        "unlike the published counts": ", ".join(differing) or "none",
        "pictures": " ".join(str(path) for path in sorted(output_dir.glob("*.png"))),
        "tables": " ".join(str(path) for path in sorted(output_dir.glob("*.csv"))),
        "report": str(output_dir / "report.html"),
    }
    return "\n".join([heading("what there is"), *(f"  {name + ':':<30}{line}" for name, line in lines.items())])
