"""What was found of a set's consistency, as a page for people."""

from collections.abc import Mapping, Sequence

from callbacks.metrics.estimate import Estimate

Found = Mapping[str, Mapping[str, Estimate]]  # finding -> metric -> figure
FEW = 10  # images with or without a finding, below which a figure is a matter of chance
COLUMNS = {"accuracy": "agreement", "precision": "precision", "recall": "recall", "kappa": "kappa", "auroc": "AUROC"}


def page(
    synthetic: Found, real: Found, facts: Mapping[str, str], notes: Sequence[str], not_told: Sequence[str], ceiling: str
) -> str:
    """The page, Markdown: facts, a table of the synthetic images, one of the real ones, and what is undefined.

    Args:
        facts: lines at the top, name -> text.
        notes: what a reader has to heed.
        not_told: findings that no annotator tells.
        ceiling: where the real images are from, or why there are none.
    """
    lines = ["# Consistency", "", ABOUT, ""]
    lines += [f"- {name}: {text}" for name, text in facts.items()]
    lines += ["", "![AUROC of every finding](consistency.png)", "", "## Synthetic images, against their condition", ""]
    lines += table(synthetic, ceiling=real)
    lines += ["", "## The annotators' own test images, against their label: the ceiling", "", ceiling, ""]
    lines += table(real) if real else []
    lines += ["", "## How to read it", ""]
    lines += [f"- {note}" for note in [*notes, *STANDING]]
    if not_told:
        lines.append(f"- Not told by any annotator, and so not measured: {', '.join(not_told)}.")
    whys = [*_whys("synthetic", synthetic), *_whys("ceiling", real)]
    lines += ["", "## Undefined figures", "", *(whys or ["None."])]
    return "\n".join(lines) + "\n"


ABOUT = "Condition against annotation: how far a classifier sees in the synthetic images what they were to show."
STANDING = (
    "Square brackets hold 95 % intervals of a bootstrap over patients; every synthetic image counts as one.",
    "Images whose condition is unknown are left out, finding by finding.",
    "Positive is what has the finding; of a grade, level 1 or above; of `eye_side`, its level 1.",
    "Kappa of a grade is quadratic weighted; its precision, recall and AUROC are means over the levels that occur, and "
    "a level that the annotator never decides for counts as precision 0. `dr_grade>=2` is grade 2 or more against "
    "less.",
    f"\\* fewer than {FEW} images on one side: a matter of chance. A bootstrap draws no other images than these, so "
    "that the interval is too narrow, and has no width where every image went the same way.",
    "A figure without an interval has no value in some of the replicates.",
    "The annotator is no truth: what it cannot tell on the images of its own test it cannot confirm on synthetic ones. "
    "Compare a finding's AUROC with the ceiling, not with 1; above it, the images are easier than those.",
    "Agreement, precision and kappa depend on how frequent a finding is, and the AUROC of a grade on the mix of "
    "grades: the two sets have their own.",
    "A high figure says that the condition is visible to this classifier, not that the image looks like an eye that "
    "has the disease. One that was trained on photographs of the generator's own training set may know its habits.",
)


def table(found: Found, ceiling: Found | None = None) -> list[str]:
    """A row a finding; with `ceiling` a last column has its AUROC."""
    headings = [
        "finding",
        "images",
        "positive",
        *COLUMNS.values(),
        *(["AUROC, ceiling"] if ceiling is not None else []),
    ]
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    for name, metrics in found.items():
        auroc = metrics["auroc"]
        cells = [f"`{name}`{few(auroc)}", f"{auroc.num_images:,}", f"{auroc.num_positive:,}"]
        cells += [str(metrics.get(metric, "")) for metric in COLUMNS]
        if ceiling is not None:
            cells.append(str(ceiling[name]["auroc"]) if name in ceiling else "no ceiling")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def few(found: Estimate) -> str:
    """A mark on findings of which there are few images on one side."""
    return "\\*" if 0 < min(found.num_positive, found.num_images - found.num_positive) < FEW else ""


def _whys(title: str, found: Found) -> list[str]:
    """Why figures are undefined: a line a finding and reason."""
    lines = []
    for name, estimates in found.items():
        reasons: dict[str, list[str]] = {}
        for metric, one in estimates.items():
            if one.why:
                reasons.setdefault(one.why, []).append(COLUMNS[metric])
        lines += [f"- {title}, `{name}`: {', '.join(metrics)}: {why}" for why, metrics in reasons.items()]
    return lines
