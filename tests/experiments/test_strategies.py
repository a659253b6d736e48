"""Every strategy trains what one process trains, goes on from what any other saved, and measures the same."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import DDPM_TRAIN, TRAINER, column, one_of_each_kind, run_process, start_process

from experiments.scaling_model import state_bytes
from lightning_modules.checkpoint import load_state

pytestmark = pytest.mark.slow
SHARING = ["ddp", "fsdp2", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3"]
PATH = {"PYTHONPATH": str(Path(__file__).parent)}
# The default generator, 20 steps of 16 images.
DEFAULT = [
    "+exp=ddpm_train", "data.num_images=60", "data.epoch_size=320", "autoencoder.pretrained=vae/checkpoints/last.ckpt",
    "~callbacks.frechet",
    "~callbacks.agreement", "~callbacks.sample_grid", "model.diffusion.warmup_steps=5", "checkpoint_every_n_steps=3",
    *TRAINER, "trainer.max_epochs=1",
]  # fmt: skip


def by(strategy):
    """Words for a run of 16 images a step under a strategy, on two processes unless it says `single` or `on one`."""
    name, _, on_one = strategy.partition(" ")
    num = 1 if on_one or name == "single" else 2
    return [f"strategy={name}", f"trainer.devices={num}", f"data.batch_size={16 // num}"]


def losses(folder):
    return [float(value) for _, value in column(folder, "train/loss")]


def furthest(ours, theirs):
    """The largest difference of any number."""
    return float((torch.as_tensor(ours, dtype=torch.float64) - torch.as_tensor(theirs)).abs().max())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds autoencoders, and runs on one process that nothing interrupted."""
    folder = tmp_path_factory.mktemp("strategies")
    small = ["autoencoder.max_epochs=1", "autoencoder.module.warmup_steps=1", "data.num_images=60"]
    runs = {
        "vae": ["+exp=vae_train", *small, "data.epoch_size=null", *TRAINER],
        "one": [*DEFAULT, *by("single")],
    }
    for name, words in runs.items():
        result = run_process(*words, f"output_dir={name}", cwd=folder)
        assert result.code == 0, result.err
    assert len(losses(folder / "one")) == 20
    return folder


SAME = [(name, name) for name in SHARING]
ACROSS = [("fsdp2", "ddp on one"), ("ddp on one", "fsdp2"), ("deepspeed_zero3", "ddp")]


@pytest.mark.parametrize(
    "first, second",
    one_of_each_kind(
        [*SAME, *ACROSS], ("fsdp2", "ddp on one"), ("ddp on one", "fsdp2")
    ),  # weights loaded soon, and late
)
def test_killed_under_one_and_resumed_under_another_equals_one_process(folder, first, second):
    run = folder / f"{first}-{second}".replace(" ", "_")
    process = start_process(*DEFAULT, *by(first), f"output_dir={run.name}", cwd=folder)
    while process.poll() is None and not (run.is_dir() and (run / "metrics.csv").exists() and len(losses(run)) >= 8):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    reached = load_state(run / "checkpoints/last.ckpt")["global_step"]
    assert 0 < reached < 20
    resumed = run_process(*DEFAULT, *by(second), f"output_dir={run.name}", "resume=auto", cwd=folder)
    assert resumed.code == 0, resumed.err
    assert "going on from" in resumed.out
    print(f"{first}, killed after step {reached}, gone on with under {second}")
    print(f"largest difference of 20 losses: {furthest(losses(run), losses(folder / 'one')):.1e}")
    assert losses(run) == pytest.approx(losses(folder / "one"), abs=1e-4)
    one, other = (load_state(at / "checkpoints/last.ckpt") for at in (folder / "one", run))
    assert one["global_step"] == other["global_step"] == 20
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for part in ("network.", "ema."):
        names = [name for name in one["state_dict"] if name.startswith(part)]
        largest = max(furthest(one["state_dict"][name], other["state_dict"][name]) for name in names)
        print(f"largest difference of a weight of {part[:-1]}: {largest:.1e}")
    for name, tensor in one["state_dict"].items():  # raw and averaged weights
        torch.testing.assert_close(other["state_dict"][name], tensor, atol=1e-4, rtol=0, msg=name)
    states = [saved["optimizer_states"][0]["state"] for saved in (one, other)]
    assert states[0].keys() == states[1].keys()
    assert {float(values["step"]) for state in states for values in state.values()} == {20.0}
    for moment in ("exp_avg", "exp_avg_sq"):  # all together: of some weights the gradient is but rounding
        first, second = (torch.cat([values[moment].flatten() for values in state.values()]) for state in states)
        assert float((first - second).norm()) <= 1e-2 * float(first.norm()), moment


def measured(folder, autoencoder, strategy):
    """The folder of a run that measures and paints; nine images for two processes: the last share is uneven."""
    words = [*DDPM_TRAIN, autoencoder, "callbacks.frechet.num_images=9",
             "trainer.max_epochs=1", "data.epoch_size=64", "trainer.accumulate_grad_batches=2",
             "model.diffusion.warmup_steps=1", "+callbacks.spy._target_=bytes_spy.BytesSpy",
             f"+callbacks.spy.folder={folder}/measured-{strategy}"]  # fmt: skip
    result = run_process(*words, *by(strategy), f"output_dir=measured-{strategy}", cwd=folder, **PATH)
    assert result.code == 0, result.err
    return folder / f"measured-{strategy}"


@pytest.fixture(scope="module")
def measured_on_one(folder, autoencoder):
    return measured(folder, autoencoder, "single")


@pytest.mark.parametrize("strategy", one_of_each_kind(["single", *SHARING], "fsdp2", "deepspeed_zero3"))
def test_every_strategy_measures_and_paints_the_same(folder, autoencoder, measured_on_one, strategy):
    one, other = measured_on_one, measured_on_one
    if strategy != "single":
        other = measured(folder, autoencoder, strategy)
    for name in ("val/fd_efficientnet_lite0", "val/kd_efficientnet_lite0", "val/loss"):
        first, second = ([float(value) for _, value in column(run, name)] for run in (one, other))
        assert first and first == pytest.approx(second, rel=1e-4), name
    pictures = [np.asarray(Image.open(run / "samples/epoch_0000.png")).astype(int) for run in (one, other)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert load_state(other / "checkpoints/last.ckpt")["state_dict"]["ema.num_updates"] == 2
    # What devices hold is what the model of scaling says, but for what shares are filled up with.
    ranks = [json.loads(path.read_text()) for path in sorted(other.glob("bytes*.json"))]
    assert len(ranks) == (1 if strategy == "single" else 2)
    expected = state_bytes(strategy, ranks[0].pop("num_trained"), len(ranks))
    for name, value in expected.items():
        if name != "gradients":
            assert sum(rank[name] for rank in ranks) / len(ranks) == pytest.approx(value, rel=0.03), name
