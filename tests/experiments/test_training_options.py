"""Options of every training job, under every strategy, in runs of their own."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from tiny_runs import DATA, DDPM_TRAIN, TRAINER, UNET, VAE_TRAIN, column, one_of_each_kind, run_process, start_process
from torch.utils._pytree import tree_leaves

from lightning_modules.checkpoint import load_state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
# The tiny generator, 6 steps of 8 images.
TRAIN = [
    *DDPM_TRAIN, "autoencoder.pretrained=vae/checkpoints/last.ckpt", "~callbacks.frechet",
    "~callbacks.agreement", "~callbacks.sample_grid",
    "data.epoch_size=48", "trainer.max_epochs=1", "model.diffusion.warmup_steps=1",
]  # fmt: skip
STRATEGIES = ["single", "ddp", "fsdp2", "deepspeed_zero2"]  # one of each kind; and the third stage, where it differs


def by(strategy):
    """Words for a run of 8 images a step under a strategy, on two processes where it shares."""
    num = 1 if strategy == "single" else 2
    return [f"strategy={strategy}", f"trainer.devices={num}", f"data.batch_size={8 // num}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, autoencoder):
    """Runs write there; `vae` is that of an autoencoder."""
    folder = tmp_path_factory.mktemp("options")
    (folder / "vae").symlink_to(Path(autoencoder.partition("=")[2]).parents[1])
    return folder


def status(run):
    return json.loads((run / "record.json").read_text())["status"]


@pytest.mark.parametrize("strategy", one_of_each_kind(STRATEGIES, "fsdp2"))
def test_a_run_that_breaks_ends_on_all_processes(folder, strategy):
    run = folder / f"broken-{strategy}"
    words = ["model.diffusion.learning_rate=1e30", "checkpoint_every_n_steps=1"]
    result = run_process(*TRAIN, *by(strategy), *words, f"output_dir={run.name}", cwd=folder)
    assert result.code == 1 and "error: training broke at step" in result.err, result.err
    assert "Remedy: " in result.err and ("Traceback" in result.err) == (strategy != "single")  # of several, all is told
    assert status(run) == "failed"
    if (run / "checkpoints/last.ckpt").exists():
        for name, tensor in load_state(run / "checkpoints/last.ckpt")["state_dict"].items():
            assert not name.startswith("network.") or tensor.isfinite().all(), name


@pytest.mark.parametrize("strategy", one_of_each_kind(["ddp", "fsdp2"], "fsdp2"))
def test_the_last_and_the_best_few_are_kept(folder, strategy):
    """Of shares nothing is left that no name stands for; a run on one process goes on counting."""
    run = folder / f"kept-{strategy}"
    words = [*TRAIN, f"output_dir={run.name}", "checkpoint_every_n_steps=2", "checkpoint_keep_last=3"]
    first = run_process(*words, *by(strategy), "checkpoint_keep_best=2", "trainer.max_epochs=3", cwd=folder)
    assert first.code == 0, first.err
    checkpoints = run / "checkpoints"
    found = {path.name: load_state(path)["global_step"] for path in checkpoints.glob("*.ckpt")}
    steps = {name: step for name, step in found.items() if name.startswith("step-")}
    assert steps == {"step-00000014.ckpt": 14, "step-00000016.ckpt": 16} and found["last.ckpt"] == 18
    best = {name: step for name, step in found.items() if name.startswith("best-")}
    assert len(best) == 2 and found["best.ckpt"] in best.values()
    if strategy == "fsdp2":
        named = {path.resolve() for path in checkpoints.glob("*.ckpt")}
        assert {path.resolve() for path in (checkpoints / "shards").iterdir()} == named
    second = run_process(*words, *by("single"), "resume=auto", "trainer.max_epochs=4", cwd=folder)
    assert second.code == 0, second.err
    steps = [load_state(path)["global_step"] for path in sorted(checkpoints.glob("step-*.ckpt"))]
    assert steps == [20, 22] and load_state(checkpoints / "last.ckpt")["global_step"] == 24


MEANWHILE = ["checkpoint_async=true", "checkpoint_every_n_steps=1", "checkpoint_keep_last=9"]


@pytest.mark.parametrize("strategy", one_of_each_kind(STRATEGIES, "single"))
def test_what_is_saved_meanwhile_is_what_is_saved_at_once(folder, strategy):
    """And what a kill leaves is whole, and gone on from."""
    runs = {name: folder / f"{name}-{strategy}" for name in ("at-once", "meanwhile", "killed")}
    words = [*TRAIN, *by(strategy), *MEANWHILE, "trainer.max_epochs=2"]
    once = run_process(*words, "checkpoint_async=false", f"output_dir={runs['at-once'].name}", cwd=folder)
    meanwhile = run_process(*words, f"output_dir={runs['meanwhile'].name}", cwd=folder)
    assert once.code == 0 and meanwhile.code == 0, once.err + meanwhile.err
    same_checkpoints(runs["at-once"], runs["meanwhile"], 10)

    killed = start_process(*words, f"output_dir={runs['killed'].name}", cwd=folder)
    while killed.poll() is None and len(list(runs["killed"].glob("checkpoints/step-*.ckpt"))) < 3:
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    for path in runs["killed"].glob("checkpoints/*.ckpt"):
        assert load_state(path)["global_step"] < 12, path
    resumed = run_process(*words, f"output_dir={runs['killed'].name}", "resume=auto", cwd=folder)
    assert resumed.code == 0 and "going on from" in resumed.out, resumed.err
    same_checkpoints(runs["at-once"], runs["killed"], 1)


def same_checkpoints(ours, theirs, at_least):
    """All under the same names hold the same weights, averages, moments and place in the data, bit by bit."""
    names = {path.name for path in (ours / "checkpoints").glob("*.ckpt")}
    names &= {path.name for path in (theirs / "checkpoints").glob("*.ckpt")}
    assert "last.ckpt" in names and len(names) >= at_least
    for name in names:
        one, other = (load_state(at / "checkpoints" / name) for at in (ours, theirs))
        for key in ("global_step", "loops", "lr_schedulers"):
            assert one[key] == other[key], (name, key)
        for key in ("state_dict", "optimizer_states"):
            first, second = (tree_leaves(checkpoint[key]) for checkpoint in (one, other))
            assert len(first) == len(second) > 0
            for mine, their in zip(first, second, strict=True):
                assert torch.equal(mine, their) if torch.is_tensor(mine) else mine == their, (name, key)


def losses(run):
    return [float(value) for _, value in column(run, "train/loss")]


@pytest.fixture(scope="module")
def plain(folder):
    """The run on one process without any option."""
    result = run_process(*TRAIN, *by("single"), "output_dir=plain", cwd=folder)
    assert result.code == 0, result.err
    return folder / "plain"


@pytest.mark.parametrize("strategy", one_of_each_kind(["single", "fsdp2", "deepspeed_zero3"], "single"))
def test_activations_computed_again_train_the_same(folder, plain, strategy):
    """Under one name for each weight; gone on from without the option."""
    run = folder / f"recomputed-{strategy}"
    words = [*TRAIN, *by(strategy), f"output_dir={run.name}"]
    first = run_process(*words, "activation_checkpointing=true", cwd=folder)
    assert first.code == 0, first.err
    assert losses(run) == pytest.approx(losses(plain), abs=1e-5)
    ours, theirs = (load_state(at / "checkpoints/last.ckpt")["state_dict"] for at in (plain, run))
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-4, rtol=1e-4, msg=name)
    second = run_process(*words, "resume=auto", "trainer.max_epochs=2", cwd=folder)
    assert second.code == 0 and "going on from" in second.out, second.err
    assert len(losses(run)) == 12


@pytest.mark.full
def test_an_autoencoder_and_a_classifier_take_it_too(folder):
    light = ["activation_checkpointing=true", "trainer.max_epochs=1"]
    ways = {
        "vae": VAE_TRAIN,
        "gan": [*VAE_TRAIN, "autoencoder=gan", "autoencoder.module.disc_start=1", "autoencoder.module.warmup_steps=1",
                "autoencoder.max_epochs=1", "autoencoder.module.perceptual=null", "autoencoder.batch_size=8",
                "autoencoder.module.discriminator.channels=16", "autoencoder.module.discriminator.num_downsamplings=1"],
        "classifier": ["+exp=classifier_train", *DATA, *TRAINER, "model/backbone=resnet10t", "model/init=random",
                       "model.findings=[eye_side,is_gc]", "job.num_replicates=0", "model.classifier.warmup_steps=1",
                       "job.monitor=val/loss", "model.classifier.ema_decay=0.9"],
    }  # fmt: skip
    for name, words in ways.items():
        for option, given in (("plain", light[1:]), ("light", light)):
            result = run_process(*words, *given, f"output_dir={name}-{option}", cwd=folder)
            assert result.code == 0, result.err
        found = [losses(folder / f"{name}-{option}") for option in ("plain", "light")]
        assert found[0] and found[0] == pytest.approx(found[1], abs=1e-5), name


DIT = [word for word in TRAIN if word not in UNET] + [
    "model/denoiser=dit_s", "model.denoiser.hidden=16", "model.denoiser.depth=3", "model.denoiser.heads=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def plain_dit(folder):
    result = run_process(*DIT, *by("single"), "output_dir=plain-dit", cwd=folder)
    assert result.code == 0, result.err
    return folder / "plain-dit"


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
@pytest.mark.full  # tests/lightning_modules/test_blocks.py compiles within CI
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_compiled_blocks_train_the_same(folder, plain_dit, strategy):
    """With activations computed again; gone on from without either."""
    run = folder / f"compiled-{strategy}"
    words = [*DIT, *by(strategy), f"output_dir={run.name}"]
    first = run_process(*words, "compile=true", "activation_checkpointing=true", cwd=folder, seconds=900)
    assert first.code == 0, first.err
    assert losses(run) == pytest.approx(losses(plain_dit), abs=1e-4)
    ours, theirs = (load_state(at / "checkpoints/last.ckpt")["state_dict"] for at in (plain_dit, run))
    assert list(ours) == list(theirs)
    second = run_process(*words, "resume=auto", "trainer.max_epochs=2", cwd=folder)
    assert second.code == 0 and "going on from" in second.out, second.err
    assert len(losses(run)) == 12


def test_a_machine_without_a_compiler_is_told_at_once(folder):
    result = run_process(*TRAIN, "compile=true", "output_dir=uncompiled", cwd=folder, CXX="none-such")
    assert result.code == 1 and "compile=true needs a C++ compiler, and none-such is not there. Remedy:" in result.err
    assert not (folder / "uncompiled/checkpoints").exists()
