"""Two machines, which are two network namespaces joined by a cable: they train as one does, and end together."""

import os
import secrets
import shutil
import signal
import subprocess
import time

import pytest
from tiny_runs import DDPM_TRAIN, TORCHRUN, column, make_run, one_of_each_kind, start_process

pytestmark = pytest.mark.slow
TINY = [*DDPM_TRAIN, "~callbacks.frechet", "~callbacks.agreement", "~callbacks.sample_grid",
        "data.epoch_size=96", "checkpoint_every_n_steps=2"]  # fmt: skip
LONG = ["data.epoch_size=32000"]
ADDRESSES = ("10.231.77.1", "10.231.77.2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def nodes():
    """Names of two namespaces with a network between them, of which nothing else is a part."""
    if shutil.which("ip") is None:
        pytest.skip("two machines are simulated by `ip` (iproute2), which is not here")
    name = f"sf{secrets.token_hex(3)}"
    names = [f"{name}a", f"{name}b"]
    try:
        try:
            for node in names:
                ip("netns", "add", node)
            ip("link", "add", f"{name}0", "netns", names[0], "type", "veth", "peer", "name", f"{name}1",
               "netns", names[1])  # fmt: skip
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this user may not make network namespaces: {error.stderr.decode().strip()}")
        for number, (node, address) in enumerate(zip(names, ADDRESSES, strict=True)):
            ip("-n", node, "addr", "add", f"{address}/24", "dev", f"{name}{number}")
            for device in ("lo", f"{name}{number}"):
                ip("-n", node, "link", "set", device, "up")
        yield names
    finally:
        for node in names:
            subprocess.run(["ip", "netns", "delete", node], check=False, capture_output=True)


def cable(nodes: list[str], number: int) -> str:
    return f"{nodes[number][:-1]}{number}"


def start(nodes, number, words, cwd) -> subprocess.Popen:
    launcher = [*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", f"--node-rank={number}", f"--master-addr={ADDRESSES[0]}",
                "--master-port=29511"]  # fmt: skip
    by = ["ip", "netns", "exec", nodes[number], *launcher]
    two = ["trainer.num_nodes=2", "trainer.devices=1"]
    return start_process(*words, *two, cwd=cwd, by=by, GLOO_SOCKET_IFNAME=cable(nodes, number))


def kill(node: str) -> None:
    """All processes of a node, as when its power fails."""
    for pid in subprocess.run(["ip", "netns", "pids", node], capture_output=True, text=True).stdout.split():
        os.kill(int(pid), signal.SIGKILL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="module")
def on_one_node(folder, autoencoder):
    """The runs of one node on one process and on two."""
    for name, words in {"one": ["data.batch_size=16"], "two": ["trainer.devices=2", "strategy=ddp"]}.items():
        make_run(folder, *TINY, autoencoder, *words, output_dir=name)


def losses(folder):
    return [float(value) for _, value in column(folder, "train/loss")]


@pytest.mark.parametrize("strategy", one_of_each_kind(["ddp", "fsdp2"], "fsdp2"))
def test_two_nodes_train_as_one(folder, on_one_node, autoencoder, nodes, strategy):
    words = [*TINY, autoencoder, f"strategy={strategy}", f"output_dir={strategy}"]
    both = [start(nodes, number, words, folder) for number in (0, 1)]
    told = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert "2 process(es) on " in told[0][0] and "configuration" not in told[1][0]
    assert len(losses(folder / "one")) == 12
    for other in ("one", "two"):
        pairs = zip(losses(folder / strategy), losses(folder / other), strict=True)
        print(f"{strategy}: largest difference of 12 losses from {other}: {max(abs(a - b) for a, b in pairs):.1e}")
        assert losses(folder / strategy) == pytest.approx(losses(folder / other), abs=1e-4), other


@pytest.mark.parametrize("how", one_of_each_kind(["killed", "cut off"], "cut off"))
def test_where_a_node_is_lost_the_other_ends_within_a_minute(folder, autoencoder, nodes, how):
    run = folder / how.replace(" ", "_")
    words = [*TINY, autoencoder, *LONG, "strategy=ddp", f"output_dir={run.name}"]
    both = [start(nodes, number, words, folder) for number in (0, 1)]
    try:
        deadline = time.monotonic() + 200
        while not (run / "metrics.csv").exists() or len(losses(run)) < 5:
            assert all(process.poll() is None for process in both) and time.monotonic() < deadline
            time.sleep(0.1)
        if how == "killed":
            kill(nodes[1])
        else:
            ip("-n", nodes[1], "link", "set", cable(nodes, 1), "down")
        lost_at = time.monotonic()
        _, err = both[0].communicate(timeout=60)
        print(f"{how}: the other ended after {time.monotonic() - lost_at:.1f} s")
        assert time.monotonic() - lost_at < 60
        assert both[0].returncode != 0
        assert "process 1 (" in err and "has died" in err and "resume=auto" in err, err
    finally:
        for node, process in zip(nodes, both, strict=True):
            kill(node)
            process.communicate()
