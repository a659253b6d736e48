"""Rows of a card's tables: counts, what a filter accepted, agreement of conditions and annotations."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from callbacks.metrics.estimate import from_json
from datamodules.findings import FINDINGS, NAMES, Finding
from datamodules.synthetic.counts import Counts
from experiments.annotation.page import COLUMNS

NOT_TOLD = "not told"


def acceptance_rows(levels: Counts) -> list[list[str]]:
    """How many images of each level a filter accepted, of int64 [levels + 1, 2] by finding."""
    rows = []
    for finding in FINDINGS:
        for level, (images, accepted) in enumerate(levels.get(finding.name, ())):
            if images:
                rows.append([f"`{finding.name}`", _level(finding, level), f"{images:,}", share(accepted, images)])
    return rows


def share(number: int, total: int) -> str:
    """A number and its percentage, which is 0 or 100 only where it is so exactly."""
    if number == 0:
        return "0"
    percent = 100 * number / total
    if 0 < percent < 0.1:
        return f"{number:,} (< 0.1 %)"
    return f"{number:,} (> 99.9 %)" if 99.9 < percent < 100 else f"{number:,} ({percent:.1f} %)"


def counts_rows(conditions: Counts, annotated: Counts | None, num_images: int) -> list[list[str]]:
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
    return rows


def _level(finding: Finding, level: int | None) -> str:
    """Number and name; unknown is the last, and None is nothing."""
    if level is None:
        return ""
    return f"{level} {finding.levels[level]}" if level < len(finding.levels) else "unknown"


def untold(counts: Counts) -> list[str]:
    """Findings that are known of no image."""
    return [name for name in NAMES if not np.any(counts[name][:-1])]


def agreement_rows(consistency: Mapping[str, Any]) -> list[list[str]]:
    """Figures of every finding that is measured, intervals in brackets.

    Args:
        consistency: consistency.json: `synthetic` and `real`, each with `findings`, whose figures are value, low, high.
    """
    synthetic, real = (_findings(consistency.get(name)) for name in ("synthetic", "real"))
    told, ceiling = from_json(synthetic), from_json(real)
    return [
        [
            f"`{name}`",
            *(f"{one.get(count) or 0:,}" for count in ("num_images", "num_positive")),
            *(str(told[name].get(metric, "")) for metric in COLUMNS),
            str(ceiling.get(name, {}).get("auroc", "")),
        ]
        for name, one in synthetic.items()
    ]


def _findings(part: Any) -> Mapping[str, Any]:
    found = part.get("findings") if isinstance(part, Mapping) else None
    return found if isinstance(found, Mapping) else {}
