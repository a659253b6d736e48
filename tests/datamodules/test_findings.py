"""The label vocabulary."""

import numpy as np
import pytest
from refusals import refuses

from datamodules.findings import EYE_SIDE, FINDINGS, NAMES, NUM_LEVELS, describe_levels, encode


def test_the_columns_are_those_of_synfundus_1m_in_the_agreed_order():
    assert (
        *("dr_grade", "is_amd", "is_aon", "is_crp", "is_dm", "is_dme", "is_em", "is_gc", "is_htr", "is_pm", "is_rvo"),
        *("is_fundus", "is_macular_readable", "is_optic_disc_readable", "is_retinal_region_readable", "eye_side"),
    ) == NAMES
    assert list(NUM_LEVELS.values()) == [5] + 15 * [2]
    assert FINDINGS[EYE_SIDE].levels == ("right", "left")
    assert all(finding.title and finding.description for finding in FINDINGS)


def test_what_is_not_given_is_unknown():
    row = encode({"dr_grade": 4, "is_dme": None, "is_amd": np.int8(0), "eye_side": -1})
    assert row.dtype == np.int64 and row.shape == (16,)
    assert row.tolist() == [4, 0] + 14 * [-1]


def test_a_misspelt_name_is_answered_with_the_known_ones():
    with refuses(ValueError, "'dr_grad'", "finding", "mean 'dr_grade'", "is_amd, is_aon"):
        encode({"dr_grad": 1})


@pytest.mark.parametrize("level", [5, -2, 1.0, True, "2"])
def test_a_level_that_does_not_exist_is_refused(level):
    with refuses(ValueError, "dr_grade", repr(level), "(unknown)"):
        encode({"dr_grade": level})


def test_levels_in_words():
    assert describe_levels("eye_side") == "0 (right), 1 (left), -1 (unknown)"
