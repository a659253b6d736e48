"""Counts of a manifest, for people."""

from typing import Any

from datamodules.findings import FINDINGS, UNKNOWN
from datamodules.manifest import SPLITS, Manifest


def counts(manifest: Manifest) -> dict[str, Any]:
    """Images and patients, in all and by split, and for each finding how many images there are of each level."""
    whole = {"num_images": len(manifest), "num_patients": manifest.num_patients}
    return {**whole, "splits": {split: _of_split(manifest.select(split)) for split in SPLITS}}


def _of_split(manifest: Manifest) -> dict[str, Any]:
    levels = {}
    for finding in FINDINGS:
        column = manifest.table.column(finding.name).to_numpy()
        counts = {name: int((column == level).sum()) for level, name in enumerate(finding.levels)}
        levels[finding.name] = {**counts, "unknown": int((column == UNKNOWN).sum())}
    return {"num_images": len(manifest), "num_patients": manifest.num_patients, "findings": levels}
