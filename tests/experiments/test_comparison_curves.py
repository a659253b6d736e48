"""What is read off learning curves and tested between seeds, on numbers made by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.comparison.curves import (
    Curve,
    best_point,
    default_threshold,
    first_reached,
    mean_over,
    shared_range,
)
from experiments.comparison.figure import MOST_POINTS, band, outline
from experiments.comparison.inference import holm, mean_over_seeds, paired
from experiments.comparison.reading import effective_batch, read_curve

NAN = math.nan


def curve(*values: float, every: int = 10) -> Curve:
    steps = every * np.arange(len(values))
    return Curve(steps, np.array(values, dtype=float), steps // every)


# -- what is read off a curve


def test_best_is_the_first_of_equal_ones_and_finite():
    drawn = curve(0.5, math.inf, 0.9, 0.9, NAN, -math.inf, 0.1)
    assert best_point(drawn, "max") == 2 and best_point(drawn, "min") == 6
    assert drawn.final == 0.1 and math.isnan(curve(0.5, NAN).final)


def test_threshold_is_95_percent_of_the_way_from_the_worst_start_to_the_best_final():
    curves = [curve(0.5, 0.99, 0.8), curve(0.4, 0.9), curve(0.6, 0.7)]
    assert default_threshold(curves, "max") == pytest.approx(0.4 + 0.95 * (0.9 - 0.4))  # 0.99 is no final value
    losses = [curve(3.0, 1.0), curve(NAN, 5.0, 2.0), curve(4.0, NAN)]
    assert default_threshold(losses, "min") == pytest.approx(5.0 - 0.95 * 4.0)
    assert default_threshold([curve(0.9, 0.5)], "max") is None and default_threshold([curve(0.9)], "max") is None
    assert default_threshold([curve(0.5, NAN)], "max") is None


def test_the_first_logged_point_at_the_threshold_or_beyond():
    drawn = curve(0.5, 0.7, 0.8, 0.75, 0.9)
    assert first_reached(drawn, 0.8, "max") == 2  # at the threshold
    assert first_reached(drawn, 0.71, "max") == 2  # not in between
    assert first_reached(drawn, 0.91, "max") is None
    assert first_reached(drawn, 0.75, "min") == 0 and first_reached(curve(3, 2, 1), 2, "min") == 1
    assert first_reached(curve(math.inf, 0.5), 0.8, "max") is None


def test_area_is_that_of_a_closed_form():
    x = np.array([0.0, 10.0, 30.0])
    values = 2.0 + 3.0 * x  # a line, the trapezoid is exact whatever the points
    assert mean_over(x, values, 0, 30) == pytest.approx(2 + 3 * 15)
    assert mean_over(x, values, 5, 25) == pytest.approx(2 + 3 * 15)
    assert mean_over(x, values, 12, 14) == pytest.approx(2 + 3 * 13)  # between two points
    fine = np.linspace(0, 1, 2001)
    assert mean_over(fine, fine**2, 0.2, 0.8) == pytest.approx((0.8**3 - 0.2**3) / 3 / 0.6, abs=1e-6)
    assert mean_over(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 0.0]), 0, 2) == pytest.approx(0.5)
    assert math.isnan(mean_over(x, np.array([1.0, NAN, 1.0]), 0, 30))
    assert mean_over(x, np.array([1.0, 1.0, NAN]), 0, 10) == 1.0


def test_the_range_that_all_curves_share():
    assert shared_range([np.array([0.0, 50.0]), np.array([10.0, 40.0]), np.array([5.0, 90.0])]) == (10, 40)
    assert shared_range([np.array([0.0, 5.0]), np.array([5.0, 9.0])]) is None
    assert shared_range([np.array([3.0])]) is None


def test_of_several_rows_of_a_step_the_last_wins_for_each_metric():
    rows = [
        {"step": "0", "epoch": "", "a": "1.0", "b": ""},
        {"step": "20", "epoch": "1", "a": "3.0", "b": ""},
        {"step": "10", "epoch": "0", "a": "2.0", "b": "7.0"},
        {"step": "10", "epoch": "", "a": "2.5", "b": ""},
        {"step": "", "epoch": "5", "a": "9.0", "b": ""},
    ]
    a, b = (read_curve(rows, name, Path("metrics.csv")) for name in "ab")
    assert a.steps.tolist() == [0, 10, 20] and a.values.tolist() == [1.0, 2.5, 3.0] and a.epochs.tolist() == [-1, 0, 1]
    assert b.steps.tolist() == [10] and b.values.tolist() == [7.0]
    assert read_curve([{"step": "1", "a": "nan"}], "a", Path("metrics.csv")) is None


@pytest.mark.parametrize(
    ("trainer", "record", "images"),
    [({"devices": 4, "num_nodes": 2, "accumulate_grad_batches": 3}, {"num_processes": 1}, 8 * 4 * 2 * 3),
     ({"devices": [0, 2]}, {}, 16),
     ({"devices": "auto"}, {"num_processes": 3}, 24),
     ({"devices": -1}, {"num_processes": 3}, 24),
     ({"devices": "auto", "accumulate_grad_batches": None}, {}, None),
     ({"devices": 1, "accumulate_grad_batches": "many"}, {}, None),
     (None, {"num_processes": 1}, None)],
    ids=["all", "list", "auto", "minus", "unknown", "odd", "absent"],
)  # fmt: skip
def test_images_of_a_step(trainer, record, images):
    assert effective_batch({"data": {"batch_size": 8}, "trainer": trainer}, record) == images
    assert effective_batch({"data": {"batch_size": None}, "trainer": trainer}, record) is None


# -- seeds and tests


def test_mean_and_interval_are_those_of_scipy():
    values = [0.71, 0.74, 0.69, 0.8]
    found = mean_over_seeds(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert found.num_seeds == 4
    assert (found.value, found.deviation) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    one = mean_over_seeds([0.5])
    assert (one.num_seeds, one.value) == (1, 0.5) and all(map(math.isnan, (one.deviation, one.low, one.high)))
    assert math.isnan(mean_over_seeds([0.5, NAN]).value) and math.isnan(mean_over_seeds([]).value)


def test_seeds_are_paired_by_number_and_not_by_order():
    first = {3: 0.9, 1: 0.7, 2: 0.8, 8: 0.1}
    second = {1: 0.68, 2: 0.79, 3: 0.85, 9: 0.99}
    found = paired(first, second)
    wanted = stats.ttest_rel([0.7, 0.8, 0.9], [0.68, 0.79, 0.85])
    mean = found.difference
    assert mean.num_seeds == 3 and mean.value == pytest.approx((0.02 + 0.01 + 0.05) / 3)
    assert (found.statistic, found.p) == (pytest.approx(wanted.statistic), pytest.approx(wanted.pvalue))
    bounds = wanted.confidence_interval(0.95)
    assert (mean.low, mean.high) == (pytest.approx(bounds.low), pytest.approx(bounds.high))


@pytest.mark.parametrize(
    ("first", "second", "num"),
    [({1: 0.5}, {1: 0.4}, 1), ({1: 0.5}, {2: 0.4}, 0), ({1: 0.5, 2: 0.6}, {1: 0.5, 2: NAN}, 2),
     ({1: 0.3, 2: 0.6, 3: 0.9}, {1: 0.1, 2: 0.4, 3: 0.7}, 3)],
    ids=["one", "none", "nan", "equal"],
)  # fmt: skip
def test_a_test_that_is_undefined(first, second, num):
    found = paired(first, second)
    assert found.difference.num_seeds == num and math.isnan(found.difference.low)
    assert math.isnan(found.p) and math.isnan(found.statistic)


def test_holm_by_hand():
    assert holm([0.04, 0.01, NAN, 0.03]) == [0.06, pytest.approx(0.03), pytest.approx(NAN, nan_ok=True), 0.06]
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


# -- what is drawn of curves


def test_a_band_spans_its_curves_over_the_range_that_they_share():
    x = [np.array([0.0, 10.0, 20.0]), np.array([5.0, 15.0])]
    drawn = band(x, [np.array([0.0, 10.0, 20.0]), np.array([1.0, 3.0])])
    assert drawn.x.tolist() == [5, 10, 15]
    assert drawn.mean.tolist() == [3, 6, 9] and drawn.least.tolist() == [1, 2, 3]
    assert drawn.greatest.tolist() == [5, 10, 15]
    assert band([np.array([0.0]), np.array([1.0])], [np.array([0.0]), np.array([1.0])]) is None


def test_what_is_drawn_of_a_long_curve_keeps_its_peaks():
    values = np.zeros(10_000)
    values[[1234, 7777]] = 5, -5
    seen = outline(values)
    assert {0, 1234, 7777, 9_999} <= set(seen.tolist()) and len(seen) <= MOST_POINTS and (np.diff(seen) > 0).all()
    assert outline(values[:7]).tolist() == list(range(7))
    long = np.linspace(0, 1, 50_000)
    drawn = band([long, long], [long, 3 * long])
    assert len(drawn.x) == MOST_POINTS and (drawn.x[0], drawn.x[-1]) == (0, 1)
    assert drawn.mean == pytest.approx(2 * drawn.x)
