"""What `evaluate` leaves: a page, Markdown, JSON and the figures, with notes on how to read them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from callbacks.files import write_atomically, write_json, write_text
from callbacks.run_record import RunRecord, code_words
from experiments.evaluation.measuring import FIGURES, MASK_DISTANCES, Comparison
from experiments.evaluation.sides import Side
from experiments.evaluation.tables import Table
from experiments.reports.render import escaped, render
from experiments.session import Run

JSON, HTML, MARKDOWN = "evaluation.json", "evaluation.html", "evaluation.md"
NOTES = (
    "The floor compares real images with real images of other patients, at the same number of images. No generator can "
    "be expected to be better than the floor.",
    "Told apart from real images: worse than the floor by more than twice the floor's deviation over the halvings. "
    "Where there is no floor: worse than the real images' own figure, and the intervals do not touch.",
    "A distance depends on the number of images and on the extractor. Compare distances only where both are the same. "
    "Only a distance on Inception's FID weights is a FID.",
    "MS-SSIM is 1 where two images are equal: less is more diverse. Noise has a low one too, so see the distances.",
    "A set that copies its training images has a good distance too. These figures do not speak of privacy.",
)
MASK_NOTES = (
    "Distances of masks are Wasserstein-1, in the unit of the property. An area is a share of the image, a perimeter "
    "is in sides of the image. Row and column are those of the centroid, from 0 (top, left) to 1. All but the share of "
    "the images that show a level are of these images alone.",
    "Of many figures a few are told apart by chance.",
)
DICE_NOTE = "Dice compares each mask with what the segmenter finds in its image. That of real images is the ceiling."
FEW_PATIENTS, FEW_IMAGES = 50, 500


def cautions(sides: Sequence[Side], size: int) -> list[str]:
    """Warnings where there are too few patients or images for the figures to be relied on, or masks do not compare."""
    found = [f"{side}. With fewer than {FEW_PATIENTS} patients its interval cannot be relied on."
             for side in sides if len(set(side.patients)) < FEW_PATIENTS]  # fmt: skip
    if size < FEW_IMAGES:
        found.append(
            f"Only {size} images on either side: with fewer than {FEW_IMAGES} a Fréchet distance is biased up."
        )
    real, other = sides
    if real.levels and other.levels and real.levels != other.levels:
        found.append(
            f"Masks are not compared: those of {real.name} have the levels {', '.join(real.levels)}, and those of "
            f"{other.name} {', '.join(other.levels)}."
        )
    return found


def how_to_read(comparison: Comparison, has_dice: bool) -> list[str]:
    """The notes of NOTES, MASK_NOTES and DICE_NOTE that concern what was measured."""
    return [*NOTES, *(MASK_NOTES if MASK_DISTANCES in comparison.groups else ()), *([DICE_NOTE] if has_dice else ())]


def write(
    run: Run, record: RunRecord, comparison: Comparison, tables: Sequence[Table], sides: Sequence[Side],
    notes: Sequence[str], extractor: str,
) -> None:  # fmt: skip
    """Write evaluation.json, evaluation.html, evaluation.md and the figures."""
    facts: dict[str, Any] = {
        "num_images": comparison.groups[FIGURES]["fd"]["other"].num_images,
        **{name: run.job[name] for name in ("num_halvings", "num_pairs", "segmenter")},
        "seed": run.cfg.seed,
        "extractor": extractor,
    }
    groups = {
        group: {name: {side: one.json() for side, one in both.items()} for name, both in found.items()}
        for group, found in comparison.groups.items()
    }
    told = {**groups, **facts, "sides": [str(side) for side in sides], "code": record.record["code"]}
    write_json(run.output_dir / JSON, told)
    for table in tables:
        if table.picture:
            write_atomically(
                run.output_dir / table.picture_name, lambda path, table=table: path.write_bytes(table.picture)
            )
    apart = [title for table in tables for title in table.apart]
    values = {
        "title": f"{sides[1].name} against {sides[0].name}",
        "summary": f"Told apart from real images by {', '.join(apart)}." if apart else
                   "Not told apart from real images at this number of images.",
        "tables": tables, "sides": [f"Real: {sides[0]}.", f"Compared: {sides[1]}."], "notes": notes,
        "command": run.command, "revision": code_words(record.record["code"]), **facts,
    }  # fmt: skip
    write_text(run.output_dir / HTML, render("evaluation.html.j2", **values))
    values["tables"] = [replace(one, rows=[[escaped(row[0]), *row[1:]] for row in one.rows]) for one in tables]
    write_text(run.output_dir / MARKDOWN, render("evaluation.md.j2", **values))
