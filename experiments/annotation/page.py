"""What was found of a set's consistency, as a page for people."""

from collections.abc import Iterator, Mapping, Sequence

from callbacks.metrics.estimate import Estimate
from experiments.reports.render import render

Found = Mapping[str, Mapping[str, Estimate]]  # finding -> metric -> figure
FEW = 10  # images with or without a finding, below which a figure is a matter of chance
COLUMNS = {"accuracy": "agreement", "precision": "precision", "recall": "recall", "kappa": "kappa", "auroc": "AUROC"}


def page(
    synthetic: Found, real: Found, facts: Mapping[str, str], notes: Sequence[str], not_told: Sequence[str], ceiling: str
) -> str:
    """The page, Markdown: facts, a table of the synthetic images, one of the real ones, and what is undefined.

    Args:
        facts: lines at the top, name -> text.
        notes: cautions for the reader.
        not_told: findings that no annotator tells.
        ceiling: where the real images are from, or why there are none.
    """
    return render(
        "consistency.md.j2", facts=facts, notes=notes, not_told=not_told, ceiling=ceiling, FEW=FEW,
        header=("finding", "images", "positive", *COLUMNS.values()), real=rows(real),
        synthetic=[[*row, str(real[name]["auroc"]) if name in real else "no ceiling"]
                   for name, row in zip(synthetic, rows(synthetic), strict=True)],
        undefined=[*undefined("synthetic", synthetic), *undefined("ceiling", real)],
    )  # fmt: skip


def rows(found: Found) -> list[list[str]]:
    """A row a finding."""
    return [
        [f"`{name}`{few(metrics['auroc'])}", f"{metrics['auroc'].num_images:,}", f"{metrics['auroc'].num_positive:,}",
         *(str(metrics.get(metric, "")) for metric in COLUMNS)]
        for name, metrics in found.items()
    ]  # fmt: skip


def few(found: Estimate) -> str:
    """A mark on findings of which there are few images on one side."""
    return "\\*" if 0 < min(found.num_positive, found.num_images - found.num_positive) < FEW else ""


def undefined(title: str, found: Found) -> Iterator[tuple[str, str, list[str], str]]:
    """Why figures are undefined: title, finding, metrics and reason."""
    for name, estimates in found.items():
        reasons: dict[str, list[str]] = {}
        for metric, one in estimates.items():
            if one.why:
                reasons.setdefault(one.why, []).append(COLUMNS[metric])
        yield from ((title, name, metrics, why) for why, metrics in reasons.items())
