"""Killed at any moment, with one process or two: what is resumed ends as what never stopped, and no file is cut."""

import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_runs import Result, run_process, start_process

from datamodules.files import sha256
from datamodules.findings import NAMES
from datamodules.synthetic import SyntheticSet

WORDS = ["+exp=synthesize", "output_dir=set", "num_images=320", "job.images_per_shard=16", "job.batch_size=8",
         "job.images_per_row_group=8", "job.num_steps=25", "trainer.accelerator=cpu"]  # fmt: skip
TWO = ["trainer.devices=2", "strategy=ddp"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def words(generator) -> list[str]:
    return [*WORDS, f"ckpt={generator}"]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory) -> tuple[Path, float]:
    """A set that was made in one go by one process, and the seconds that took."""
    folder, start = tmp_path_factory.mktemp("whole"), time.monotonic()
    finished(run_process(*words, cwd=folder))
    return folder / "set", time.monotonic() - start


def finished(result: Result) -> None:
    assert result.code == 0, result.err


def rows_of(folder: Path) -> list[dict]:
    return [row for shard in SyntheticSet(folder).shards for row in pq.read_table(shard).to_pylist()]


def pixels_of(rows: list[dict]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows]).astype(int)


def check_what_is_there(folder: Path) -> int:
    """Every file that has its final name is whole; returns how many shards there are."""
    shards = sorted((folder / "data").glob("[!.]*")) if (folder / "data").is_dir() else []
    for shard in shards:
        assert shard.suffix == ".parquet"
        written = json.loads((folder / "checksums" / f"{shard.stem}.json").read_text())
        assert sha256(shard) == written["sha256"], shard
        assert pq.read_table(shard).num_rows == written["num_rows"] == 16
    for name in ("plan.parquet", "recipe.json", "manifest.json"):
        path = folder / name
        if path.exists():
            assert pq.read_table(path).num_rows == 320 if path.suffix == ".parquet" else json.loads(path.read_text())
    return len(shards)


def kill(words: list[str], here: Path, num_more: int, after: float) -> None:
    """Start, and kill all of its processes some seconds after it has made so many shards, or when it has ended."""
    process, before = start_process(*words, cwd=here), num_shards(here)
    deadline = time.monotonic() + 120
    while num_shards(here) < before + num_more and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    end = time.monotonic() + after
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.005)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def num_shards(here: Path) -> int:
    return len(list((here / "set/data").glob("[!.]*")))


@pytest.mark.parametrize(
    ("counts", "num_kills"),
    [
        pytest.param([[]], 10, id="one process", marks=pytest.mark.full),
        pytest.param([[], TWO], 10, id="one and two in turn", marks=pytest.mark.full),
        pytest.param([[], TWO], 3, id="three times"),
    ],
)
def test_killed_at_random_moments(words, whole, here, counts, num_kills):
    reference, seconds = whole
    draw, seen = random.Random(7 + len(counts)), []
    for number in range(num_kills):
        more = [] if not (here / "set").exists() else ["resume=auto"]
        # In the first imports, at work on any shard, and between two; ten times two are not all of the twenty.
        num_more = draw.choice([0, 1, 1, 2, 2])
        after = draw.uniform(0, 1.2 * seconds) if num_more == 0 else draw.uniform(0, 0.5)
        kill([*words, *counts[number % len(counts)], *more], here, num_more, after)
        seen.append(check_what_is_there(here / "set"))
    assert sum(0 < num < 20 for num in seen) >= num_kills // 2, seen  # most were killed in the middle
    for leftover in (here / "set/data").glob(".*"):
        assert leftover.suffix == ".part"
    finished(run_process(*words, *counts[0], "resume=auto", cwd=here))
    assert check_what_is_there(here / "set") == 20 and not list(SyntheticSet(here / "set").verify())
    ours, theirs = rows_of(here / "set"), rows_of(reference)
    for name in ("id", "index", "seed", *NAMES):
        assert [row[name] for row in ours] == [row[name] for row in theirs], name
    assert np.abs(pixels_of(ours) - pixels_of(theirs)).max() <= 1
    if counts == [[]]:
        assert checksums(here / "set") == checksums(reference)


@pytest.mark.full
def test_two_processes_make_the_same_files_each_time(words, here):
    for name in ("a", "b"):
        finished(run_process(*words, *TWO, cwd=here))
        shutil.move(here / "set", here / name)
    assert checksums(here / "a") == checksums(here / "b")


@pytest.mark.full
def test_where_the_first_process_is_killed_alone_the_others_are_not_run_over(words, whole, here):
    reference, _ = whole
    process = start_process(*words, *TWO, cwd=here)
    while num_shards(here) < 4 and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(20)
    os.killpg(process.pid, signal.SIGSTOP)  # or it might be done before the next run looks
    result = run_process(*words, *TWO, "resume=auto", cwd=here)
    assert result.code == 1 and "still at work on the set" in result.err
    assert check_what_is_there(here / "set") < 20
    os.killpg(process.pid, signal.SIGKILL)
    time.sleep(0.5)
    finished(run_process(*words, *TWO, "resume=auto", cwd=here))
    assert checksums(here / "set") == checksums(reference)
    assert not list(SyntheticSet(here / "set").verify())
    assert not [path.name for path in (here / "set").rglob(".*")]


@pytest.mark.full
@pytest.mark.parametrize("which", ["first", "all"])
def test_sigterm_stops_two_processes_and_going_on_completes_the_set(words, whole, here, which):
    process = start_process(*words, *TWO, cwd=here)
    while num_shards(here) < 4 and process.poll() is None:
        time.sleep(0.01)
    (os.kill if which == "first" else os.killpg)(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "resume=auto" in said, said
    assert json.loads((here / "set/record.json").read_text())["status"] == "interrupted"
    assert check_what_is_there(here / "set") < 20
    finished(run_process(*words, *TWO, "resume=auto", cwd=here))
    assert checksums(here / "set") == checksums(whole[0])


def test_processes_of_a_launcher_share_the_work(words, whole, here):
    """As torchrun starts them: all at once, the first time and when some of the shards are there."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0",
                "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", "experiments.run"]  # fmt: skip
    for more in ([], ["resume=auto"]):
        done = subprocess.run([*launcher, *words, *TWO, *more], cwd=here, capture_output=True, text=True, timeout=240,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert checksums(here / "set") == checksums(whole[0])
        for shard in SyntheticSet(here / "set").shards[3:8]:
            shard.unlink()
    assert done.stdout.count("80 of 320 images are to be made") == 1


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("data/*.parquet"))}
