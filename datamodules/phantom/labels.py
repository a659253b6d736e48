"""Which findings a phantom has: eye-clinic prevalences, clinical co-occurrence and fellow-eye correlation.

Every finding is a threshold on a standard normal liability (Falconer's liability-threshold model), so the marginal
prevalence is the tabulated one exactly, while shared factors (age, diabetes, blood pressure, axial myopia, clarity of
the media) and a share common to both eyes of a patient make findings co-occur as they do in a clinic.

Prevalences are those among photographs that do show a fundus:

=====================================  ==========  ===============================================================
finding                                 prevalence  reasoning
=====================================  ==========  ===============================================================
dr_grade 0, 1, 2, 3, 4                  58 9 18 7 8 an eye clinic with a diabetic service: referred eyes, so more
                                                    severe and proliferative disease than in screening (1-2 %)
is_dme                                  about 11 %  0, 6, 22, 42, 48 % of the five grades; never without DR
is_amd                                  7 %         as in adults over 50, rarer in the younger half of the clinic
is_aon                                  3 %         atrophy, swelling and pallor of the disc together
is_crp                                  4 %         scars, naevi, pigment epithelium disease
is_dm                                   6 %         tessellated myopic fundus with a crescent
is_em                                   5 %         5-10 % of the elderly, more in diabetics
is_gc                                   8 %         twice the population's 3-4 %, glaucoma being a clinic's staple
is_htr                                  6 %         visible signs in treated hypertension
is_pm                                   3 %         1-3 % of adults
is_rvo                                  4 %         0.5-2 % of adults, referred
macula, disc, rest unreadable           8 8 10 %    ungradable shares of screening programmes (5-20 %)
is_fundus = 0                           2 %         wrong field, lid closed, test shots
=====================================  ==========  ===============================================================
"""

from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from datamodules.errors import UserError
from datamodules.findings import NUM_LEVELS, check_name
from datamodules.phantom.streams import stream

DISEASES = ("is_amd", "is_aon", "is_crp", "is_dm", "is_dme", "is_em", "is_gc", "is_htr", "is_pm", "is_rvo")
READABLE = ("is_macular_readable", "is_optic_disc_readable", "is_retinal_region_readable")

PREVALENCE = {
    "dr_grade": (0.58, 0.09, 0.18, 0.07, 0.08),
    "is_amd": 0.07,
    "is_aon": 0.03,
    "is_crp": 0.04,
    "is_dm": 0.06,
    "is_em": 0.05,
    "is_gc": 0.08,
    "is_htr": 0.06,
    "is_pm": 0.03,
    "is_rvo": 0.04,
}
"""Share of the fundus photographs with each finding (for ``dr_grade``, with each grade)."""
DME_GIVEN_GRADE = (0.0, 0.06, 0.22, 0.42, 0.48)
"""Share of the eyes of each DR grade with diabetic macular oedema."""
UNREADABLE = {"is_macular_readable": 0.08, "is_optic_disc_readable": 0.08, "is_retinal_region_readable": 0.10}
"""Share of the fundus photographs in which each region cannot be read."""
NOT_FUNDUS = 0.02
"""Share of all pictures that show no fundus."""

FACTORS = ("age", "diabetes", "vascular", "myopia", "media")
# Loadings on the shared factors, then the loading on what both eyes of one patient share besides.
_LOADINGS = {
    "dr_grade": ({"diabetes": 0.85, "vascular": 0.15}, 0.30),
    "is_dme": ({}, 0.70),
    "is_amd": ({"age": 0.75}, 0.45),
    "is_aon": ({}, 0.50),
    "is_crp": ({"age": 0.15}, 0.55),
    "is_dm": ({"myopia": 0.85}, 0.30),
    "is_em": ({"age": 0.45, "diabetes": 0.15}, 0.40),
    "is_gc": ({"age": 0.30, "myopia": 0.30}, 0.65),
    "is_htr": ({"vascular": 0.85}, 0.35),
    "is_pm": ({"myopia": 0.90}, 0.20),
    "is_rvo": ({"vascular": 0.55, "age": 0.30}, 0.0),
    **dict.fromkeys(READABLE, ({"age": 0.25, "media": 0.45}, 0.0)),
}
_NAMES = tuple(_LOADINGS)
_LOADING_MATRIX = np.array([[_LOADINGS[n][0].get(f, 0.0) for f in FACTORS] for n in _NAMES])
_SHARED = np.array([_LOADINGS[n][1] for n in _NAMES])
# What spoils one region of a photograph mostly spoils the others too.
_PHOTOGRAPH = np.array([0.70 if n in READABLE else 0.0 for n in _NAMES])
_OWN = np.sqrt(1.0 - (_LOADING_MATRIX**2).sum(1) - _SHARED**2 - _PHOTOGRAPH**2)
_CDF = NormalDist().cdf
_DR_CUTS = np.cumsum(PREVALENCE["dr_grade"])[:-1]


def draw_factors(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Patient factors, standard normal, in the order of ``FACTORS``, and what both eyes share of each finding."""
    return rng.standard_normal(len(FACTORS)), rng.standard_normal(len(_NAMES))


def _draw_eye(rng: np.random.Generator, factors: np.ndarray, shared: np.ndarray, eye_side: int) -> dict[str, int]:
    liability = _LOADING_MATRIX @ factors + _SHARED * shared + _PHOTOGRAPH * rng.standard_normal()
    liability += _OWN * rng.standard_normal(len(_NAMES))
    upper = {name: 1.0 - _CDF(value) for name, value in zip(_NAMES, liability.tolist(), strict=True)}
    labels = {"dr_grade": int(np.searchsorted(_DR_CUTS, 1.0 - upper["dr_grade"]))}
    for name in DISEASES:
        share = DME_GIVEN_GRADE[labels["dr_grade"]] if name == "is_dme" else PREVALENCE[name]
        labels[name] = int(upper[name] < share)
    labels["is_fundus"] = int(rng.random() >= NOT_FUNDUS)
    for name in READABLE:
        labels[name] = int(upper[name] >= UNREADABLE[name])
    labels["eye_side"] = eye_side
    return labels


def _without_fundus(labels: dict[str, int]) -> dict[str, int]:
    return {name: labels[name] if name == "eye_side" else 0 for name in NUM_LEVELS}


def draw_labels(rng: np.random.Generator) -> dict[str, int]:
    """Labels of one eye of a new patient, all 16 findings known."""
    factors, shared = draw_factors(rng)
    labels = _draw_eye(rng, factors, shared, int(rng.integers(2)))
    return labels if labels["is_fundus"] else _without_fundus(labels)


def patient_of(seed: int, index: int) -> str:
    """Name of the patient of a phantom; indices 2k and 2k + 1 are the right and left eye of one patient."""
    return f"phantom-{seed}-{index // 2:07d}"


def labels_of(seed: int, index: int) -> dict[str, int]:
    """Labels of phantom ``index``, without rendering it: what ``render(seed, index, ...).labels`` holds."""
    return resolve(seed, index, None)


def resolve(seed: int, index: int, overrides: Mapping[str, int] | None) -> dict[str, int]:
    """Drawn labels of a phantom with some replaced.

    What ``overrides`` leaves open is adjusted where it would contradict it: a disease or a readable region asks for a
    fundus, DME that is asked for brings at least moderate DR, and a picture without a fundus has no disease and no
    readable region.

    Raises:
        ValueError: unknown finding, level out of range, or a disease asked for with ``is_fundus=0``.
    """
    given = _checked(overrides or {})
    factors, shared = draw_factors(stream(seed, index // 2, "patient labels"))
    labels = _draw_eye(stream(seed, index, "eye labels"), factors, shared, index % 2)
    shows_fundus = [name for name, level in given.items() if level and name not in ("is_fundus", "eye_side")]
    if shows_fundus and given.get("is_fundus") == 0:
        raise UserError(f"labels ask for is_fundus=0 and {shows_fundus[0]}={given[shows_fundus[0]]}: drop one of them")
    if shows_fundus:
        labels["is_fundus"] = 1
    labels |= given
    if "is_dme" not in given and labels["dr_grade"] == 0:
        labels["is_dme"] = 0
    if given.get("is_dme") and "dr_grade" not in given:
        labels["dr_grade"] = max(2, labels["dr_grade"])
    return labels if labels["is_fundus"] else _without_fundus(labels)


def _checked(overrides: Mapping[str, int]) -> dict[str, int]:
    for name, level in overrides.items():
        check_name(name)
        if int(level) != level or not 0 <= level < NUM_LEVELS[name]:
            raise UserError(f"{name}={level!r} is out of range: give 0 to {NUM_LEVELS[name] - 1}, or leave it out")
    return {name: int(level) for name, level in overrides.items()}
