"""SLURM: a warning of the time limit stops a run with a checkpoint and requeues it; jobs through submitit."""

import json
import os
import signal
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_runs import DDPM_TRAIN, VAE_TRAIN, column, run_process, start_process

from experiments.requeue import requeue_if_warned

TINY = [*DDPM_TRAIN, "~callbacks.frechet", "~callbacks.agreement", "~callbacks.sample_grid",
        "data.epoch_size=320", "checkpoint_every_n_steps=1000", "output_dir=out", "resume=auto"]  # fmt: skip


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A file of what SLURM is asked for: a line a call of a false `scontrol`, the only one on the path."""
    asked, tool = tmp_path / "asked.txt", tmp_path / "bin/scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n[ "$2" != 13 ] || {{ echo "Invalid job id" >&2; exit 1; }}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith(("SLURM_", "LOCAL_RANK", "RANK"))]:
        monkeypatch.delenv(name)
    return asked


def leave(code):
    with pytest.raises(SystemExit) as leaving, requeue_if_warned():
        raise SystemExit(code)
    return leaving.value.code


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_warning_requeues_the_job(scontrol, monkeypatch, number):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert leave(128 + number) == 128 + number
    assert scontrol.read_text() == "requeue 7\n"


def test_of_an_array_the_one_job(scontrol, monkeypatch):
    for name, value in {"JOB_ID": "8", "ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    leave(128 + signal.SIGUSR1)
    assert scontrol.read_text() == "requeue 7_1\n"


def test_other_processes_leave_it_to_the_first(scontrol, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert leave(128 + signal.SIGUSR1) == 0, "srun kills the first where another fails"
    assert not scontrol.exists()


@pytest.mark.parametrize("code", [0, 1, 128 + signal.SIGTERM, None])
def test_nothing_else_requeues(scontrol, monkeypatch, code):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert leave(code) == code
    monkeypatch.delenv("SLURM_JOB_ID")
    leave(128 + signal.SIGUSR1)
    assert not scontrol.exists()


def test_what_slurm_refuses_is_said(scontrol, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_JOB_ID", "13")
    leave(128 + signal.SIGUSR1)
    assert "SLURM did not requeue job 13 (Invalid job id). Remedy: sbatch" in capsys.readouterr().err


@pytest.mark.slow
def test_tasks_of_slurm_stop_together_and_go_on(scontrol, autoencoder, tmp_path):
    """Two tasks, as srun starts them; both are warned, then the job runs again."""
    two = [autoencoder, "trainer.devices=2", "strategy=ddp"]
    whole = run_process(*TINY, *two, "output_dir=whole", cwd=tmp_path)
    assert whole.code == 0, whole.err

    def job():
        place = {"NTASKS": 2, "NTASKS_PER_NODE": 2, "NNODES": 1, "NODEID": 0, "JOB_ID": 70_000 + os.getpid() % 9999,
                 "JOB_NAME": "x", "NODELIST": "localhost"}  # fmt: skip
        shared = {f"SLURM_{name}": str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
        return [
            start_process(*TINY, *two, cwd=tmp_path, **shared, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank))
            for rank in (0, 1)
        ]

    tasks, run = job(), tmp_path / "out"
    deadline = time.monotonic() + 200
    while not (run / "metrics.csv").exists() or len(column(run, "train/loss")) < 5:
        assert all(task.poll() is None for task in tasks) and time.monotonic() < deadline
        time.sleep(0.05)
    for task in reversed(tasks):
        os.kill(task.pid, signal.SIGUSR1)
    told = [task.communicate(timeout=60) for task in tasks]
    assert [task.returncode for task in tasks] == [128 + signal.SIGUSR1, 0], told
    assert scontrol.read_text().startswith("requeue 7") and scontrol.read_text().count("\n") == 1
    assert "is in the queue again" in told[0][1] and "started by SLURM" in told[0][0]
    assert json.loads((run / "record.json").read_text())["status"] == "interrupted"
    tasks = job()
    told = [task.communicate(timeout=240) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], told
    assert "going on from" in told[0][0] and told[1][0] == ""
    assert column(run, "train/loss") == column(tmp_path / "whole", "train/loss")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("hydra_plugins.hydra_submitit_launcher") is None, reason="pip install '.[slurm]'")
def test_jobs_through_submitit(tmp_path):
    """As `hydra/launcher=submitit_slurm`, but for the queue: here it is this machine."""
    words = ["-m", "hydra/launcher=submitit_local", *VAE_TRAIN, "trainer.max_epochs=1", "resume=auto", "seed=0,1"]
    found = run_process(*words, cwd=tmp_path)
    assert found.code == 0, found.err
    runs = sorted((tmp_path / "runs/vae_train").iterdir(), key=lambda run: run.name.rpartition("_")[2])
    records = [json.loads((run / "record.json").read_text()) for run in runs]
    assert [(record["seed"], record["status"]) for record in records] == [(0, "finished"), (1, "finished")]
    assert [Path(run).name.rpartition("_")[2] for run in runs] == ["0", "1"], "jobs of the same second"
