"""How many images of a plan have which condition, and what a filter made of them, for the terminal."""

from datamodules.findings import FINDINGS
from datamodules.synthetic.counts import Counts


def levels_text(counts: Counts) -> str:
    """A line a finding: images of each level that occurs, int64 [levels + 1] by finding, unknown last."""
    lines = []
    for finding in FINDINGS:
        names = [*map(str, range(len(finding.levels))), "unknown"]
        there = [f"{name}: {number:,}" for name, number in zip(names, counts[finding.name], strict=True) if number]
        lines.append(f"  {finding.name:<28}{'   '.join(there)}")
    return "\n".join(lines)


def accepted_text(counts: Counts) -> str:
    """A line a level of int64 [levels + 1, 2] by finding, images and accepted ones; what was never accepted is said."""
    lines, never = [], []
    for name, levels in counts.items():
        for level, (images, accepted) in enumerate(levels[:-1]):
            if images:
                lines.append(f"  {name} {level}:  {accepted:,} of {images:,} ({accepted / images:.0%})")
            if images and not accepted:
                never.append(f"{name} {level}")
    if never:
        lines.append(
            f"  note: no image of {', '.join(never)} was accepted: the generator does not paint it so that the "
            "annotator sees it, and accepted images alone would lack it."
        )
    return "\n".join(lines)
