"""A short text on what is usually done about the findings of a fundus photograph, by public guidelines.

It is written about synthetic images, to go with their annotations as reports go with photographs; every text says that
it is no medical advice. A rule is one sentence for a level of a finding. What could not be read
in a public source is worded generally and names none (docs/annotation.md has what each source says).
"""

from collections.abc import Mapping
from dataclasses import dataclass

VERSION = 1  # changes whenever the same findings would give another text
MARK = "Not medical advice: written by software about a synthetic image."

SOURCES: Mapping[str, str] = {
    "ICO 2017": "International Council of Ophthalmology, Guidelines for Diabetic Eye Care, updated 2017",
    "NICE NG82": "https://www.nice.org.uk/guidance/ng82",
    "NICE NG81": "https://www.nice.org.uk/guidance/ng81",
    "NICE NG136": "https://www.nice.org.uk/guidance/ng136",
    "RCOphth 2022": "https://www.rcophth.ac.uk/resources-listing/retinal-vein-occlusion-rvo-guidelines/",
    "NHS DESP": "https://www.gov.uk/government/publications/"
    "diabetic-eye-screening-pathway-for-images-and-where-images-cannot-be-taken",
}

REGIONS: Mapping[str, str] = {
    "is_macular_readable": "macula",
    "is_optic_disc_readable": "optic disc",
    "is_retinal_region_readable": "retina",
}
GRADE, OEDEMA, FUNDUS = "dr_grade", "is_dme", "is_fundus"
REASSURING = 1  # grades up to this one need no referral: said only of an eye that can be graded, without oedema
GRADED_BY = ("is_macular_readable", "is_retinal_region_readable")  # what must be readable for that

NO_FUNDUS = "The image does not show a fundus and is not graded: take another photograph."
UNREADABLE = (
    "Not readable: {regions}. Absence of disease cannot be concluded there: repeat the photograph; where no adequate "
    "one can be had, examine by slit lamp biomicroscopy (NHS DESP)."
)
NOTHING = "None of the findings that were looked for was seen."


@dataclass(frozen=True)
class Rule:
    """What is said where `finding` has `level`."""

    finding: str
    level: int
    text: str


RULES: tuple[Rule, ...] = (  # the most urgent first
    Rule(
        "is_htr", 1,
        "Signs of hypertensive retinopathy: measure blood pressure now; at 180/120 mmHg or more with retinal "
        "haemorrhage or papilloedema, same-day specialist review (NICE NG136); otherwise assessment in primary care.",
    ),
    Rule(
        "is_aon", 1,
        "Anomaly of the optic nerve: a swollen disc calls for review on the same day, any other for ophthalmological "
        "assessment.",
    ),
    Rule(
        "is_amd", 1,
        "Signs of age-related macular degeneration: where late, wet active disease is suspected, urgent referral to a "
        "macula service, normally within 1 working day (NICE NG82); otherwise monitoring, and new distortion or loss "
        "of vision reported at once.",
    ),
    Rule(
        "is_rvo", 1,
        "Signs of retinal vein occlusion: prompt referral to ophthalmology, to look for macular oedema and new vessels "
        "(RCOphth 2022); blood pressure and cardiovascular risk checked in primary care.",
    ),
    Rule(
        GRADE, 4,
        "Proliferative diabetic retinopathy: referral to an ophthalmologist, to be seen in less than 1 month "
        "(ICO 2017).",
    ),
    Rule(
        OEDEMA, 1,
        "Diabetic macular oedema: referral to an ophthalmologist, to be seen in 1 month where the centre of the macula "
        "is involved, in 3 months where it is not (ICO 2017).",
    ),
    Rule(
        "is_pm", 1,
        "Pathologic myopia: ophthalmological assessment; new distortion or loss of central vision is urgent.",
    ),
    Rule(
        GRADE, 3,
        "Severe non-proliferative diabetic retinopathy: referral to an ophthalmologist, to be seen in less than 3 "
        "months (ICO 2017).",
    ),
    Rule(
        "is_gc", 1,
        "Suspected glaucoma: visual field, stereoscopic examination of the disc by slit lamp, applanation tonometry "
        "and a look at the chamber angle; referral where the disc is damaged, the field has a matching defect, or "
        "the pressure is 24 mmHg or more (NICE NG81).",
    ),
    Rule(
        GRADE, 2,
        "Moderate non-proliferative diabetic retinopathy: referral to an ophthalmologist, re-examination in 3 to 6 "
        "months (ICO 2017).",
    ),
    Rule("is_crp", 1, "Chorioretinal changes: ophthalmological assessment; scars may be old."),
    Rule(
        "is_em", 1,
        "Epiretinal membrane: ophthalmological assessment where vision is reduced or distorted, otherwise monitoring.",
    ),
    Rule(
        GRADE, 1,
        "Mild non-proliferative diabetic retinopathy: no referral, re-examination in 6 to 12 months (ICO 2017).",
    ),
    Rule(
        "is_dm", 1,
        "Fundus of a highly myopic eye: regular examinations; flashes, new floaters or a shadow are urgent.",
    ),
    Rule(
        GRADE, 0,
        "No apparent diabetic retinopathy: with diabetes, re-examination in 1 to 2 years (ICO 2017).",
    ),
)  # fmt: skip


def advice_of(levels: Mapping[str, int | None]) -> str:
    """Sentences on an image, the unreadable first, then by urgency; always the same for the same levels.

    Where the macula or the retina cannot be read, or there is macular oedema, a grade that needs no referral is not
    mentioned: it would reassure without ground. Where no fundus is seen nothing else is said.

    Args:
        levels: of each finding by name; None, -1 or absent where nobody told it.
    """
    if levels.get(FUNDUS) == 0:
        return f"{NO_FUNDUS} {MARK}"
    unreadable = [region for name, region in REGIONS.items() if levels.get(name) == 0]
    withheld = levels.get(OEDEMA) == 1 or any(levels.get(name) == 0 for name in GRADED_BY)
    said = [UNREADABLE.format(regions=", ".join(unreadable))] if unreadable else []
    for rule in RULES:
        reassures = rule.finding == GRADE and rule.level <= REASSURING
        if levels.get(rule.finding) == rule.level and not (reassures and withheld):
            said.append(rule.text)
    return " ".join([*(said or [NOTHING]), MARK])
