"""Tables of a card, as Markdown: counts, columns, agreement of conditions and annotations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from callbacks.metrics.estimate import from_json
from datamodules.findings import FINDINGS, NAMES, Finding, describe_levels
from datamodules.synthetic.counts import Counts

METRICS = {"accuracy": "agreement", "precision": "precision", "recall": "recall", "kappa": "kappa", "auroc": "AUROC"}
NOT_TOLD = "not told"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> str:
    """A table; its last `numbers` columns are aligned to the right."""
    rules = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    lines = [header, rules, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def facts_table(facts: Mapping[str, str]) -> str:
    """Names and what they are."""
    return markdown(["", ""], [[name, text] for name, text in facts.items()])


def acceptance_table(levels: Counts) -> str:
    """How many images of each level a filter accepted, of int64 [levels + 1, 2] by finding."""
    rows = []
    for finding in FINDINGS:
        for level, (images, accepted) in enumerate(levels.get(finding.name, ())):
            if images:
                rows.append([f"`{finding.name}`", _level(finding, level), f"{images:,}", share(accepted, images)])
    return markdown(["finding", "condition", "images", "accepted"], rows, 2)


def share(number: int, total: int) -> str:
    """A number and its percentage, which is 0 or 100 only where it is so exactly."""
    if number == 0:
        return "0"
    percent = 100 * number / total
    if 0 < percent < 0.1:
        return f"{number:,} (< 0.1 %)"
    return f"{number:,} (> 99.9 %)" if 99.9 < percent < 100 else f"{number:,} ({percent:.1f} %)"


def counts_table(conditions: Counts, annotated: Counts | None, num_images: int) -> str:
    """Images by finding and level, with their share of all; levels of which there is no image are left out.

    Of a finding that is known of no image it is said once that it was not told.
    """
    sides = [conditions] if annotated is None else [conditions, annotated]
    lacking = [untold(side) for side in sides]
    rows = []
    for finding in FINDINGS:
        silent = [finding.name in names for names in lacking]
        counted = [side[finding.name] for side, lacks in zip(sides, silent, strict=True) if not lacks]
        levels = [n for n in range(len(finding.levels) + 1) if any(of[n] for of in counted)]
        for level in levels or [None]:
            cells = [
                NOT_TOLD if lacks else share(int(side[finding.name][level]), num_images)
                for side, lacks in zip(sides, silent, strict=True)
            ]
            rows.append([f"`{finding.name}`", finding.title, _level(finding, level), *cells])
    header = ["finding", "", "level", "condition", "annotation"][: 3 + len(sides)]
    return markdown(header, rows, len(sides))


def _level(finding: Finding, level: int | None) -> str:
    """Number and name; unknown is the last, and None is nothing."""
    if level is None:
        return ""
    return f"{level} {finding.levels[level]}" if level < len(finding.levels) else "unknown"


def untold(counts: Counts) -> list[str]:
    """Findings that are known of no image."""
    return [name for name in NAMES if not np.any(counts[name][:-1])]


def columns_table(annotated: bool, filtered: bool) -> str:
    """Every column of the Parquet files."""
    rows = [
        ["`image`", "image", "the bytes of the file, and a name"],
        ["`id`", "string", "unique; the same in all files of this set"],
        ["`index`", "int64", "row of the plan, from 0"],
        ["`seed`", "int64", "of the noise that this image was drawn from"],
        ["`attempts`", "int8", "how often it was drawn; 1 unless a filter refused it"],
    ]
    if filtered:
        rows.append(["`accepted`", "bool", "whether the filter accepted it in the end"])
    for finding in FINDINGS:
        levels = describe_levels(finding.name)
        rows.append([f"`{finding.name}`", "int8", f"condition: {finding.title.lower()}; {levels}"])
    parts = [markdown(["column of `data/`", "type", ""], rows)]
    if annotated:
        seen = [
            ["`id`", "string", "that of the image in the same row of the file of the same name in `data/`"],
            ["each finding", "bool; int8 for `dr_grade` and `eye_side`", "annotation; null where nothing is told"],
            ["`p_<finding>`", "float32", "probability of level 1, of findings of two levels"],
            ["`p_dr_grade_0` … `p_dr_grade_4`", "float32", "probability of each grade"],
            ["`advice`", "string", "a short text by grade and findings; not medical advice"],
        ]
        parts.append(markdown(["column of `annotations/`", "type", ""], seen))
    return "\n\n".join(parts)


def agreement_table(consistency: Mapping[str, Any]) -> str:
    """Figures of every finding that is measured, intervals in brackets; "" where there are none.

    Args:
        consistency: consistency.json: `synthetic` and `real`, each with `findings`, whose figures are value, low, high.
    """
    synthetic, real = (_findings(consistency.get(name)) for name in ("synthetic", "real"))
    told, ceiling = from_json(synthetic), from_json(real)
    rows = [
        [
            f"`{name}`",
            *(f"{one.get(count) or 0:,}" for count in ("num_images", "num_positive")),
            *(str(told[name].get(metric, "")) for metric in METRICS),
            str(ceiling.get(name, {}).get("auroc", "")),
        ]
        for name, one in synthetic.items()
    ]
    header = ["finding", "images", "positive", *METRICS.values(), "AUROC, ceiling"]
    return markdown(header, rows, len(header) - 1) if rows else ""


def _findings(part: Any) -> Mapping[str, Any]:
    found = part.get("findings") if isinstance(part, Mapping) else None
    return found if isinstance(found, Mapping) else {}
