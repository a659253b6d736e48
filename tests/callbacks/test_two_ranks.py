"""One process and two give the same figures, with numbers that two does not divide, and nobody waits for ever."""

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_fit import TinyModule, fit, read_saved
from two_ranks import measuring_callbacks, uneven_data

from callbacks.metrics_csv import resume_step
from callbacks.ranks import Ranks


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("two_ranks.py")
    place["PYTHONPATH"] = os.pathsep.join([str(script.parent), str(script.parents[2])])
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder)],
            env=os.environ | place | {"LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    results = [folder / f"rank_{rank}.json" for rank in range(2)]
    assert all(path.is_file() for path in results), "\n".join(outputs)
    return folder, [json.loads(path.read_text()) for path in results], processes, outputs


def test_figures_equal_those_of_one_process(two_ranks, tmp_path):
    folder, results, _, _ = two_ranks
    callbacks = measuring_callbacks(str(tmp_path))
    trainer, _ = fit(tmp_path, callbacks, module=TinyModule(lr=0), data=uneven_data(), max_epochs=1)
    names = [f"val/{figure}_{name}" for figure in ("fd", "kd") for name in ("tiny", "many", "again")]
    for name in [*names, "val/psnr", "val/ssim"]:
        expected = float(trainer.callback_metrics[name])
        assert [result["figures"][name] for result in results] == pytest.approx([expected] * 2, rel=1e-6), name
    assert (folder / "samples" / "epoch_0000.png").read_bytes() == (
        tmp_path / "samples" / "epoch_0000.png"
    ).read_bytes()
    with open(folder / "frechet.csv", newline="") as file:
        assert [row["figure"] for row in csv.DictReader(file)] == ["val/fd_tiny", "val/fd_many", "val/fd_again"]
    assert json.loads((folder / "record.json").read_text())["num_processes"] == 2


def test_all_ranks_make_the_same_calls_and_keep_the_order(two_ranks):
    first, second = (result["sampled"] for result in two_ranks[1])
    assert first == second
    assert [result["gathered"] for result in two_ranks[1]] == [{"1": [0], "4": [0, 1, 2, 3], "5": [0, 1, 2, 3, 4]}] * 2
    assert first == [2, 2, 2, 5, 5, 5, 1, 1, 3]


def test_signal_to_one_rank_stops_both_with_a_clear_line(two_ranks):
    """Rank 0 tells of the signal by its code; rank 1 by none, or a launcher would kill rank 0 before its last word."""
    folder, _, processes, outputs = two_ranks
    assert [process.returncode for process in processes] == [143, 0], "\n".join(outputs)
    checkpoint = str(folder / "checkpoints" / "last.ckpt")
    assert resume_step(read_saved(checkpoint)) == 2
    assert [f"saved {checkpoint}; go on with resume=auto" in output for output in outputs] == [True, False]
    assert not any("Traceback" in output for output in outputs)
    assert json.loads((folder / "stopped" / "record.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize(("num_ranks", "num_items"), [(1, 5), (2, 5), (3, 2), (4, 8)])
def test_shares_cover_every_item_once_and_are_equally_long(num_ranks, num_items):
    places = [Ranks(rank, num_ranks) for rank in range(num_ranks)]
    shares = [torch.tensor(place.share(num_items)) for place in places]
    genuine = [share[place.genuine(num_items)] for share, place in zip(shares, places, strict=True)]
    assert torch.cat(genuine).sort().values.tolist() == list(range(num_items))
    assert len({len(share) for share in shares}) == 1
