"""What is read off learning curves, and how runs become groups, on curves and configurations made by hand."""

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
    mode_by_name,
    shared_range,
)
from experiments.comparison.figure import COLOURS, MOST_POINTS, band, curves_figure, outline
from experiments.comparison.groups import (
    ABSENT,
    SEVERAL,
    Group,
    differences,
    group_by_configuration,
    group_by_name,
)
from experiments.comparison.inference import holm, paired, spread
from experiments.comparison.page import page, tables, to_heed
from experiments.comparison.reading import Run, effective_batch, read_curve
from experiments.comparison.results import compare
from experiments.comparison.tables import group_table, pair_table, run_table, shown

NAN = math.nan


def curve(*values: float, every: int = 10) -> Curve:
    steps = every * np.arange(len(values))
    return Curve(steps, np.array(values, dtype=float), steps // every)


def config(seed: int | None = 0, folder: str = "runs/a", **settings) -> dict:
    """A resolved configuration: the seed and the folder are in several places, as in real ones."""
    found = {
        "name": "classifier_train",
        "seed": seed,
        "resume": None,
        "ckpt": None,
        "output_dir": folder,
        "cache_dir": "cache",
        "data": {"batch_size": 8, "module": {"batch_size": 8, "seed": seed, "cache_dir": "cache"}},
        "trainer": {"devices": 1, "num_nodes": 1, "accumulate_grad_batches": 1},
        "model": {"init": "random", "backbone": {"_target_": "nets.resnet50", "name": "resnet50"}},
        "callbacks": {"grid": {"output_dir": folder, "file": f"{folder}/grid.png"}},
    }
    for key, value in settings.items():
        *parents, last = key.split("__")
        node = found
        for parent in parents:
            node = node[parent]
        node[last] = value
    return found


def run(name: str, seed: int | None = 0, drawn: Curve | None = None, status: str = "finished", **settings) -> Run:
    folder = settings.pop("folder", f"runs/{name}")
    record = settings.pop("record", {})
    found = config(seed, folder, **settings)
    return Run(Path(folder), name, status, seed, found, record, ("val/auroc",), drawn or curve(0.5, 0.7))


def by_seed(label: str, finals: dict[int, float], **settings) -> Group:
    runs = tuple(run(f"{label}{s}", s, curve(0.5, value), **settings) for s, value in finals.items())
    return Group(label, label, runs)


# -- what is read off a curve


@pytest.mark.parametrize(
    ("metric", "mode"),
    [("val/loss", "min"), ("val/fd_efficientnet_lite0", "min"), ("val/kd_x", "min"), ("test/ece", "min"),
     ("val/brier_macro", "min"), ("val/fid", "min"), ("val/auroc", "max"), ("val/psnr", "max"),
     ("val/lossless", "max"), ("val/feceal", "max"), ("FD", "min")],
)  # fmt: skip
def test_direction_by_the_words_of_the_name(metric, mode):
    assert mode_by_name(metric) == mode


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
    found = spread(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert found[:3] == (4, pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    assert found[3:] == (pytest.approx(low), pytest.approx(high))
    assert spread([0.5])[:2] == (1, 0.5) and all(map(math.isnan, spread([0.5])[2:]))
    assert math.isnan(spread([0.5, NAN]).mean) and math.isnan(spread([]).mean)


def test_seeds_are_paired_by_number_and_not_by_order():
    first = {3: 0.9, 1: 0.7, 2: 0.8, 8: 0.1}
    second = {1: 0.68, 2: 0.79, 3: 0.85, 9: 0.99}
    found = paired(first, second)
    wanted = stats.ttest_rel([0.7, 0.8, 0.9], [0.68, 0.79, 0.85])
    assert found.num == 3 and found.difference == pytest.approx((0.02 + 0.01 + 0.05) / 3)
    assert (found.statistic, found.p) == (pytest.approx(wanted.statistic), pytest.approx(wanted.pvalue))
    bounds = wanted.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(bounds.low), pytest.approx(bounds.high))


@pytest.mark.parametrize(
    ("first", "second", "num"),
    [({1: 0.5}, {1: 0.4}, 1), ({1: 0.5}, {2: 0.4}, 0), ({1: 0.5, 2: 0.6}, {1: 0.5, 2: NAN}, 2),
     ({1: 0.3, 2: 0.6, 3: 0.9}, {1: 0.1, 2: 0.4, 3: 0.7}, 3)],
    ids=["one", "none", "nan", "equal"],
)  # fmt: skip
def test_a_test_that_is_undefined(first, second, num):
    found = paired(first, second)
    assert found.num == num and math.isnan(found.p) and math.isnan(found.statistic) and math.isnan(found.low)


def test_holm_by_hand():
    assert holm([0.04, 0.01, NAN, 0.03]) == [0.06, pytest.approx(0.03), pytest.approx(NAN, nan_ok=True), 0.06]
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


def test_a_group_is_over_its_seeds():
    repeated = (run("x", 1, curve(0.5, 0.6)), run("y", 1, curve(0.5, 0.8)), run("z", 2, curve(0.5, 0.9)))
    found = compare([Group("a", "a", repeated)], "val/auroc", "max", threshold=0.75)
    [group] = found.groups
    assert group.num_seeds == 2 and group.final.mean == pytest.approx((0.7 + 0.9) / 2)
    assert (group.num_reached, group.median_step, group.median_images) == (2, 10, 80)
    assert any("several runs of seed 1" in note for note in to_heed(found))


@pytest.mark.parametrize(("finals", "median"), [([0.9, 0.9, 0.5], 10), ([0.9, 0.5], math.inf), ([0.5], math.inf)])
def test_a_median_counts_what_was_not_reached_as_beyond(finals, median):
    found = compare([by_seed("a", dict(enumerate(finals)))], "val/auroc", "max", threshold=0.75)
    assert found.groups[0].median_step == median and found.groups[0].num_reached == finals.count(0.9)
    word = "10" if median == 10 else "not reached"
    assert str(group_table(found, whole=True).rows[0][-2]) == word


def test_tests_between_groups():
    groups = [by_seed("a", {0: 0.7, 1: 0.8, 2: 0.9}), by_seed("b", {2: 0.85, 0: 0.68, 1: 0.79}), by_seed("c", {0: 0.6})]
    found = compare(groups, "val/auroc", "max")
    finals = {(pair.first.label, pair.second.label): pair for pair in found.pairs if pair.what == "final"}
    assert finals["a", "b"].test.p == pytest.approx(stats.ttest_rel([0.7, 0.8, 0.9], [0.68, 0.79, 0.85]).pvalue)
    assert found.corrected and finals["a", "b"].corrected == finals["a", "b"].test.p  # the only one that is defined
    assert finals["a", "c"].test.difference == pytest.approx(0.1) and math.isnan(finals["a", "c"].test.p)
    header, rows = pair_table(found).header, pair_table(found).rows
    assert header[-1] == "p, Holm" and rows[1][:4] == ("final", "a", "c", 1) and set(rows[1][5:]) == {"undefined"}
    two = compare(groups[:2], "val/auroc", "max")
    assert not two.corrected and pair_table(two).header[-1] == "p"


# -- groups by configuration


def test_runs_that_differ_in_seed_and_places_alone_are_one_group():
    runs = [
        run("a", 0),
        run("b", 1, cache_dir="elsewhere", resume="runs/a/checkpoints/last.ckpt", ckpt=None),
        run("c", 2, folder="out"),
        run("d", 3, callbacks__grid={"output_dir": "elsewhere", "file": "runs/d/grid.png"}),
    ]
    [group] = group_by_configuration(runs)
    assert group.runs == tuple(runs) and group.label == group.tag == "classifier_train" and differences([group]) == {}


def test_a_label_is_what_groups_differ_in():
    runs = [run("a", 0, model__init="imagenet"), run("b", 0), run("c", 1, model__init="imagenet"), run("d", 1)]
    groups = group_by_configuration(runs)
    assert [group.label for group in groups] == ["model.init=imagenet", "model.init=random"]
    assert [[member.name for member in group.runs] for group in groups] == [["a", "c"], ["b", "d"]]
    assert differences(groups) == {"model.init": ["imagenet", "random"]}


def test_a_copy_of_a_setting_is_not_named_twice():
    larger = {"data__batch_size": 16, "data__module": {"batch_size": 16, "seed": 0, "cache_dir": "x"}}
    other = {"_target_": "nets.vit", "name": "vit", "depth": 12}
    groups = group_by_configuration([run("a"), run("b", **larger), run("c", model__backbone=other)])
    assert [group.label for group in groups] == [
        "data.batch_size=8 model.backbone=resnet50 model.backbone.name=resnet50",
        "data.batch_size=16 model.backbone=resnet50 model.backbone.name=resnet50",
        "data.batch_size=8 model.backbone=vit model.backbone.name=vit",
    ]
    assert [group.tag for group in groups] == ["A", "B", "C"]
    assert differences(groups)["model.backbone.depth"] == [ABSENT, ABSENT, "12"]


def test_a_class_stands_for_the_settings_that_it_alone_has():
    start = {"imagenet": {"_target_": "starts.ImageNetStart", "path": None},
             "random": {"_target_": "starts.RandomStart"},
             "ours": {"_target_": "starts.CheckpointStart", "path": "runs/x/last.ckpt"},
             "theirs": {"_target_": "starts.CheckpointStart", "path": "runs/y/last.ckpt"}}  # fmt: skip
    groups = group_by_configuration([run(name, model__init=start[name]) for name in ("imagenet", "random")])
    assert [group.label for group in groups] == ["model.init=ImageNetStart", "model.init=RandomStart"]
    assert differences(groups)["model.init.path"] == ["null", ABSENT]
    groups = group_by_configuration([run(name, model__init=node) for name, node in start.items()])
    assert [group.label for group in groups][2:] == [
        "model.init=CheckpointStart model.init.path=runs/x/last.ckpt",
        "model.init=CheckpointStart model.init.path=runs/y/last.ckpt",
    ]


def test_a_part_that_only_one_group_has_is_called_by_its_class():
    extra = {"callbacks__frechet": {"num_images": 128, "_target_": "callbacks.fid.FrechetDistance"}}
    groups = group_by_configuration([run("a", **extra), run("b")])
    assert [group.label for group in groups] == ["callbacks.frechet=FrechetDistance", "callbacks.frechet=absent"]


def test_more_settings_than_a_label_holds_are_counted():
    many = {f"extra{i}": 1 for i in range(5)}
    groups = group_by_configuration([run("a", **many), run("b", **dict.fromkeys(many, 2))])
    assert groups[1].label == "extra0=2 extra1=2 extra2=2 (+2 more)" and len(differences(groups)) == 5


def test_long_values_that_begin_alike_still_have_labels_of_their_own():
    groups = group_by_configuration([run("a", model__init="x" * 50 + "1"), run("b", model__init="x" * 50 + "2")])
    assert len({group.label for group in groups}) == 2 and all("…" in group.label for group in groups)


def test_a_checkpoint_counts_but_not_its_path():
    runs = [run("a", 0, ckpt="pre/0.ckpt"), run("b", 1, ckpt="pre/1.ckpt"), run("c", 0)]
    groups = group_by_configuration(runs)
    assert [[member.name for member in group.runs] for group in groups] == [["a", "b"], ["c"]]
    assert [group.label for group in groups] == ["ckpt=<checkpoint>", "ckpt=null"]
    notes = to_heed(compare(groups, "val/auroc", "max"))
    assert any("start from 2 checkpoints" in note for note in notes)


def test_a_seed_that_is_fixed_is_no_difference_and_one_that_is_a_factor_is():
    fixed = {"batch_size": 8, "seed": 0}
    assert len(group_by_configuration([run("a", 0, data__module=fixed), run("b", 1, data__module=fixed)])) == 1
    runs = [run(f"{own}{data}", own, data__module={"seed": data}) for own in (0, 1) for data in (5, 6)]
    groups = group_by_configuration(runs)
    assert [group.label for group in groups] == ["data.module.seed=5", "data.module.seed=6"]
    assert [[member.seed for member in group.runs] for group in groups] == [[0, 1], [0, 1]]


def test_named_groups_may_hold_several_configurations():
    members = [run("a"), run("b", model__init="imagenet"), run("c", model__init="imagenet")]
    groups = group_by_name({"one": members[:2], "two": members[2:], "none": []})
    assert [group.label for group in groups] == ["one", "two"]
    assert differences(groups) == {"model.init": [SEVERAL, "imagenet"]}


# -- tables, the page and the figure


def test_a_run_that_diverged_is_not_averaged_away():
    groups = [Group("a", "a", (run("x", 0, curve(0.5, 0.7, NAN)), run("y", 1, curve(0.5, 0.7, 0.8))))]
    found = compare(groups, "val/auroc", "max", threshold=0.65)
    row = dict(zip(run_table(found, whole=True).header, run_table(found, whole=True).rows[0], strict=True))
    assert row["final"] == row["area"] == "undefined" and row["best"] == 0.7 and row["threshold step"] == 10
    assert math.isnan(found.groups[0].final.mean) and found.groups[0].best.mean == pytest.approx(0.75)
    assert any("no finite number: x" in note for note in to_heed(found))


def test_where_images_are_unknown_everything_is_over_steps():
    groups = [Group("a", "a", (run("x", 0, trainer__devices="auto"), run("y", 1)))]
    found = compare(groups, "val/auroc", "max", threshold=0.6)
    assert found.axis == "steps" and found.shared == (0, 10) and found.groups[0].median_images is None
    rows = [dict(zip(run_table(found, whole=True).header, row, strict=True)) for row in run_table(found, True).rows]
    assert [row["threshold images"] for row in rows] == ["unknown", 80]
    assert run_table(found).header[-2] == "threshold steps" and "10" in run_table(found).text()
    assert curves_figure(found).axes[0].get_xlabel() == "optimiser steps"
    assert any("cannot be told: x." in note for note in to_heed(found))


def test_no_threshold_and_no_range_are_said():
    found = compare([Group("a", "a", (run("x", 0, curve(0.9)),))], "val/auroc", "max")
    assert found.threshold is None and found.shared is None
    text = page(found, {}, [])
    assert "threshold: none: no final value is better than the worst start" in text and "no threshold" in text
    assert "area: undefined" in text


def test_splits_and_revisions_that_differ_are_said():
    records = [{"fingerprints": {"split": name}, "code": {"commit": name * 20}} for name in "xy"]
    runs = [run(name, 0, model__init=name, record=record) for name, record in zip("ab", records, strict=True)]
    notes = " ".join(to_heed(compare(group_by_configuration(runs), "val/auroc", "max")))
    assert "2 revisions of the code: xxxxxxxx, yyyyyyyy" in notes and "Runs of seed 0 are of several splits" in notes


def test_many_groups_without_a_pair_have_no_table_of_tests():
    groups = group_by_configuration([run(f"r{i}", i, model__init=f"i{i}") for i in range(4)])
    found = compare(groups, "val/auroc", "max")
    assert [table.title for table in tables(found)] == ["Runs", "Groups"] and len(found.pairs) == 12
    assert any("No two groups share 2 seeds" in note for note in to_heed(found))


@pytest.mark.parametrize(
    ("cell", "text"),
    [(0.9, "0.9000"), (0.12345, "0.1235"), (388.44, "388.4"), (5000.0, "5000"), (123456.7, "123,457"),
     (1234, "1,234"), ("unknown", "unknown"), (-0.5, "-0.5000")],
)  # fmt: skip
def test_a_number_as_it_is_read(cell, text):
    assert shown(cell) == text


def test_names_that_mean_something_in_markdown_are_shown_as_they_are():
    groups = group_by_configuration([run("a|b<c>", model__init="x|y"), run("d", model__init="z")])
    text = page(compare(groups, "val/a|b", "max"), differences(groups), ["a warning | of <this>"])
    assert "| a\\|b&lt;c> |" in text and "model.init=x\\|y" in text and "a warning \\| of &lt;this>" in text


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


def test_the_figure_has_a_line_a_run_a_mean_a_group_and_the_threshold():
    groups = [by_seed("$a_{$", {0: 0.7, 1: 0.8}), by_seed("_b", {0: 0.6, 1: 0.7}), by_seed("c" * 150, {0: 0.9})]
    figure = curves_figure(compare(groups, "val/$auroc_$", "max", threshold=0.65))
    figure.canvas.draw()  # would fail on mathematics that is none
    [axes], [legend] = figure.axes, figure.legends
    lines = [(line.get_color(), line.get_linewidth()) for line in axes.get_lines()]
    assert lines.count((COLOURS[0], 0.7)) == 2 and lines.count((COLOURS[0], 1.9)) == 1
    assert lines.count((COLOURS[2], 1.9)) == 1 and len(lines) == 3 + 3 + 1 + 1 and len(axes.collections) == 2
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[0] == "$a_{$ (2 runs)" and texts[1] == "_b (2 runs)" and "\n" in texts[2]
    assert texts[-1] == "threshold 0.65" and axes.get_ylabel() == "val/$auroc_$ (more is better)"
    assert axes.get_xlabel() == "training images"
