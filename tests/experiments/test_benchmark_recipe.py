"""The case recipe: which runs there are, that each is begun once and whole, and what is read off them."""

import json
import math

import pytest
from refusals import refuses
from tiny_runs import AUTOENCODER, CALLBACKS, DATA, DIFFUSION, TRAINER, UNET

from experiments.assembly import plain
from experiments.benchmarks import recipe
from experiments.benchmarks.recipe import Arm, arms, check_alike, run_arm
from experiments.benchmarks.recipe_outcome import figure, reached, read_outcome, rows, summary, table
from experiments.cells import Cell, check
from experiments.composition import compose_config

JOB = {"ours": "ddpm_train", "theirs": "ddpm_train", "common": ["~callbacks.sample_grid"], "seeds": [3, 4]}
FRECHET = "epoch,global_step,fd,seconds,unix_time\n"
AGREEMENT = "epoch,global_step,finding,asked,low,high,real,real_low,real_high,num_images,seconds,unix_time\n"


def test_both_arms_of_a_seed_come_one_after_the_other(tmp_path):
    found = arms(tmp_path, JOB, "a cache, shared")
    assert [(arm.name, arm.seed) for arm in found] == [("ours", 3), ("theirs", 3), ("ours", 4), ("theirs", 4)]
    assert len({arm.cell.folder for arm in found}) == 4
    config = plain(compose_config(found[1].cell.command))
    assert config["seed"] == 3 and config["data"]["cache_dir"] == "a cache, shared" and config["cache_dir"] == "cache"
    assert "sample_grid" not in config["callbacks"]
    check([arm.cell for arm in found])
    check_alike(found)


def own_experiment(folder, text):
    (folder / "exp").mkdir(parents=True)
    (folder / "exp/mine.yaml").write_text(f"# @package _global_\ndefaults: [ddpm_train]\nname: mine\n{text}")
    return {**JOB, "theirs": "mine", "common": [f"hydra.searchpath=[file://{folder}]"]}


def test_arms_on_other_data_or_measured_otherwise_are_refused(tmp_path):
    for text, key in (
        ("data: {image_size: 32}", "data.image_size"),
        ("callbacks: {frechet: {num_real: 7}}", "callbacks.frechet.num_real"),
        ("callbacks: {agreement: {extractor: {image_size: 99}}}", "callbacks.agreement.extractor.image_size"),
    ):
        with refuses(ValueError, key, f"job.common=['{key}=VALUE']"):
            check_alike(arms(tmp_path, own_experiment(tmp_path / key, text), "cache"))
    check_alike(arms(tmp_path, own_experiment(tmp_path / "fast", "model: {diffusion: {learning_rate: 1.0}}"), "cache"))
    with refuses(ValueError, "+exp=mine", "callbacks.frechet"):
        check_alike(arms(tmp_path, own_experiment(tmp_path / "none", "callbacks: {frechet: null}"), "cache"))
    with refuses(ValueError, "job.seeds", "empty"):
        arms(tmp_path, {**JOB, "seeds": []}, "cache")


def test_an_arm_without_an_agreement_measures_that_of_the_other(tmp_path):
    job = own_experiment(tmp_path / "mine", "callbacks: {agreement: null, frechet: {every_n_epochs: 3}}")
    ours, theirs = arms(tmp_path, {**job, "common": [*job["common"], "callbacks.agreement.num_real=17"]}, "cache")[:2]
    check_alike([ours, theirs])
    before, after = (plain(compose_config(arm.cell.command))["callbacks"]["agreement"] for arm in (ours, theirs))
    assert after["num_real"] == 17 and after["every_n_epochs"] == 3 and before["every_n_epochs"] == 2
    assert after["output_dir"] == str(theirs.cell.folder) and before["output_dir"] == str(ours.cell.folder)
    different = {"every_n_epochs", "output_dir"}
    assert {key: after[key] for key in after if key not in different} == {
        key: before[key] for key in before if key not in different
    }


def test_a_run_that_was_stopped_begins_anew_and_a_finished_one_is_left_alone(tmp_path, monkeypatch):
    arm = Arm("ours", 0, Cell(tmp_path / "cells/ours_seed0", ("+exp=ddpm_train",)))
    started = []

    def run(cell, cache_dir):
        assert not cell.folder.exists() and cache_dir == str(cell.folder / "cache")
        cell.folder.mkdir()
        (cell.folder / "record.json").write_text('{"status": "finished"}')
        started.append(cell.name)

    monkeypatch.setattr(recipe, "run", run)
    monkeypatch.setattr(recipe, "build_datamodule", lambda cfg: type("Data", (), {"prepare_data": lambda self: None})())
    (arm.cell.folder / "checkpoints").mkdir(parents=True)
    (arm.cell.folder / "record.json").write_text('{"status": "interrupted"}')
    run_arm(arm)
    assert started == ["ours_seed0"] and arm.done and 0 <= recipe.clock(arm)["seconds"] < 60
    run_arm(arm)
    assert started == ["ours_seed0"]
    arm.clock.unlink()  # a kill between the end of the run and the note of its time
    run_arm(arm)
    assert len(started) == 2


def test_a_folder_that_is_a_link_is_not_emptied(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells/ours_seed0").symlink_to(tmp_path / "elsewhere")
    with refuses(ValueError, tmp_path / "cells/ours_seed0", f"'{tmp_path / 'elsewhere'}'"):
        run_arm(Arm("ours", 0, Cell(tmp_path / "cells/ours_seed0", ("+exp=ddpm_train",))))


def write_run(folder, distances, agreement=(0.5, "nan", 0.75)):
    """A run whose distances end at 1000, 1050, … s and take 10 s each; an agreement ends at 1055 s and takes 5 s."""
    (folder / "autoencoder").mkdir(parents=True)
    (folder / "autoencoder/record.json").write_text('{"wall_seconds": 20.0}')
    record = {"sessions": [{"last_step": 90}], "wall_seconds": 120.0, "peak_memory_mib": {"process": 800.0}}
    (folder / "record.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text("data: {batch_size: 8}\ntrainer: {devices: 1, accumulate_grad_batches: 1}\n")
    lines = [f"{epoch},{epoch},{fd},10.0,{1050.0 + 50 * epoch}\n" for epoch, fd in enumerate(distances, -1)]
    (folder / "frechet.csv").write_text(FRECHET + "".join(lines))
    lines = [f"0,0,x,{asked},0,1,0.9,0,1,96,5.0,1055.0\n" for asked in agreement]
    (folder / "agreement.csv").write_text(AGREEMENT + "".join(lines))
    return folder


def test_figures_of_a_run_by_hand(tmp_path):
    found = read_outcome(write_run(tmp_path, [200, 100, 50]), "ours", 0, started=980.0, seconds=180.0)
    assert found.distances == [(10.0, 200.0), (50.0, 100.0), (85.0, 50.0)], "without the 10, 20, 35 s of measuring"
    assert found.agreements == [(50.0, 0.625)] and found.final_agreement == 0.625
    assert found.seconds == 180 - 35 and found.evaluation_share == pytest.approx(35 / 180)
    assert found.images_per_second == pytest.approx(90 * 8 / (120 - 25)), "the first distance is before the record"
    assert found.autoencoder_seconds == 20 and found.peak_memory_mib == 800 and found.peak_device_memory_mib is None


def test_damaged_and_undefined_tables(tmp_path):
    folder = write_run(tmp_path, [200, 100], agreement=["nan"])
    assert read_outcome(folder, "ours", 0, 980.0, 180.0).agreements == []
    (folder / "frechet.csv").write_text(FRECHET + "0,0,5.0,1.0,\n")
    with refuses(ValueError, folder / "frechet.csv", "row", f"{folder},"):
        read_outcome(folder, "ours", 0, 980.0, 180.0)
    (folder / "frechet.csv").unlink()
    with refuses(ValueError, folder / "frechet.csv", "finite", f"{folder},"):
        read_outcome(folder, "ours", 0, 980.0, 180.0)


def outcomes(tmp_path):
    series = {("ours", 0): [200, 60, 40], ("theirs", 0): [200, 90, 60], ("ours", 1): [200, 90, 80],
              ("theirs", 1): [200, 90, 70]}  # fmt: skip
    return [read_outcome(write_run(tmp_path / f"{arm}{seed}", values), arm, seed, 980.0, 180.0)
            for (arm, seed), values in series.items()]  # fmt: skip


def test_the_share_of_their_time(tmp_path):
    found = outcomes(tmp_path)
    assert reached(found[0], found[1]) == 50 and reached(found[2], found[3]) is None
    figures = summary(found)
    assert figures["share_of_their_time"]["turns"] == [pytest.approx(50 / 145)]
    assert (figures["num_reached"], figures["num_pairs"]) == (1, 2)
    assert figures["ours"]["final_distance"]["turns"] == [40, 80]
    assert figures["theirs"]["peak_device_memory_mib"] is None
    assert math.isfinite(figures["ours"]["minutes"]["median"])


def test_what_is_written(tmp_path):
    found = outcomes(tmp_path)
    text = table(found, JOB)
    assert "over seeds 0, 1 | ours: ddpm_train | theirs: ddpm_train |" in text
    assert "| Fréchet distance at the end | 60.0 (40.0 to 80.0) | 65.0 (60.0 to 70.0) |" in text
    assert "final distance | 34%, in 1 of 2 seeds |" in text and "on the device" not in text
    picture = figure(found, JOB)
    assert picture.shape == (640, 1400, 3) and (picture.std(axis=(0, 1)) > 5).all()
    assert json.loads(json.dumps(rows(found)), parse_constant=pytest.fail)[0]["distances"][0] == [10, 200]


@pytest.mark.slow
def test_from_end_to_end_and_again(command, here):
    common = [*DATA, *AUTOENCODER, *UNET, *DIFFUSION, *CALLBACKS[:-1], *TRAINER, "trainer.max_epochs=1",
              "~callbacks.sample_grid"]  # fmt: skip
    words = ["+exp=benchmark", "job.case=recipe", f"job.common=[{','.join(map(repr, common))}]", "job.seeds=[0]",
             "job.theirs=ddpm_train", "output_dir=out"]  # fmt: skip
    result = command(*words)
    assert result.code == 0, result.err
    figures = json.loads((here / "out/benchmark.json").read_text(), parse_constant=pytest.fail)
    assert {"benchmark.md", "benchmark.png", "record.json", "config.yaml", "cells"} <= {
        path.name for path in (here / "out").iterdir()
    }
    for run, name in zip(figures["runs"], ("ours", "theirs"), strict=True):
        folder = here / f"out/cells/{name}_seed0"
        assert run["autoencoder_seconds"] > 0 and list((folder / "cache/autoencoders").glob("*.ckpt"))
        times = [seconds for seconds, _ in run["distances"]]
        assert times == sorted(times) and times[0] > 0 and times[-1] <= run["seconds"]
        assert not (folder / "cache/images").exists(), "images are read before, into the cache that both share"
    again = command(*words, "resume=auto")
    assert again.code == 0 and again.out.count("done before") == 2, again.err
    assert json.loads((here / "out/benchmark.json").read_text())["runs"] == figures["runs"]
