"""A small grid that the exported folder itself has painted, for the top of its card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from callbacks.image_sheet import compose
from callbacks.isolation import to_uint8
from experiments.model_export import agreement

FILE = "samples.png"
SEEDS = (0, 1, 2, 3)
FIRST = "dr_grade"  # the finding that is shown, where the model knows it


def write_samples(folder: Path, findings: Sequence[Mapping[str, Any]], counts: Mapping[str, Mapping[int, int]]) -> None:
    """Paint a row a level and a column a seed by the folder alone, sampling as it does unless told otherwise.

    Args:
        findings: name, title and levels of each, as a card has them.
        counts: training images by finding and level; {} where they are not known.

    Raises:
        RuntimeError: the folder does not load.
        ValueError: what it paints is not finite.
    """
    rows = conditions(findings, counts)
    request = {"labels": [row for row in rows for _ in SEEDS], "seeds": [*SEEDS] * len(rows)}
    [images] = agreement.read("generator", folder, [request])
    grid = to_uint8(images).permute(0, 2, 3, 1).numpy()
    grid = grid.reshape(len(rows), len(SEEDS), *grid.shape[1:])
    Image.fromarray(compose(grid, captions(findings, rows))).save(folder / FILE)


def conditions(
    findings: Sequence[Mapping[str, Any]], counts: Mapping[str, Mapping[int, int]]
) -> tuple[dict[str, int], dict[str, int]]:
    """One finding at its least and at its greatest level of those that training images show; nothing else is told."""

    def levels(finding: Mapping[str, Any]) -> list[int]:
        known = counts.get(finding["name"], {})
        return [level for level in range(len(finding["levels"])) if not counts or known.get(level, 0) > 0]

    ranked = sorted(findings, key=lambda finding: finding["name"] != FIRST)
    shown = next((finding for finding in ranked if len(levels(finding)) > 1), ranked[0])
    low, *_, high = levels(shown) if len(levels(shown)) > 1 else range(len(shown["levels"]))
    return {shown["name"]: low}, {shown["name"]: high}


def captions(findings: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, int]]) -> list[str]:
    """The condition of each row, for people: `Diabetic retinopathy: severe`."""
    known = {finding["name"]: finding for finding in findings}
    return [
        ", ".join(f"{known[name]['title']}: {known[name]['levels'][level]}" for name, level in row.items())
        for row in rows
    ]
