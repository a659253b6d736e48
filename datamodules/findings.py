"""The label vocabulary: which findings there are, in which order, and what their levels mean.

A finding is a column of the label matrix [N, F]. Its value is the index of a level, or UNKNOWN (-1) where nobody
annotated it: real datasets annotate different findings, and unknown is never the same as absent. Names and codings are
those of SynFundus-1M (arXiv 2312.00377); diabetic retinopathy follows the ICDR scale of Wilkinson et al. 2003.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from datamodules.errors import UserError, did_you_mean

UNKNOWN = -1


@dataclass(frozen=True)
class Finding:
    """One column of the label matrix: its name, a title for people, and the names of its levels 0, 1, …"""

    name: str
    title: str
    levels: tuple[str, ...]
    description: str


def _disease(name: str, title: str, description: str) -> Finding:
    return Finding(name, title, ("absent", "present"), description)


def _readable(name: str, title: str, description: str) -> Finding:
    return Finding(name, title, ("no", "yes"), description)


FINDINGS: tuple[Finding, ...] = (
    Finding(
        "dr_grade",
        "Diabetic retinopathy",
        ("none", "mild", "moderate", "severe", "proliferative"),
        "Grade on the international clinical scale (ICDR), 0 to 4.",
    ),
    _disease("is_amd", "Age-related macular degeneration", "Drusen, atrophy or neovascularisation of the macula."),
    _disease("is_aon", "Anomaly of the optic nerve", "Anomaly or atrophy of the optic nerve head."),
    _disease("is_crp", "Chorioretinal pathology", "Scars, atrophy or inflammation of choroid and retina."),
    _disease("is_dm", "Degenerative myopia", "Tessellated fundus of a long eye; not diabetes."),
    _disease("is_dme", "Diabetic macular oedema", "Maculopathy of diabetes: oedema or hard exudates at the macula."),
    _disease("is_em", "Epiretinal membrane", "A membrane over the macula, with folds."),
    _disease("is_gc", "Glaucoma", "A large cup of the optic disc, with loss of nerve fibres."),
    _disease("is_htr", "Hypertensive retinopathy", "Narrow arterioles, crossing signs, haemorrhages of hypertension."),
    _disease("is_pm", "Pathologic myopia", "Myopic maculopathy: peripapillary or macular atrophy, staphyloma."),
    _disease("is_rvo", "Retinal vein occlusion", "Occlusion of the central vein or of a branch."),
    _readable("is_fundus", "Fundus photograph", "Whether the image is a fundus photograph at all."),
    _readable("is_macular_readable", "Macula readable", "Whether the macula can be judged."),
    _readable("is_optic_disc_readable", "Optic disc readable", "Whether the optic disc can be judged."),
    _readable("is_retinal_region_readable", "Retina readable", "Whether the rest of the retina can be judged."),
    Finding("eye_side", "Eye", ("right", "left"), "Which eye: 0 right, 1 left."),
)

NAMES: tuple[str, ...] = tuple(finding.name for finding in FINDINGS)
NUM_LEVELS: dict[str, int] = {finding.name: len(finding.levels) for finding in FINDINGS}
EYE_SIDE: int = NAMES.index("eye_side")


def check_name(name: str) -> str:
    """Return `name` if it is a finding; raise ValueError listing the known ones, and suggesting the nearest, if not."""
    if name in NUM_LEVELS:
        return name
    raise UserError(f"{name!r} is not a finding.{did_you_mean(name, NAMES)} The findings are: {', '.join(NAMES)}.")


def encode(labels: Mapping[str, int | None]) -> np.ndarray:
    """Label names and levels to a row of the label matrix, int64 [F]; what is missing or None is unknown (-1).

    Raises ValueError for a name that is not a finding, and for a level that the finding does not have.
    """
    row = np.full(len(NAMES), UNKNOWN, dtype=np.int64)
    for name, level in labels.items():
        check_name(name)
        if level is None:
            continue
        if isinstance(level, bool | np.bool_) or not isinstance(level, Integral):
            raise UserError(f"{name} is {level!r} ({type(level).__name__}), and must be an int or None (unknown).")
        if not UNKNOWN <= level < NUM_LEVELS[name]:
            raise UserError(f"{name} is {int(level)}, and must be one of: {describe_levels(name)}.")
        row[NAMES.index(name)] = int(level)
    return row


def describe_levels(name: str) -> str:
    """The levels of a finding in words: `0 (none), 1 (mild), …, -1 (unknown)`."""
    levels = FINDINGS[NAMES.index(check_name(name))].levels
    return ", ".join(f"{i} ({level})" for i, level in enumerate(levels)) + f", {UNKNOWN} (unknown)"
