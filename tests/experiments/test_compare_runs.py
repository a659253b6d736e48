"""`+exp=compare_runs` on folders of runs made by hand, whose curves, seeds and configurations are known."""

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf
from PIL import Image
from refusals import refuses
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.compare_runs import compare_runs
from experiments.comparison.figure import WIDTH
from experiments.composition import compose_config
from experiments.reports.figures import DPI
from experiments.session import Run

AUROC = "job.metric=val/auroc"
FINALS = {("imagenet", 0): 0.90, ("imagenet", 1): 0.94, ("imagenet", 2): 0.91,
          ("random", 2): 0.80, ("random", 0): 0.81, ("random", 1): 0.86}  # fmt: skip


def write_run(
    folder: Path, rows: list[str], seed: int = 0, status: str = "finished", batch: int = 8, **model: str
) -> Path:
    """A folder as a run leaves it; `rows` are those of metrics.csv, its header first."""
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    config = {
        "name": "classifier_train",
        "seed": seed,
        "output_dir": str(folder),
        "data": {"batch_size": batch, "module": {"seed": seed}},
        "trainer": {"devices": 2, "num_nodes": 1, "accumulate_grad_batches": 3},
        "model": model,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    record = {"status": status, "seed": seed, "num_processes": 2, "sessions": [], "metrics": {}}
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def rows_of(values: list[float], metric: str = "val/auroc", every: int = 100) -> list[str]:
    """Values of the steps 0, 100, …, with lines of another metric between them."""
    lines = [f"step,epoch,train/loss,{metric}"]
    for place, value in enumerate(values):
        lines += [f"{every * place},{place},,{value!r}", f"{every * place + 10},{place},{1 / (place + 1)!r},"]
    return lines


def curve_to(final: float) -> list[float]:
    """0.5, a quarter of the way, then three quarters, more than all of it, and the final value."""
    return [0.5 + share * (final - 0.5) for share in (0, 0.25, 0.75, 1.01, 1)]


def write_runs(root: Path) -> None:
    """Two groups of three seeds, whose folders sort unlike their seeds."""
    for place, ((init, seed), final) in enumerate(FINALS.items()):
        write_run(root / f"{init}_{9 - place}", rows_of(curve_to(final)), seed, init=init)


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def compared(folder: Path, *words: str, groups: dict | None = None) -> Path:
    """Run the job with these words; the folder of its comparison."""
    cfg = compose_config(["+exp=compare_runs", f"output_dir={folder / 'out'}", *words])
    OmegaConf.set_struct(cfg, False)
    compare_runs(Run(OmegaConf.merge(cfg, {"job": {"groups": groups or {}}})))
    return folder / "out"


# -- from end to end


@pytest.mark.smoke
def test_two_groups_of_three_seeds(command, here):
    write_runs(here / "runs")
    result = command("+exp=compare_runs", "job.runs=[runs/*]", AUROC, "output_dir=out")
    assert result.code == 0, result.err
    threshold = 0.5 + 0.95 * (0.94 - 0.5)
    for line in ("── comparison", f"threshold: {threshold:.6g} (95 % of the way", "model.init=imagenet",
                 "── paired tests", "over the images 0 to 19,200, which the curves of all runs cover",
                 "figure:    out/comparison.png", "no number of seeds measures that", "not reached",
                 "everything:   out"):  # fmt: skip
        assert line in result.out, line
    rows = {row["run"]: row for row in table(here / "out" / "comparison.csv")}
    assert len(rows) == 6 and list(rows) == sorted(rows)
    first = rows["imagenet_8"]
    assert (first["seed"], first["group"], first["status"]) == ("1", "model.init=imagenet", "finished")
    assert float(first["final"]) == curve_to(0.94)[-1] and float(first["best"]) == curve_to(0.94)[3]
    assert (first["best_step"], first["best_epoch"], first["folder"]) == ("300", "3", "runs/imagenet_8")
    assert (first["threshold_step"], first["threshold_images"]) == ("300", str(300 * 8 * 2 * 3))
    assert float(first["area"]) == pytest.approx(np.trapezoid(curve_to(0.94)) / 4)
    assert rows["random_5"]["threshold_images"] == rows["random_5"]["threshold_epoch"] == "not reached"
    check_groups(here / "out")
    check_files(here / "out", here)


def check_groups(output_dir: Path) -> None:
    """The numbers of the groups and of the tests are those of scipy."""
    imagenet, random = table(output_dir / "groups.csv")
    finals = {init: [FINALS[init, seed] for seed in range(3)] for init in ("imagenet", "random")}
    assert (imagenet["runs"], imagenet["seeds"], imagenet["reached"]) == ("3", "3", "1")
    assert imagenet["median_threshold_images"] == random["median_threshold_step"] == "not reached"
    assert float(random["final_mean"]) == pytest.approx(np.mean(finals["random"]))
    assert float(random["final_deviation"]) == pytest.approx(np.std(finals["random"], ddof=1))
    low, high = stats.t.interval(0.95, 2, np.mean(finals["random"]), stats.sem(finals["random"]))
    assert (float(random["final_low"]), float(random["final_high"])) == (pytest.approx(low), pytest.approx(high))
    final, best = table(output_dir / "tests.csv")
    assert (final["value"], best["value"], final["pairs"]) == ("final", "best", "3")
    assert (final["first_group"], final["second_group"]) == ("model.init=imagenet", "model.init=random")
    assert float(final["p"]) == pytest.approx(stats.ttest_rel(finals["imagenet"], finals["random"]).pvalue)
    assert "p_holm" not in final


def check_files(output_dir: Path, here: Path) -> None:
    """The figure, the page, TensorBoard and the record are there."""
    with Image.open(output_dir / "comparison.png") as picture:
        assert picture.width == WIDTH * DPI and picture.height > 700 and round(picture.info["dpi"][0]) == DPI
        pixels = np.asarray(picture.convert("RGB"))
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100 and (pixels[0] == 255).mean() > 0.9
    text = (output_dir / "comparison.md").read_text()
    for line in ("# Runs compared by val/auroc", "![Learning curves](comparison.png)", "| imagenet_8 |", "## Groups",
                 "## Paired tests", "| model.init | imagenet | random |", "## What the words mean"):  # fmt: skip
        assert line in text, line
    board = EventAccumulator(str(output_dir / "tensorboard"), size_guidance={"images": 0, "tensors": 0})
    board.Reload()
    assert board.Tags()["images"] == ["comparison/curves"]
    assert board.Images("comparison/curves")[0].width == WIDTH * DPI
    assert "comparison/runs/text_summary" in board.Tags()["tensors"]
    record = json.loads((output_dir / "record.json").read_text())
    assert record["status"] == "finished" and len(record["runs"]) == 6
    assert record["metrics"]["comparison/num_groups"] == 2
    assert yaml.safe_load((output_dir / "config.yaml").read_text())["job"]["metric"] == "val/auroc"
    assert {path.name for path in here.iterdir()} == {"runs", "out"}, "a run writes there and nowhere else"


def test_groups_by_name_on_the_command_line(command, here):
    write_runs(here / "runs")
    named = "+job.groups={new: [runs/imagenet_*], old: [runs/random_5, runs/random_6, runs/random_4]}"
    result = command("+exp=compare_runs", named, AUROC, "output_dir=out")
    assert result.code == 0, result.err
    assert [row["group"] for row in table(here / "out" / "groups.csv")] == ["new", "old"]


def test_groups_by_name(tmp_path):
    write_runs(tmp_path / "runs")
    runs = tmp_path / "runs"
    named = {"old": [f"{runs}/random_*"], "new": [f"{runs}/imagenet_*"]}
    out = compared(tmp_path, AUROC, f"job.runs=[{runs}/*]", groups=named)
    assert [row["group"] for row in table(out / "groups.csv")] == ["old", "new"]
    assert {row["run"]: row["group"] for row in table(out / "comparison.csv")}["imagenet_9"] == "new"


def test_direction_threshold_and_last_of_several_rows(tmp_path):
    rows = ["step,epoch,val/loss", "0,0,4.0", "100,1,2.0", "100,1,3.0", "200,2,1.0", "300,3,1.5", "400,4,0.1"]
    write_run(tmp_path / "a", [*rows[:-1], rows[-1][:-1]])
    with open(tmp_path / "a" / "metrics.csv", "r+b") as file:  # the last line is cut by a kill
        file.truncate(file.seek(-2, 2))
    out = compared(tmp_path, f"job.runs=[{tmp_path / 'a'}]", "job.metric=val/loss", "job.threshold=3")
    [row] = table(out / "comparison.csv")
    assert (row["final"], row["best"], row["best_step"], row["threshold_step"]) == ("1.5", "1.0", "200", "100")
    out = compared(tmp_path / "x", f"job.runs=[{tmp_path / 'a'}]", "job.metric=val/loss", "job.mode=max")
    assert table(out / "comparison.csv")[0]["best"] == "4.0"
    assert "the greatest value (as given)" in (out / "comparison.md").read_text()


def test_runs_that_did_not_finish_are_marked(command, here):
    write_runs(here / "runs")
    write_run(here / "runs" / "killed", rows_of([0.5, 0.6]), 3, "running", init="random")
    write_run(here / "runs" / "failed", rows_of([0.5, 0.7]), 4, "failed", init="random")
    (here / "runs" / "failed" / "record.json").write_text("{")
    result = command("+exp=compare_runs", "job.runs=[runs/*]", AUROC, "output_dir=out")
    assert result.code == 0, result.err
    assert "Not finished: failed (unknown), killed (running)." in result.out and "RUNNING" in result.out
    assert [row["seeds"] for row in table(here / "out" / "groups.csv")] == ["5", "3"]
    assert "to 4,800, which the curves of all runs cover; failed ends first" in result.out


def test_a_comparison_among_its_runs_is_not_compared_and_may_be_made_again(command, here):
    write_runs(here / "runs")
    words = ["+exp=compare_runs", "job.runs=[runs/*,runs/random_4]", AUROC, "output_dir=runs/out"]
    assert command(*words).code == 0
    again = command(*words, "resume=auto")
    assert again.code == 0 and "Left out" not in again.out, again.err
    assert len(table(here / "runs" / "out" / "comparison.csv")) == 6


def test_ten_runs_of_ten_thousand_rows_take_seconds(tmp_path):
    generator = np.random.default_rng(0)
    for seed in range(10):
        values = generator.random((10_000, 6))
        rows = ["step,epoch,a,b,c,d,e,val/auroc"]
        rows += [f"{step},{step // 100}," + ",".join(map(repr, row.tolist())) for step, row in enumerate(values)]
        write_run(tmp_path / "runs" / str(seed), rows, seed % 5, init="ab"[seed // 5])
    start = time.process_time()  # other work on the machine does not count
    out = compared(tmp_path, f"job.runs=[{tmp_path / 'runs'}/*]", AUROC)
    assert time.process_time() - start < 5 and len(table(out / "comparison.csv")) == 10


# -- mistakes


def lacking_metric(here: Path) -> None:
    write_runs(here / "runs")
    write_run(here / "runs" / "other", rows_of([1.0, 0.5], "val/loss"))
    write_run(here / "runs" / "empty", rows_of([float("nan")]), init="random")


def test_a_run_that_lacks_the_metric_is_left_out_and_named(command, here):
    lacking_metric(here)
    (here / "runs" / "nothing").mkdir()
    result = command("+exp=compare_runs", "job.runs=[runs/*]", AUROC, "output_dir=out")
    assert result.code == 0, result.err
    for note in ("Left out, for they log no finite val/auroc: empty, other.",
                 "Left out, for they have no metrics.csv: runs/nothing."):  # fmt: skip
        assert note in result.out and note in (here / "out" / "comparison.md").read_text()
    assert len(table(here / "out" / "comparison.csv")) == 6


def no_config(here: Path) -> None:
    write_runs(here / "runs")
    (here / "runs" / "random_4" / "config.yaml").unlink()


def bad_config(here: Path) -> None:
    write_runs(here / "runs")
    (here / "runs" / "random_4" / "config.yaml").write_text("{")


def no_number(here: Path) -> None:
    write_run(here / "runs" / "a", ["step,epoch,val/auroc", "0,0,0.5", "10,1,high"])


def no_steps(here: Path) -> None:
    write_run(here / "runs" / "a", ["time,val/auroc", "0,0.5"])


def unknown_direction(here: Path) -> None:
    write_run(here / "runs" / "a", ["step,epoch,val/roughness", "0,0,9.0", "10,1,4.0"])


def no_metrics(here: Path) -> None:
    write_runs(here / "runs" / "inner")
    (here / "runs" / "void").mkdir()


ALL = "job.runs=[runs/*]"
MISTAKES = {
    "no runs": (write_runs, [AUROC], "job.runs is empty: name folders of runs"),
    "text": (write_runs, ["job.runs=runs", AUROC], "job.runs=runs: a list is needed here"),
    "no match": (write_runs, ["job.runs=[runs/rendom_*]", AUROC],
                 "job.runs=runs/rendom_*: no folder of that name, or that matches it. Folders in runs: imagenet_7, "
                 "imagenet_8, imagenet_9, random_4, random_5, … (6 in all)."),
    "a file": (write_runs, ["job.runs=[runs/random_4/metrics.csv]", AUROC], "the folder of the run: runs/random_4."),
    "no metrics": (no_metrics, ["job.runs=[runs]", AUROC],
                   "runs has no metrics.csv: no run logged anything there. Runs below it: runs/inner/imagenet_7,"),
    "none of a pattern": (no_metrics, [ALL, AUROC], "none of the 2 folders that match has a metrics.csv: runs/inner, "),
    "no metric": (write_runs, [ALL], "job.metric must be given: job.metric=NAME. Logged: train/loss, val/auroc."),
    "unknown metric": (write_runs, [ALL, "job.metric=val/auroq"],
                       "no run logs it: did you mean val/auroc? Logged: train/loss, val/auroc."),
    "the epoch": (write_runs, [ALL, "job.metric=epoch"], "job.metric=epoch: no run logs it."),
    "nowhere finite": (lambda here: write_run(here / "runs" / "a", rows_of([float("nan")])), [ALL, AUROC],
                       "job.metric=val/auroc: no run has a finite value of it."),
    "strict": (lacking_metric, [ALL, AUROC, "job.strict=true"], "no finite val/auroc: empty, other. job.strict=false"),
    "no config": (no_config, [ALL, AUROC], "runs/random_4/config.yaml is missing"),
    "bad config": (bad_config, [ALL, AUROC], "runs/random_4/config.yaml cannot be read"),
    "no number": (no_number, [ALL, AUROC], "runs/a/metrics.csv, step 10, column 'val/auroc': 'high' is no number"),
    "no steps": (no_steps, [ALL, AUROC], "runs/a/metrics.csv has no column step, but time, val/auroc"),
    "no direction": (unknown_direction, [ALL, "job.metric=val/roughness"],
                     "job.metric=val/roughness: it is not known whether more or less of it is better. Remedy: "
                     "job.mode=max"),
    "mode": (write_runs, [ALL, AUROC, "job.mode=most"], "job.mode=most: must be max (more is better), min"),
    "threshold": (write_runs, [ALL, AUROC, "job.threshold=high"], "job.threshold=high: a level of the metric"),
    "infinite": (write_runs, [ALL, AUROC, "job.threshold=inf"], "job.threshold=inf: a level of the metric"),
    "weights": (write_runs, [ALL, AUROC, "ckpt=x.ckpt"], "compare_runs has no weights: leave ckpt out"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_remedy(name, command, here):
    prepare, words, said = MISTAKES[name]
    prepare(here / "runs" if prepare is write_runs else here)
    result = command("+exp=compare_runs", "output_dir=out", *words)
    assert result.code in (1, 2) and said in result.err and "Traceback" not in result.err, result.err
    assert not (here / "out").exists(), "the same words, mended, can be given again"


@pytest.mark.parametrize(
    ("groups", "facts"),
    [({"a": "runs/*"}, ["job.groups.a=runs/*", "[runs/a_*]"]), ({"a": []}, ["job.groups.a=[]", "[runs/a_*]"]),
     ({"a": ["random_*"], "b": ["*"]}, ["runs/random_4", "job.groups.a", "job.groups.b"]),
     ({"a": ["random_*"]}, ["job.groups", "imagenet_7", "imagenet_8", "imagenet_9", "job.runs"]),
     ({"a": ["rendom_*"]}, ["job.groups.a=", "rendom_*", "random_4"])],
    ids=["text", "empty", "twice", "outside", "no match"],
)  # fmt: skip
def test_groups_that_make_no_sense(groups, facts, tmp_path):
    write_runs(tmp_path / "runs")
    named = {name: [f"{tmp_path}/runs/{p}" for p in given] if isinstance(given, list) else given
             for name, given in groups.items()}  # fmt: skip
    with refuses(ValueError, *facts):
        compared(tmp_path, AUROC, f"job.runs=[{tmp_path}/runs/*]", groups=named)


def test_a_group_of_which_nothing_is_left_is_said(tmp_path):
    lacking_metric(tmp_path)
    named = {"a": [f"{tmp_path}/runs/random_*"], "b": [f"{tmp_path}/runs/other"]}
    text = (compared(tmp_path, AUROC, groups=named) / "comparison.md").read_text()
    assert "No run is left in job.groups.b." in text
