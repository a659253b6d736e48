"""Two processes by one word: one folder, one metrics.csv, other images and noise on each, the same Fréchet distance."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from tiny_runs import DDPM_TRAIN, alive, column, make_run, one_of_each_kind, run_process, start_process

pytestmark = pytest.mark.slow
TWO = ["trainer.devices=2", "strategy=ddp"]
# A rate of 0 keeps the weights as they are at the start, so that both ways measure the same generator.
STILL = [
    "model.diffusion.learning_rate=0.0",
    "model.diffusion.warmup_steps=1",
    "trainer.max_epochs=1",
    "callbacks.frechet.num_images=9",
]
PATH = {"PYTHONPATH": str(Path(__file__).parent)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, autoencoder):
    """The runs of one and of two processes."""
    folder = tmp_path_factory.mktemp("processes")
    words = [*DDPM_TRAIN, *STILL, autoencoder]
    make_run(folder, *words, output_dir="one")
    spy = ["+callbacks.spy._target_=rank_spy.RankSpy", f"+callbacks.spy.folder={folder}"]
    two = run_process(*words, *TWO, *spy, "output_dir=two", cwd=folder, **PATH)
    assert two.code == 0, two.err
    (folder / "two.out").write_text(two.out)
    return folder


def test_one_folder_and_one_of_everything(folder):
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["cache", "one", "two"]
    steps = [step for step, _ in column(folder / "two", "train/loss")]
    assert steps == sorted(set(steps)) and len(steps) == 34 // 16
    record = json.loads((folder / "two/record.json").read_text())
    assert record["status"] == "finished" and record["num_processes"] == 2
    out = (folder / "two.out").read_text()
    for line in ("ddpm_train: configuration", "── model", "── done", "effective batch 16 (8 images x 2 process(es)"):
        assert out.count(line) == 1, line


def test_each_process_has_its_own_images_and_noise(folder):
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [rank["world_size"] for rank in ranks] == [2, 2]
    assert not set(ranks[0]["ids"]) & set(ranks[1]["ids"])
    assert len(ranks[0]["ids"]) == len(ranks[1]["ids"]) == 16
    assert not set(ranks[0]["noise"]) & set(ranks[1]["noise"]) and ranks[0]["noise"]


def test_one_process_and_two_measure_the_same(folder):
    for name in ("val/fd_efficientnet_lite0", "val/kd_efficientnet_lite0"):
        one, two = ([float(value) for _, value in column(folder / run, name)] for run in ("one", "two"))
        assert one and one == pytest.approx(two, rel=1e-3), name
    weights = [torch.load(folder / run / "checkpoints/last.ckpt", weights_only=True) for run in ("one", "two")]
    for name, tensor in weights[0]["state_dict"].items():
        if "num_updates" not in name:  # half as many steps
            assert torch.equal(tensor, weights[1]["state_dict"][name]), name


def test_two_processes_train_the_autoencoder_first(here):
    """Both stages in one command, with a discriminator, and latents encoded by both at once."""
    gan = ["autoencoder=gan", "autoencoder.module.discriminator.channels=16", "autoencoder.module.disc_start=1",
           "autoencoder.module.discriminator.num_downsamplings=1", "autoencoder.max_epochs=1",
           "autoencoder.batch_size=8", "autoencoder.module.warmup_steps=1",
           "autoencoder.module.perceptual=null"]  # fmt: skip
    words = [word for word in DDPM_TRAIN if not word.startswith("autoencoder.")]
    result = run_process(*words, *gan, *TWO, "trainer.max_epochs=1", "model.diffusion.warmup_steps=1", cwd=here)
    assert result.code == 0, result.err
    [run] = (here / "runs/ddpm_train").iterdir()
    assert (run / "autoencoder/checkpoints/last.ckpt").is_file() and column(run, "val/loss")


@pytest.mark.parametrize(
    ("number", "to_both"), one_of_each_kind([(signal.SIGINT, True), (signal.SIGTERM, False)], (signal.SIGTERM, False))
)
def test_a_signal_to_two_processes_is_resumed(here, autoencoder, number, to_both):
    """As a terminal sends Ctrl-C, to both; or to the second alone."""
    words = [
        *DDPM_TRAIN,
        autoencoder,
        *TWO,
        "data.epoch_size=320",
        "~callbacks.frechet",
        "~callbacks.agreement",
        "~callbacks.sample_grid",
    ]
    process = start_process(*words, cwd=here)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        found = list(here.glob("runs/*/*/metrics.csv"))
        if found and any(step >= 5 for step, _ in column(found[0].parent, "train/loss")):
            break
        time.sleep(0.02)
    if to_both:
        os.killpg(process.pid, number)
    else:
        [second] = [pid for pid in alive(here) if pid not in (process.pid, os.getpid())]
        os.kill(second, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "go on with resume=auto" in err, err
    assert "Traceback" not in err
    resumed = run_process(*words, "resume=auto", cwd=here)
    assert resumed.code == 0, resumed.err
    assert "going on from" in resumed.out
    whole = run_process(*words, "output_dir=whole", cwd=here)
    assert whole.code == 0, whole.err
    [run] = (here / "runs/ddpm_train").iterdir()
    assert column(run, "train/loss") == column(here / "whole", "train/loss")
