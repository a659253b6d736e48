"""A process that dies ends the run within a minute, with a word on the screen, and resume=auto goes on."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from tiny_runs import BY_TORCHRUN, DDPM_TRAIN, alive, column, make_run, one_of_each_kind, run_process, start_process

pytestmark = pytest.mark.slow
TINY = [*DDPM_TRAIN, "~callbacks.frechet", "~callbacks.agreement", "~callbacks.sample_grid",
        "data.epoch_size=96", "checkpoint_every_n_steps=2"]  # fmt: skip
PATH = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
LAUNCHERS: dict[str, dict] = {"lightning": {}, "torchrun": {"by": BY_TORCHRUN}}


def by(strategy):
    return [f"strategy={strategy}", "trainer.devices=2"]


def dies(rank, how):
    spots = {"_target_": "dying.Dies", "rank": rank, "step": 5, "how": how}
    return [f"+callbacks.dying.{name}={value}" for name, value in spots.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("death").resolve()


def whole_losses(folder, words, strategy):
    """Of the run that nothing interrupted."""
    run = folder / f"whole-{strategy}"
    if not run.exists():
        make_run(folder, *words, output_dir=run.name)
    return [float(value) for _, value in column(run, "train/loss")]


@pytest.mark.parametrize(
    ("launcher", "strategy", "rank", "how"),
    one_of_each_kind(
        [
            ("lightning", "ddp", 1, "raise"),
            ("lightning", "ddp", 0, "kill"),
            ("lightning", "fsdp2", 0, "mistake"),
            ("torchrun", "ddp", None, "kill"),
            ("torchrun", "deepspeed_zero2", 1, "kill"),
        ],
        ("lightning", "ddp", 1, "raise"),
        ("torchrun", "ddp", None, "kill"),
    ),
)
def test_a_rank_that_dies_ends_the_run_and_it_goes_on(folder, autoencoder, launcher, strategy, rank, how):
    run = folder / f"{launcher}-{strategy}-{rank}-{how}"
    train = [*TINY, autoencoder, *by(strategy)]
    words, launcher = [*train, f"output_dir={run.name}"], LAUNCHERS[launcher]
    more = dies(rank, how) if rank is not None else ["data.epoch_size=32000"]
    process = start_process(*words, *more, cwd=folder, **launcher, **PATH)
    died_at, deadline = None, time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if died_at is None and run.is_dir() and (run / "metrics.csv").exists() and len(column(run, "train/loss")) >= 5:
            died_at = time.monotonic()  # the step of the death is the next
            if rank is None:
                process.kill()  # the launcher
        if died_at is not None and time.monotonic() - died_at > 60:
            break
        time.sleep(0.1)
    died_at = died_at or time.monotonic()  # the first process, before it had written down its steps
    try:
        assert process.poll() is not None, "the run goes on a minute after the death"
        while alive(folder) and time.monotonic() - died_at < 60:
            time.sleep(0.5)
        print(f"{run.name}: nothing left {time.monotonic() - died_at:.1f} s after the death was seen")
        assert not alive(folder)
    finally:
        for left in alive(folder):
            os.kill(left, signal.SIGKILL)
    _, err = process.communicate(timeout=10)
    assert process.returncode != 0
    if rank is None:
        assert "what had started process" in err and "has died" in err
        return  # epochs were long, for the launcher to die within one
    if how == "kill":
        assert f"process {rank} (" in err and "has died" in err, err
    else:
        assert "Traceback" in err and f"rank {rank} was to die" in err and "on_before_backward" in err, err
    resumed = run_process(*words, "resume=auto", cwd=folder, **launcher)
    assert resumed.code == 0, resumed.err
    assert "going on from" in resumed.out
    assert json.loads((run / "record.json").read_text())["status"] == "finished"
    whole = whole_losses(folder, train, strategy)
    assert len(whole) == 12
    assert [float(value) for _, value in column(run, "train/loss")] == pytest.approx(whole, abs=1e-4)
