"""Processes of a launcher: the first decides and prepares alone; what the others do meanwhile, and how long."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from refusals import refuses
from tiny_runs import BY_TORCHRUN, DDPM_TRAIN, column, run_process

from experiments import launch
from experiments.launch import LaunchError, Rendezvous, WorldInfo
from experiments.pretrain_transfer import pretrain_transfer
from experiments.runs import RunFolder
from experiments.session import Run

FOLDER = RunFolder(Path("runs/x/3"), "runs/x/3/checkpoints/last.ckpt", "going on")


@pytest.fixture
def port():
    """One that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def meet(port, size=2, wait_minutes=1.0):
    """The meetings of as many processes, here of threads, in the order of their ranks."""
    found = {}

    def join(rank):
        found[rank] = Rendezvous(WorldInfo("torchrun", rank, size, "127.0.0.1", port), "0", wait_minutes)

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [found[rank] for rank in range(size)]


def told(meeting):
    """What another process is told, as it comes."""
    answers = []

    def listen():
        try:
            answers.append(meeting.agree(lambda: pytest.fail("the first decides")))
        except BaseException as error:
            answers.append(error)

    thread = threading.Thread(target=listen)
    thread.start()
    return thread, answers


def test_the_others_have_the_folder_of_the_first_when_it_begins(port):
    first, second = meet(port)
    thread, answers = told(second)
    assert first.agree(lambda: FOLDER) == FOLDER
    time.sleep(0.5)
    assert thread.is_alive(), "it waits until the first trains"
    first.begin()
    thread.join(10)
    assert answers == [FOLDER]
    first.end(is_well=False)
    assert second.agree(lambda: None) == FOLDER, "who was let in is not sent home"


@pytest.mark.parametrize("is_well", [True, False])
def test_where_the_first_does_all_alone_the_others_leave(port, is_well):
    first, second = meet(port)
    thread, answers = told(second)
    first.end(is_well)
    assert not first._store.check(["facts/1"]) and first._store.add("heard", 0) == 1, "it goes when the other knows"
    thread.join(10)
    if is_well:
        assert answers == [None]
    else:
        assert isinstance(answers[0], SystemExit) and answers[0].code == 1


def test_who_waits_too_long_says_for_what(port):
    _, second = meet(port, wait_minutes=0.001)
    thread, answers = told(second)
    thread.join(10)
    assert isinstance(answers[0], LaunchError) and "process 1 has waited wait_minutes=0.001" in str(answers[0])


def test_the_first_learns_where_all_are_and_who_is_missing(port, monkeypatch):
    first, second, third = meet(port, size=3)
    second.gather({"host": "b"})
    monkeypatch.setattr(launch, "ARRIVAL_MINUTES", 0.005)
    with refuses(LaunchError, "process 2 of 3", "0.005 minutes"):
        first.gather({"host": "a"})
    assert third.gather({"host": "c"}) == [{"host": "c"}]
    assert [told["host"] for told in first.gather({"host": "a"})] == ["a", "b", "c"]


def test_who_finds_nobody_says_where(port, monkeypatch):
    monkeypatch.setattr(launch, "ARRIVAL_MINUTES", 0.01)
    with refuses(LaunchError, "process 1 of 2", f"127.0.0.1:{port}", "0.01 minutes"):
        Rendezvous(WorldInfo("SLURM", 1, 2, "127.0.0.1", port), "0", 1)


def test_a_first_that_is_killed_is_missed(port):
    code = (
        "import sys, time; from experiments.launch import Rendezvous, WorldInfo\n"
        f"Rendezvous(WorldInfo('SLURM', 0, 2, '127.0.0.1', {port}), '0', 1); print('here', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    second = Rendezvous(WorldInfo("SLURM", 1, 2, "127.0.0.1", port), "0", 1)
    assert process.stdout.readline() == b"here\n"
    thread, answers = told(second)
    process.kill()
    process.communicate()
    thread.join(20)
    assert isinstance(answers[0], LaunchError) and "the first process has gone" in str(answers[0])


# -- places


@pytest.fixture
def unplaced(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC", "MASTER_", "NODE_RANK", "GROUP_RANK", "RANK", "WORLD_SIZE")):
            monkeypatch.delenv(name)
    return monkeypatch


def test_one_process_alone_has_nobody_to_meet(unplaced):
    assert WorldInfo.here().size == 1 and not WorldInfo.here().is_process


def test_places_of_torchrun(unplaced):
    told = {
        "RANK": 3,
        "WORLD_SIZE": 4,
        "LOCAL_RANK": 1,
        "TORCHELASTIC_RUN_ID": "x",
        "MASTER_ADDR": "a",
        "MASTER_PORT": 7,
    }
    for name, value in told.items():
        unplaced.setenv(name, str(value))
    assert WorldInfo.here(2) == WorldInfo("torchrun", 3, 4, "a", 7) and WorldInfo.here(2).is_process


@pytest.mark.parametrize("devices", [2, [0, 1], "auto", -1])
def test_as_many_processes_as_devices(devices):
    WorldInfo("torchrun", 0, 4).check(devices, 2)
    WorldInfo("one start on each node", 0, 2).check(devices, 2)
    WorldInfo("torchrun", 0, 4).check(1, 1)


def test_other_numbers_of_processes_than_devices_are_said_once():
    with refuses(LaunchError, "torchrun", "2 process", "trainer.devices=3", "--nproc-per-node=3"):
        WorldInfo("torchrun", 0, 2).check(3, 1)
    with refuses(
        LaunchError, "SLURM", "4 process", "trainer.devices=[0]", "trainer.num_nodes=2", "--ntasks-per-node=1"
    ):
        WorldInfo("SLURM", 0, 4).check([0], 2)
    with pytest.raises(SystemExit):
        WorldInfo("torchrun", 1, 2).check(3, 1)


def test_places_of_slurm(unplaced):
    told = {"NTASKS": 4, "PROCID": 2, "LOCALID": 0, "NODEID": 1, "JOB_ID": 77, "JOB_NAME": "x", "NTASKS_PER_NODE": 2,
            "NODELIST": "gpu[03-04]", "NNODES": 2}  # fmt: skip
    for name, value in told.items():
        unplaced.setenv(f"SLURM_{name}", str(value))
    place = WorldInfo.here(2)
    assert (place.launcher, place.rank, place.size, place.address) == ("SLURM", 2, 4, "gpu03")


def test_places_of_one_start_on_each_node(unplaced):
    with refuses(LaunchError, "trainer.num_nodes=2", "MASTER_ADDR, MASTER_PORT, NODE_RANK"):
        WorldInfo.here(2)
    for name, value in {"MASTER_ADDR": "a", "MASTER_PORT": "7", "NODE_RANK": "1"}.items():
        unplaced.setenv(name, value)
    assert WorldInfo.here(2) == WorldInfo("one start on each node", 1, 2, "a", 7) and not WorldInfo.here(2).is_process


def test_a_study_is_started_once(unplaced, composed):
    unplaced.setattr(WorldInfo, "here", lambda num_nodes=1: WorldInfo("torchrun", 0, 2, "a", 7))
    with refuses(ValueError, "pretrain_transfer", "torchrun", "srun"):
        pretrain_transfer(Run(composed("+exp=pretrain_transfer")))


# -- runs


@pytest.mark.slow
def test_torchrun_trains_as_lightning_does(tmp_path):
    """From nothing: data, autoencoder, latents and denoiser; no folder is named, and all is said once."""
    words = [*DDPM_TRAIN, "trainer.devices=2", "strategy=ddp"]
    own = run_process(*words, "output_dir=own", "cache_dir=own_cache", cwd=tmp_path)
    assert own.code == 0, own.err
    other = run_process(*words, cwd=tmp_path, by=BY_TORCHRUN)
    assert other.code == 0, other.err
    [run] = (tmp_path / "runs/ddpm_train").iterdir()
    for name in ("train/loss", "val/loss", "val/fd_efficientnet_lite0"):
        assert column(run, name) == column(tmp_path / "own", name), name
    for line in (
        "configuration",
        "── machines",
        "2 process(es) on 1 host(s), started by torchrun: ddp over gloo",
        "done",
    ):
        assert other.out.count(line) == 1, line


@pytest.mark.slow
def test_jobs_that_train_nothing_are_done_once(tmp_path):
    """And what is wrong is said once."""
    words = ["+exp=inspect_data", "data.num_images=8", "data.image_size=16", "output_dir=out"]
    found = run_process(*words, cwd=tmp_path, by=BY_TORCHRUN)
    assert found.code == 0, found.err
    assert found.out.count("configuration") == 1
    again = run_process(*words, cwd=tmp_path, by=BY_TORCHRUN)
    assert again.code == 1 and again.err.count("error: output_dir=out already holds a run") == 1, again.err
