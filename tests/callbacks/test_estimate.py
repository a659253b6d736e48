"""`Estimate`: how it is printed, and its one form in JSON, which also reads what earlier versions wrote."""

import json
import math

import numpy as np
import pytest

from callbacks.metrics.consistency import agreement
from callbacks.metrics.estimate import Estimate, from_json, to_json
from callbacks.metrics.evaluation import BETTER, evaluate

LABELS = np.array([[0, 0], [0, 1], [1, 2], [1, -1]])
FINDINGS = {"is_gc": 2, "dr_grade": 5}
CHANCES = {"is_gc": np.array([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.1, 0.9]]), "dr_grade": np.full((4, 5), 0.2)}
SIZES = ("num_images", "num_patients", "num_positive")


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.8124, 0.75, 0.8699), "0.812 [0.750, 0.870]"),
        (Estimate(0.8124), "0.812"),
        (Estimate(-0.5, -1, 0), "-0.500 [-1.000, 0.000]"),
        (Estimate(math.nan), "undefined"),
        (Estimate(math.nan, 0.1, 0.2), "undefined"),
    ],
)
def test_it_is_printed_in_one_way(estimate, text):
    assert str(estimate) == f"{estimate}" == text and f"{estimate!s:>24}" == text.rjust(24)


def test_the_interval_alone_is_printed_as_asked():
    assert Estimate(1, 0.5, 1234.5).interval("{:+.1f}".format) == "[+0.5, +1234.5]"
    assert Estimate(1).interval() == "undefined"


def test_json_says_what_is_known_and_null_for_what_is_undefined():
    assert Estimate(0.5, 0.4, 0.6, better="max", num_images=3).json() == {"value": 0.5, "low": 0.4, "high": 0.6}
    assert Estimate(math.nan, why="no image").json() == {"value": None, "low": None, "high": None, "why": "no image"}
    figure = Estimate(2.0, extractor="tiny", seed=0).json()
    assert figure == {"value": 2.0, "low": None, "high": None, "extractor": "tiny", "seed": 0}
    assert Estimate.from_json(figure) == Estimate(2.0, extractor="tiny", seed=0)


def test_what_is_written_is_read_with_its_sizes():
    found = evaluate(LABELS, CHANCES, FINDINGS, list("abcd"), num_replicates=0)
    written = to_json(found)
    assert list(written["is_gc"])[:4] == [*SIZES, "auroc"] and set(written["is_gc"]["auroc"]) == {
        "value",
        "low",
        "high",
    }
    read = from_json(json.loads(json.dumps(written, allow_nan=False)))
    assert to_json(read) == written
    assert all(read["is_gc"]["auroc"].num_images == 4 == one.num_images for one in read["is_gc"].values())
    consistent = to_json(agreement(LABELS, CHANCES, FINDINGS, list("abcd"), {}, num_replicates=0))
    assert consistent["dr_grade>=4"]["auroc"]["why"] and to_json(from_json(consistent)) == consistent


def test_files_without_sizes_and_bounds_are_read():
    [one] = from_json({"is_gc": {"auroc": {"value": 0.7}, "num_images": 3, "note": "x"}})["is_gc"].values()
    assert (one.name, one.value, one.num_images, one.num_positive) == ("auroc", 0.7, 3, None) and math.isnan(one.low)
    assert from_json({"is_gc": {}}) == {"is_gc": {}}


def test_every_estimate_of_an_evaluation_knows_its_name_and_direction():
    for metrics in evaluate(LABELS, CHANCES, FINDINGS, list("abcd"), num_replicates=0).values():
        for name, one in metrics.items():
            assert one.name == name and one.better == BETTER[name] == ("min" if name in ("ece", "brier") else "max")
