"""A folder is held by one process, whoever it has forked, and as long as it lives."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest
from refusals import refuses

from callbacks.files import LOCK, remove_unfinished, write_atomically
from callbacks.locks import HeldError, alone, lock

HOLDER = """
import os, sys, time
from pathlib import Path
from callbacks.locks import alone
with alone(Path(sys.argv[1])):
    if os.fork() == 0:
        print(os.getpid(), flush=True)  # by the fork, which has let go by then
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_who_is_named(tmp_path):
    with alone(tmp_path / "new/run"):
        who = f"process {os.getpid()} on {socket.gethostname()}"
        with refuses(HeldError, who, "stop it"), alone(tmp_path / "new/run", "stop it"):
            pass
        assert (tmp_path / "new/run" / LOCK).exists(), "the second has not taken it away"
    assert not list(tmp_path.iterdir()), "nothing came into it"
    with alone(tmp_path / "new/run"):
        (tmp_path / "new/run/record.json").touch()
    assert [path.name for path in (tmp_path / "new/run").iterdir()] == ["record.json"]


def test_a_link_in_the_place_of_the_lock_is_not_written_through(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "precious")
    with refuses(ValueError, tmp_path / "run" / LOCK, tmp_path / "precious"), alone(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_killed_process_holds_nothing_though_what_it_forked_lives(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    child = int(holder.stdout.readline())
    try:
        with refuses(HeldError, f"process {holder.pid}", socket.gethostname()), alone(tmp_path):
            pass
        holder.kill()
        holder.wait()
        os.kill(child, 0)
        with alone(tmp_path):
            assert (tmp_path / LOCK).read_text() == f"{os.getpid()} on {socket.gethostname()}\n"
    finally:
        holder.kill()
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_a_file_system_that_cannot_lock_is_said_to_be_one(tmp_path, monkeypatch):
    def refused(file, how):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", refused)
    with open(tmp_path / "a", "w") as file, pytest.warns(UserWarning, match="cannot lock"):
        assert lock(file)
    monkeypatch.setattr(fcntl, "flock", lambda file, how: (_ for _ in ()).throw(OSError(errno.EIO, "ill")))
    with open(tmp_path / "a", "w") as file, refuses(OSError, "ill"):
        lock(file)


def test_where_nothing_can_be_written_the_job_itself_says_so(tmp_path, monkeypatch):
    def refused(path, mode):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr("callbacks.locks.open_own", refused)
    with alone(tmp_path):
        assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_half_written_is_taken_away_and_nothing_else(tmp_path):
    kept = [
        "cells/one/.lock",
        "cells/one/checkpoints/.last.3.part.ckpt",
        "last.ckpt",
        ".hidden.part",
        "notes.12.part",
        ".notes.part.txt",
        "samples/.x.12.partial",
    ]
    left = [".last.123.part.ckpt", ".record.7.part.json", "checkpoints/.best.99.part.ckpt", "a/.set.5.part/shard.pt"]
    for name in (*kept, *left):
        write_atomically(tmp_path / name, lambda path: path.write_text("x"))
    remove_unfinished(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(kept)
    assert not (tmp_path / "a/.set.5.part").exists()
    names = []
    write_atomically(tmp_path / "last.ckpt", lambda path: (names.append(path), path.write_text("x")))
    names[0].write_text("half")
    remove_unfinished(tmp_path)
    assert not names[0].exists(), "the names that are given to half-written files are known"


def test_where_others_may_be_at_work_what_is_long_unchanged_goes(tmp_path):
    for age, name in ((0, "of_another"), (7200, "killed")):
        path = tmp_path / f".{name}.123.part.npz"
        path.write_text("half")
        os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))
    (tmp_path / "whole.npz").touch()
    remove_unfinished(tmp_path, seconds=3600)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".of_another.123.part.npz", "whole.npz"]
    remove_unfinished(tmp_path / "absent", seconds=3600)
