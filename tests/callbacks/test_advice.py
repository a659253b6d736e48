"""Advice: urgent things first, no reassurance where nothing could be seen, and always the mark."""

import itertools
import re
from pathlib import Path

import pytest

from callbacks import advice
from callbacks.advice import MARK, NO_FUNDUS, NOTHING, REGIONS, RULES, SOURCES, advice_of
from datamodules.findings import FINDINGS, NAMES, NUM_LEVELS

HEALTHY = dict.fromkeys(NAMES, 0) | {"is_fundus": 1} | dict.fromkeys(REGIONS, 1)
DOCS = Path(__file__).resolve().parents[2] / "docs" / "annotation.md"


def text_of(finding: str, level: int = 1) -> str:
    [found] = [rule.text for rule in RULES if (rule.finding, rule.level) == (finding, level)]
    return found


def test_every_disease_and_every_grade_has_one_rule_and_nothing_else_has():
    diseases = [finding.name for finding in FINDINGS if finding.levels == ("absent", "present")]
    wanted = {(name, 1) for name in diseases} | {("dr_grade", grade) for grade in range(NUM_LEVELS["dr_grade"])}
    assert sorted((rule.finding, rule.level) for rule in RULES) == sorted(wanted)


@pytest.mark.parametrize("levels", [{}, HEALTHY, HEALTHY | {"is_fundus": 0}, {"dr_grade": 4, "is_dme": 1}])
def test_every_text_ends_with_the_mark_and_has_it_once(levels):
    text = advice_of(levels)
    assert text.endswith(MARK) and text.count(MARK) == 1
    assert text == advice_of(dict(reversed(levels.items())))


def test_all_at_once_the_unreadable_first_then_by_urgency():
    levels = dict.fromkeys(NAMES, 1) | {"dr_grade": 4, "is_macular_readable": 0}
    text = advice_of(levels)
    order = ["Not readable: macula.", text_of("is_htr"), text_of("is_aon"), text_of("is_amd"), text_of("is_rvo"),
             text_of("dr_grade", 4), text_of("is_dme"), text_of("is_pm"), text_of("is_gc"), text_of("is_crp"),
             text_of("is_em"), text_of("is_dm"), MARK]  # fmt: skip
    places = [text.find(part) for part in order]
    assert -1 not in places and places == sorted(places)


@pytest.mark.parametrize(
    ("grade", "said"),
    [(0, "in 1 to 2 years"), (1, "in 6 to 12 months"), (2, "in 3 to 6 months"), (3, "in less than 3 months"),
     (4, "in less than 1 month")],
)  # fmt: skip
def test_grades_have_the_intervals_of_the_guideline(grade, said):
    text = advice_of(HEALTHY | {"dr_grade": grade})
    assert text == f"{text_of('dr_grade', grade)} {MARK}"
    assert re.sub("\\s+", " ", text).count(said) == 1
    assert ("referral to an ophthalmologist" in text) == (grade >= 2)


@pytest.mark.parametrize("grade", range(5))
@pytest.mark.parametrize("hidden", [*REGIONS, "is_dme"])
def test_a_low_grade_does_not_reassure_where_it_could_be_wrong(grade, hidden):
    levels = HEALTHY | {"dr_grade": grade, hidden: 0 if hidden in REGIONS else 1}
    shown = text_of("dr_grade", grade) in advice_of(levels)
    assert shown == (grade >= 2 or hidden == "is_optic_disc_readable")


def test_regions_that_cannot_be_read_are_named_together():
    text = advice_of(HEALTHY | dict.fromkeys(REGIONS, 0))
    assert text.startswith("Not readable: macula, optic disc, retina. ") and NOTHING not in text


def test_of_what_is_no_fundus_nothing_else_is_said():
    assert advice_of(dict.fromkeys(NAMES, 1) | {"is_fundus": 0}) == f"{NO_FUNDUS} {MARK}"


def test_unknown_is_not_present_and_not_absent():
    assert (
        advice_of({}) == advice_of(dict.fromkeys(NAMES)) == advice_of(dict.fromkeys(NAMES, -1)) == f"{NOTHING} {MARK}"
    )


def test_sources_that_are_named_are_listed_and_documented():
    texts = [rule.text for rule in RULES] + [advice.UNREADABLE]
    named = set(itertools.chain.from_iterable(re.findall(r"\(([A-Z][\w ]+\d{2,4}|NHS DESP)\)", text) for text in texts))
    assert named == set(SOURCES)
    page = DOCS.read_text(encoding="utf-8")
    for name, where in SOURCES.items():
        assert name in page and (where in page or not where.startswith("http")), name
