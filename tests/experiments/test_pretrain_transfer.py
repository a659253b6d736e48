"""Transfer studies: which cells there are, that a finished one is not run again, and what the table says."""

import json
import math

import numpy as np
import pytest
from refusals import refuses
from scipy import stats

from callbacks.metrics.estimate import Estimate
from experiments import cells
from experiments.assembly import plain
from experiments.backbone_names import spelt_out
from experiments.cells import Cell, check, run
from experiments.composition import compose_config
from experiments.pretrain_transfer import check_lists, starts_that_cannot_be_had
from experiments.report import config_text
from experiments.transfer.cells import fine_tunings, pretraining
from experiments.transfer.outcome import Outcome, check_metric, differences, figure, outcomes, rows, table

JOB = {
    "pretrain": ["data=phantom"], "finetune": ["data=phantom", "model.findings=[dr_grade]"],
    "common": ["data.num_images=9"],
    "pretrain_init": "random", "init_paths": {},
    "backbones": ["resnet10t", "efficientnet_lite0"], "inits": ["random", "synthetic"],
    "budgets": [0.25, 1.0], "seeds": [3, 4], "metric": "test/macro/auroc", "curve": "val/auroc",
}  # fmt: skip


def test_there_is_a_cell_for_each_start_budget_and_seed(tmp_path):
    found = fine_tunings(tmp_path, JOB)
    assert len(found) == 16 == len({each.cell.folder for each in found})
    first = next(each for each in found if each.init == "synthetic" and each.budget == 0.25 and each.seed == 4)
    assert first.cell.name == "resnet10t_synthetic_025_seed4"
    words = first.cell.words
    assert {"data.train_fraction=0.25", "seed=4", "model/backbone=resnet10t", "data.num_images=9"} <= set(words)
    assert f"model.init.path='{tmp_path / 'pretraining' / 'resnet10t'}'" in words
    before = pretraining(tmp_path, JOB, "resnet10t")
    assert "model/init=random" in before.words and "seed=3" in before.words and before.status == "new"
    assert [each.seed for each in found] == [3] * 8 + [4] * 8, "whole seeds first"
    check([before, *(each.cell for each in found)])


def test_every_budget_has_a_folder_of_its_own(tmp_path):
    found = fine_tunings(tmp_path, {**JOB, "budgets": [0.001, 0.002, 0.1, 0.105, 0.25, 1.0]})
    assert len(found) == 48 == len({each.cell.folder for each in found})


def test_a_file_is_a_start_by_a_name_of_its_own(tmp_path):
    job = {**JOB, "inits": ["retfound"], "init_paths": {"retfound": "it's (mine), x=1.pth"}}
    [first, *_] = fine_tunings(tmp_path / "a (b), c=d", job)
    cfg = compose_config(spelt_out(first.cell.command))
    assert cfg.model.init.path == "it's (mine), x=1.pth" and cfg.model.init._target_.endswith("CheckpointInit")
    assert cfg.output_dir == str(first.cell.folder)


def test_a_misspelt_word_is_said_before_the_first_run(tmp_path):
    job = {**JOB, "finetune": ["data=phantom", "data.num_image=4"]}
    with refuses(ValueError, "'data.num_image'", "num_images"):
        check([each.cell for each in fine_tunings(tmp_path, job)])


def finish(cell, value, low=0.1, high=0.9, status="finished"):
    cell.folder.mkdir(parents=True)
    (cell.folder / "record.json").write_text(json.dumps({"status": status, "metrics": {"val/auroc": 0.7}}))
    interval = {"value": value, "low": low, "high": high}
    (cell.folder / "evaluation.json").write_text(json.dumps({"test": {"macro": {"auroc": interval}}}))


def test_a_finished_cell_is_not_run_again(tmp_path, monkeypatch):
    cell = Cell(tmp_path / "c", ("+exp=classifier_train",))
    finish(cell, 0.8)
    monkeypatch.setattr(cells.subprocess, "run", lambda *a, **k: pytest.fail("it was run"))
    assert run(cell, "cache") == "finished"


def test_a_finished_cell_of_other_settings_is_no_part_of_the_table(tmp_path):
    cell = Cell(tmp_path / "c", ("+exp=classifier_train", "trainer.max_epochs=2"))
    finish(cell, 0.8)
    config = plain(compose_config(cell.command))
    (cell.folder / "config.yaml").write_text(config_text(config))
    check([cell])
    with refuses(ValueError, cell.folder, "trainer.max_epochs"):
        check([Cell(cell.folder, ("+exp=classifier_train", "trainer.max_epochs=3"))])


def test_a_study_that_was_moved_keeps_its_finished_cells(tmp_path):
    def cell(root):
        begun = root / "cells/first/checkpoints/best.ckpt"
        return Cell(
            root / "cells/second", ("+exp=classifier_train", "model/init=checkpoint", f"model.init.path={begun}")
        )

    finish(cell(tmp_path / "old"), 0.8)
    (tmp_path / "old/cells/second/config.yaml").write_text(
        config_text(plain(compose_config(cell(tmp_path / "old").command)))
    )
    (tmp_path / "old").rename(tmp_path / "new")
    check([cell(tmp_path / "new")])


def test_a_mean_over_different_findings_is_refused(tmp_path):
    found = fine_tunings(tmp_path, JOB)[:2]
    for each, name in zip(found, ("is_gc", "is_rvo"), strict=True):
        finish(each.cell, 0.8)
        scores = {"test": {name: {}, "macro": {"auroc": {"value": 0.8, "low": 0.7, "high": 0.9}}}}
        (each.cell.folder / "evaluation.json").write_text(json.dumps(scores))
    with refuses(
        ValueError, "test/macro/auroc", found[0].cell.name, found[1].cell.name, "is_gc", "is_rvo", "model.findings"
    ):
        outcomes(found, {}, "test/macro/auroc")
    assert len(outcomes(found, {}, "test/is_gc/auroc")) == 2


def test_a_cell_that_fails_says_why(tmp_path):
    cell = Cell(tmp_path / "c", ("+exp=classifier_train", "data.num_images=-3"))
    with refuses(ValueError, "cell c", "num_images", -3, cell.folder / "terminal.txt"):
        run(cell, str(tmp_path / "cache"))


def test_the_table_has_every_cell(tmp_path):
    found = fine_tunings(tmp_path, JOB)
    values = {}
    for number, each in enumerate(found):
        if (each.backbone, each.init) == ("resnet10t", "random") and each.budget == 1.0 and each.seed == 4:
            continue  # not run yet
        if each.backbone == "efficientnet_lite0" and each.init == "random":
            continue  # cannot be had
        values[each.backbone, each.init, each.budget, each.seed] = 0.5 + number / 100
        finish(each.cell, 0.5 + number / 100)
    seen = outcomes(found, {"efficientnet_lite0/random": "no hub"}, "test/macro/auroc")
    assert len(seen) == 16
    for each in seen:
        expected = values.get((each.backbone, each.init, each.budget, each.seed), math.nan)
        assert each.value == pytest.approx(expected, nan_ok=True)
    text = table(seen)
    assert "| resnet10t | 25% | 0.540 ± 0.057 (2) | 0.550 ± 0.057 (2) |" in text
    assert "| resnet10t | 100% | 0.520 (1) | 0.570 ± 0.057 (2) |" in text
    assert "| efficientnet_lite0 | 25% | unavailable |" in text
    text = differences(seen, "synthetic")
    assert "| resnet10t | 25% | random | +0.010 | undefined | undefined | +0.010, +0.010 |" in text
    assert "| resnet10t | 100% | random | +0.010 | undefined | undefined | +0.010, - |" in text
    assert "| efficientnet_lite0 | 100% | random | undefined | undefined | undefined | -, - |" in text
    assert len(rows(seen)) == 17 and figure(seen, "test/macro/auroc").shape[2] == 3


def test_differences_are_those_of_a_paired_test():
    first, second = (0.8, 0.7, 0.9), (0.6, 0.65, 0.72)
    starts = {"synthetic": first, "random": second}
    found = [Outcome("resnet10t", init, 0.5, seed, "finished", Estimate(value, 0, 1))
             for init, values in starts.items() for seed, value in enumerate(values)]  # fmt: skip
    gaps = np.subtract(first, second)
    half = stats.t.ppf(0.975, 2) * gaps.std(ddof=1) / np.sqrt(3)
    low, high, p_value = gaps.mean() - half, gaps.mean() + half, stats.ttest_rel(first, second).pvalue
    said = f"{gaps.mean():+.3f} | [{low:+.3f}, {high:+.3f}] | {p_value:.2g}"
    assert f"| resnet10t | 50% | random | {said} | +0.200, +0.050, +0.180 |" in differences(found, "synthetic")


def test_undefined_figures_are_said_to_be(tmp_path):
    found = fine_tunings(
        tmp_path, {**JOB, "backbones": ["resnet10t"], "inits": ["random"], "seeds": [0], "budgets": [1]}
    )
    finish(found[0].cell, None, None, None)
    assert "| resnet10t | 100% | undefined |" in table(outcomes(found, {}, "test/macro/auroc"))


def test_starts_that_cannot_be_had_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    job = {**JOB, "inits": ["imagenet", "random", "synthetic"], "common": ["data.image_size=32"]}

    def no_hub(*arguments, **options):
        raise ConnectionError("no route")

    import timm

    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained=False, **k: no_hub() if pretrained else create(name, **k)
    )
    found = starts_that_cannot_be_had(fine_tunings(tmp_path, job))
    assert list(found) == ["resnet10t/imagenet"] and "no route" in found["resnet10t/imagenet"]


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"seeds": []}, ["job.seeds", "empty"]),
        ({"finetune": ["model.init.path=retfound.pth"]}, ["model.init.path=retfound.pth", "+job.init_paths.retfound"]),
        ({"common": ["model/init=imagenet"]}, ["model/init=imagenet", "+job.init_paths.retfound"]),
        ({"budgets": [0.5, 0]}, ["job.budgets", "holds 0", "(0, 1]"]),
    ],
)
def test_lists_that_mean_nothing(change, facts):
    with refuses(ValueError, *facts):
        check_lists({**JOB, **change})


def test_a_metric_that_is_none():
    with refuses(ValueError, "job.metric=auroc", "evaluation.json"):
        check_metric("auroc")
    check_metric("test/dr_grade/qwk")


@pytest.mark.parametrize(
    ("name", "content"),
    [("record.json", ""), ("record.json", "[]"), ("record.json", "{}"), ("record.json", '{"status": 3}'),
     ("evaluation.json", "{"), ("evaluation.json", '{"test": []}'), ("evaluation.json", '{"test": {"macro": 1}}'),
     ("evaluation.json", '{"test": {"macro": {"auroc": {"value": "high"}}}}'),
     ("evaluation.json", '{"test": {"macro": {"auroc": [0.8]}}}')],
)  # fmt: skip
def test_a_cell_whose_files_are_damaged_is_named_with_the_remedy(tmp_path, name, content):
    found = fine_tunings(tmp_path, JOB)[:1]
    finish(found[0].cell, 0.8)
    (found[0].cell.folder / name).write_text(content)
    with refuses(ValueError, found[0].cell.folder / name, f"{found[0].cell.folder},"):
        outcomes(found, {}, "test/macro/auroc")


def test_names_of_cells_stay_in_the_folder_of_the_study(tmp_path):
    for changed in ({"backbones": ["../../x"]}, {"inits": ["a/b"], "init_paths": {"a/b": "w.pth"}}):
        with refuses(ValueError, "job.backbones", "job.inits", "_025_seed3'"):
            fine_tunings(tmp_path, JOB | changed)
    with refuses(ValueError, "job.backbones", "'../x'"):
        pretraining(tmp_path, JOB, "../x")


def test_a_link_in_the_place_of_the_cells_is_not_written_through(tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    mine.mkdir()
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "cells").symlink_to(mine)
    monkeypatch.setattr(cells.subprocess, "run", lambda *a, **k: pytest.fail("it was run"))
    with refuses(ValueError, tmp_path / "study/cells", f"'{mine}'"):
        run(fine_tunings(tmp_path / "study", JOB)[0].cell, "cache")
    assert list(mine.iterdir()) == []
