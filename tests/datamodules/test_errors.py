"""What is suggested for a misspelt name."""

import pytest

from datamodules.errors import did_you_mean, nearest


@pytest.mark.parametrize("typed", ["image_sise", " Image_Size ", "IMAGESIZE", "imag_size"])
def test_the_nearest_name_is_found_whatever_its_case(typed):
    assert nearest(typed, ["batch_size", "image_size", "seed"]) == ["image_size"]


def test_names_keep_their_spelling_and_those_that_differ_in_case_are_all_found():
    assert nearest("linea", ["Linear", "linear", "Conv2d"], num=2) == ["Linear", "linear"]
    assert nearest("LAYERNORM", ["LayerNorm"]) == ["LayerNorm"]


def test_at_most_num_names_the_nearest_first():
    known = ["unet_s", "unet_xs", "unet_b", "dit_s"]
    assert nearest("unet_xxs", known, num=3)[:2] == ["unet_xs", "unet_s"]
    assert len(nearest("unet", known, num=1)) == 1


@pytest.mark.parametrize("known", [[], ["batch_size"]])
def test_nothing_is_suggested_where_nothing_is_near(known):
    assert nearest("xyz", known) == [] and did_you_mean("xyz", known) == ""


def test_the_cutoff_is_how_alike_names_must_be():
    assert nearest("abcd", ["abxx"], cutoff=0.5) == ["abxx"] and nearest("abcd", ["abxx"], cutoff=0.51) == []


def test_any_value_is_compared_by_its_text():
    assert did_you_mean(None, ["none", "mild"]) == " Did you mean 'none'?"
    assert did_you_mean("sevre", {"severe": 3, "server": 4}, num=2) == " Did you mean 'severe' or 'server'?"
