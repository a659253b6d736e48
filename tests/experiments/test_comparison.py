"""How runs become groups, and what a comparison says of them, on configurations made by hand."""

import math
from pathlib import Path

import pytest
from scipy import stats
from test_comparison_curves import NAN, curve

from experiments.comparison.curves import Curve
from experiments.comparison.figure import curves_figure
from experiments.comparison.groups import (
    ABSENT,
    SEVERAL,
    Group,
    differences,
    group_by_configuration,
    group_by_name,
)
from experiments.comparison.page import cautions, page, tables
from experiments.comparison.reading import LoggedRun
from experiments.comparison.results import compare
from experiments.comparison.tables import group_table, pair_table, run_table, shown
from experiments.reports.figures import COLOURS


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


def run(name: str, seed: int | None = 0, drawn: Curve | None = None, status: str = "finished", **settings) -> LoggedRun:
    folder = settings.pop("folder", f"runs/{name}")
    record = settings.pop("record", {})
    found = config(seed, folder, **settings)
    return LoggedRun(Path(folder), name, status, seed, found, record, ("val/auroc",), drawn or curve(0.5, 0.7))


def by_seed(label: str, finals: dict[int, float], **settings) -> Group:
    runs = tuple(run(f"{label}{s}", s, curve(0.5, value), **settings) for s, value in finals.items())
    return Group(label, label, runs)


# -- groups over their seeds


def test_a_group_is_over_its_seeds():
    repeated = (run("x", 1, curve(0.5, 0.6)), run("y", 1, curve(0.5, 0.8)), run("z", 2, curve(0.5, 0.9)))
    found = compare([Group("a", "a", repeated)], "val/auroc", "max", threshold=0.75)
    [group] = found.groups
    assert group.final.num_seeds == 2 and group.final.value == pytest.approx((0.7 + 0.9) / 2)
    assert (group.num_reached, group.median_step, group.median_images) == (2, 10, 80)
    assert any("several runs of seed 1" in note for note in cautions(found))


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
    assert finals["a", "c"].test.difference.value == pytest.approx(0.1) and math.isnan(finals["a", "c"].test.p)
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
    start = {"imagenet": {"_target_": "starts.ImageNetInit", "path": None},
             "random": {"_target_": "starts.RandomInit"},
             "ours": {"_target_": "starts.CheckpointInit", "path": "runs/x/last.ckpt"},
             "theirs": {"_target_": "starts.CheckpointInit", "path": "runs/y/last.ckpt"}}  # fmt: skip
    groups = group_by_configuration([run(name, model__init=start[name]) for name in ("imagenet", "random")])
    assert [group.label for group in groups] == ["model.init=ImageNetInit", "model.init=RandomInit"]
    assert differences(groups)["model.init.path"] == ["null", ABSENT]
    groups = group_by_configuration([run(name, model__init=node) for name, node in start.items()])
    assert [group.label for group in groups][2:] == [
        "model.init=CheckpointInit model.init.path=runs/x/last.ckpt",
        "model.init=CheckpointInit model.init.path=runs/y/last.ckpt",
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
    notes = cautions(compare(groups, "val/auroc", "max"))
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
    assert math.isnan(found.groups[0].final.value) and found.groups[0].best.value == pytest.approx(0.75)
    assert any("no finite number: x" in note for note in cautions(found))


def test_where_images_are_unknown_everything_is_over_steps():
    groups = [Group("a", "a", (run("x", 0, trainer__devices="auto"), run("y", 1)))]
    found = compare(groups, "val/auroc", "max", threshold=0.6)
    assert found.axis == "steps" and found.shared == (0, 10) and found.groups[0].median_images is None
    rows = [dict(zip(run_table(found, whole=True).header, row, strict=True)) for row in run_table(found, True).rows]
    assert [row["threshold images"] for row in rows] == ["unknown", 80]
    assert run_table(found).header[-2] == "threshold steps" and "10" in run_table(found).text()
    assert curves_figure(found).axes[0].get_xlabel() == "optimiser steps"
    assert any("cannot be told: x." in note for note in cautions(found))


def test_no_threshold_and_no_range_are_said():
    found = compare([Group("a", "a", (run("x", 0, curve(0.9)),))], "val/auroc", "max")
    assert found.threshold is None and found.shared is None
    text = page(found, {}, [])
    assert "threshold: none: no final value is better than the worst start" in text and "no threshold" in text
    assert "area: undefined" in text


def test_splits_and_revisions_that_differ_are_said():
    records = [{"fingerprints": {"split": name}, "code": {"commit": name * 20}} for name in "xy"]
    runs = [run(name, 0, model__init=name, record=record) for name, record in zip("ab", records, strict=True)]
    notes = " ".join(cautions(compare(group_by_configuration(runs), "val/auroc", "max")))
    assert "2 revisions of the code: xxxxxxxx, yyyyyyyy" in notes and "Runs of seed 0 are of several splits" in notes


def test_many_groups_without_a_pair_have_no_table_of_tests():
    groups = group_by_configuration([run(f"r{i}", i, model__init=f"i{i}") for i in range(4)])
    found = compare(groups, "val/auroc", "max")
    assert [table.title for table in tables(found)] == ["Runs", "Groups"] and len(found.pairs) == 12
    assert any("No two groups share 2 seeds" in note for note in cautions(found))


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
