"""A run that is killed or asked to stop, and then resumed, ends as the one that never stopped: bit for bit."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from tiny_runs import DDPM_TRAIN, column, one_of_each_kind, run_process, start_process

# 20 steps an epoch; a checkpoint every 7, so that none is at an epoch's end.
LONG = ["data.epoch_size=160", "trainer.max_epochs=3", "checkpoint_every_n_steps=7", "autoencoder.max_epochs=3"]
WORDS = [*DDPM_TRAIN, *LONG]
STEPS_PER_EPOCH = 20


@pytest.fixture(scope="module")
def threads():
    return {"OMP_NUM_THREADS": str(torch.get_num_threads())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, threads):
    """The folder of the run that is never stopped; `cache` is beside it."""
    folder = tmp_path_factory.mktemp("whole")
    result = run_process(*WORDS, "output_dir=out", cwd=folder, **threads)
    assert result.code == 0, result.err
    return folder


def stop(folder: Path, number: int, metrics: Path, after_step: int, threads: dict) -> tuple[int, str]:
    """Start a run, send it a signal once it has logged a step; exit code and stderr."""
    process = start_process(*WORDS, cwd=folder, **threads)
    deadline = time.monotonic() + 120
    try:
        while time.monotonic() < deadline and process.poll() is None:
            found = sorted(folder.glob(str(metrics)))
            if found and any(step >= after_step for step, _ in column(found[0].parent, "train/loss")):
                break
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
    return process.returncode, err


def same_ends(ours: Path, theirs: Path) -> None:
    """Weights, averaged weights, optimiser and every logged loss and figure."""
    for name in ("train/loss", "val/loss", "val/fd_efficientnet_lite0", "lr-AdamW"):
        assert column(ours, name) == column(theirs, name), name
    mine, other = (torch.load(at / "checkpoints/last.ckpt", weights_only=True) for at in (ours, theirs))
    assert mine["global_step"] == other["global_step"]
    assert mine["state_dict"].keys() == other["state_dict"].keys()
    assert any(name.startswith("ema.") for name in mine["state_dict"])
    for name, tensor in mine["state_dict"].items():
        assert torch.equal(tensor, other["state_dict"][name]), name
    for index, state in mine["optimizer_states"][0]["state"].items():
        assert torch.equal(state["exp_avg"], other["optimizer_states"][0]["state"][index]["exp_avg"])


def go_on(command, whole: Path) -> Path:
    """Resume the only run below the working folder, and compare."""
    result = command(*WORDS, "resume=auto")
    assert result.code == 0, result.err
    [folder] = Path("runs/ddpm_train").iterdir()
    same_ends(folder, whole / "out")
    return folder


def share_cache(here: Path, whole: Path) -> None:
    (here / "cache").symlink_to(whole / "cache")


@pytest.mark.slow
def test_killed_in_mid_epoch(command, here, whole, threads):
    share_cache(here, whole)
    code, _ = stop(here, signal.SIGKILL, Path("runs/*/*/metrics.csv"), 29, threads)
    assert code == -signal.SIGKILL
    [folder] = Path("runs/ddpm_train").iterdir()
    step = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert step % STEPS_PER_EPOCH and step < 3 * STEPS_PER_EPOCH, "the kill was to hit an epoch's midst"
    assert json.loads((folder / "record.json").read_text())["status"] == "running"
    go_on(command, whole)
    sessions = json.loads((folder / "record.json").read_text())["sessions"]
    assert [session["status"] for session in sessions] == ["killed", "finished"]
    assert sessions[1]["first_step"] == step


@pytest.mark.slow
@pytest.mark.parametrize("number", one_of_each_kind([signal.SIGTERM, signal.SIGINT], signal.SIGTERM))
def test_asked_to_stop(command, here, whole, threads, number):
    share_cache(here, whole)
    code, err = stop(here, number, Path("runs/*/*/metrics.csv"), 24, threads)
    assert code == 128 + number, err
    assert "last.ckpt; go on with resume=auto" in err and "Traceback" not in err
    [folder] = Path("runs/ddpm_train").iterdir()
    assert f"saved {folder}/checkpoints/last.ckpt; go on with resume=auto" in err
    assert json.loads((folder / "record.json").read_text())["status"] == "interrupted"
    go_on(command, whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", one_of_each_kind([signal.SIGTERM, signal.SIGINT], signal.SIGINT))
def test_stopped_while_the_data_are_read(here, number):
    words = ["+exp=inspect_data", "data.num_images=3000", "data.image_size=64", "output_dir=out"]
    process = start_process(*words, cwd=here)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not list(here.glob("cache/*/*.building")):
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "interrupted: go on with the same command and resume=auto" in err and "Traceback" not in err
    assert list(here.glob("cache/*/*.building"))


@pytest.mark.slow
@pytest.mark.parametrize("number", one_of_each_kind([signal.SIGKILL, signal.SIGTERM], signal.SIGKILL))
def test_stopped_while_the_autoencoder_trains(command, here, whole, threads, number):
    code, err = stop(here, number, Path("runs/*/*/autoencoder/metrics.csv"), 29, threads)
    assert code == (-number if number == signal.SIGKILL else 128 + number), err
    assert not list(here.glob("cache/autoencoders/*.ckpt"))
    folder = go_on(command, whole)
    assert (here / folder / "autoencoder/metrics.csv").read_text() == (
        whole / "out/autoencoder/metrics.csv"
    ).read_text()
    ours, theirs = (
        torch.load(next((at / "cache/autoencoders").iterdir()), weights_only=True)["state_dict"] for at in (here, whole)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_the_same_command_gives_the_same_run(command, whole, here):
    share_cache(here, whole)
    assert command(*WORDS, "output_dir=again").code == 0
    same_ends(here / "again", whole / "out")


@pytest.mark.slow
@pytest.mark.parametrize("processes", one_of_each_kind([1, 2], 2))
def test_a_signal_to_all_spares_the_loaders_workers(here, processes):
    """As SLURM sends it: SIGTERM to every process of the job, workers of loaders included."""
    words = [*DDPM_TRAIN, "data.num_workers=1", "~callbacks.frechet",
             "~callbacks.agreement", "~callbacks.sample_grid", "data.batch_size=4",
             f"trainer.devices={processes}", "data.epoch_size=32000", "output_dir=out", "job.cache_latents=false",
             "checkpoint_every_n_steps=100000"]  # fmt: skip
    process = start_process(*words, cwd=here)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if (here / "out/autoencoder/metrics.csv").exists() and column(here / "out/autoencoder", "train/loss"):
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "go on with resume=auto" in err, err
    assert "Traceback" not in err
    saved = torch.load(here / "out/autoencoder/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] >= 1, "saved when the signal came"
