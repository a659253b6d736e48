"""Commands that find the disk full, or are killed: `unshare --mount python accidents.py`, a JSON request on stdin.

The request has `words` of a command whose files lie below its working folder, `copies` (name -> folder) that are there
before it begins, and `same`, patterns of the files that are to be as those of a run without an accident. With
`fractions` it is run on disks with so much of the room that it takes. With `signals`, lists of numbers, it is sent the
numbers of each list one after the other, at a random time of its work; all of these are in one folder, `out`.
Every command is a fork of this process, which has imported everything once.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.run import main

UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
PAGE = 4096
LARGE = "2g"
ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT
SECONDS = 240


def ask(words: Sequence[str], same: Sequence[str], copies: dict[str, str] | None = None, **accidents: list) -> Any:
    """The answer to a request, from a process that may mount disks of its own."""
    if subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        pytest.skip("no disk of its own can be had here; tests/callbacks/test_disk.py has what the system refuses")
    request = {"words": list(words), "same": same, "copies": copies or {}, **accidents}
    done = subprocess.run(
        [*UNSHARE, sys.executable, __file__], input=json.dumps(request), capture_output=True, text=True, timeout=1800,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def disk(request: dict) -> Iterator[Path]:
    """An empty disk in the memory, but for the copies."""
    with tempfile.TemporaryDirectory() as name:
        mount("-t", "tmpfs", "-o", f"size={LARGE}", "tmpfs", name)
        try:
            for copy, folder in request["copies"].items():
                shutil.copytree(folder, Path(name, copy))
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=True)


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def used(folder: Path) -> int:
    told = os.statvfs(folder)
    return (told.f_blocks - told.f_bfree) * told.f_frsize


def run(words: Sequence[str], folder: Path, meanwhile: Callable[[int], None] = lambda pid: None) -> tuple[int, str]:
    """Exit status and what was said; `meanwhile` is told the process, which has a group of its own."""
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            os.setsid()
            signal.alarm(SECONDS)
            os.chdir(folder)
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            sys.argv = ["run.py", *words]
            code = 99
            try:
                code = main()
            except SystemExit as leaving:
                code = int(leaving.code or 0)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        meanwhile(child)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what it has started
        said.seek(0)
        return os.waitstatus_to_exitcode(status), said.read().decode(errors="replace")


def contents(folder: Path, patterns: Sequence[str]) -> dict[str, str]:
    found = sorted(file for pattern in patterns for file in folder.glob(pattern))
    files = [file for file in found if not file.name.startswith(".")]  # else it is on its way
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def trial(request: dict, room: int, whole: dict[str, str]) -> dict:
    """On a disk with `room` bytes left; then, with room enough, once more."""
    with disk(request) as folder:
        mount("-o", f"remount,size={used(folder) + room}", str(folder))
        code, said = run(request["words"], folder)
        mount("-o", f"remount,size={LARGE}", str(folder))
        again, said_again = run([*request["words"], "resume=auto"], folder)
        left = [str(file.relative_to(folder)) for file in folder.rglob(".*") if file.is_file()]
        differing = sorted(set(whole.items()) ^ set(contents(folder, request["same"]).items()))
    return {"room": room, "code": code, "said": said, "again": again, "said_again": said_again,
            "left": left, "differing": differing}  # fmt: skip


def interrupted(request: dict, seconds: float, whole: dict[str, str]) -> dict:
    """Interrupted again and again in one folder, then left alone; `seconds` are those from its record to its end."""
    draw, codes, said = random.Random(len(request["words"])), [], []
    with disk(request) as folder:
        for numbers in request["signals"]:
            before = begun(folder)

            def send(child: int, numbers: Sequence[int] = numbers, before: int = before) -> None:
                while begun(folder) == before and os.waitid(os.P_PID, child, ENDED) is None:
                    time.sleep(0.002)
                time.sleep(draw.uniform(0, 1) * seconds)
                for number in numbers:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child, number)
                    time.sleep(0.02)

            code, words = run([*request["words"], "resume=auto"], folder, send)
            codes.append(code)
            said.append(words)
            found = contents(folder, request["same"])
            half = {name: found[name] for name in found if found[name] != whole.get(name)}
            assert not half, (numbers, half)
        again, said_again = run([*request["words"], "resume=auto"], folder)
        left = [str(file.relative_to(folder)) for file in folder.rglob(".*")]
        differing = sorted(set(whole.items()) ^ set(contents(folder, request["same"]).items()))
    return {"codes": codes, "said": said, "again": again, "said_again": said_again,
            "left": left, "differing": differing}  # fmt: skip


def begun(folder: Path) -> int:
    """When a record of the run was written last; 0 where there is none yet."""
    record = folder / "out/record.json"
    return record.stat().st_mtime_ns if record.is_file() else 0


def answer(request: dict) -> list[dict] | dict:
    """What comes of each fraction of the room that the command takes, or of all the signals."""
    with disk(request) as folder:
        before = used(folder)
        code, said = run(request["words"], folder)
        assert code == 0, said
        taken, whole = used(folder) - before, contents(folder, request["same"])
        seconds = json.loads((folder / "out/record.json").read_text())["wall_seconds"]
    assert whole
    if "signals" in request:
        return interrupted(request, seconds, whole)
    rooms = [PAGE * max(1, round(fraction * taken / PAGE)) for fraction in request["fractions"]]
    return [trial(request, room, whole) for room in rooms]


if __name__ == "__main__":
    import experiments.ddpm_train  # noqa: F401

    asked = json.load(sys.stdin)
    mount("--make-rprivate", "/")
    print(json.dumps(answer(asked)))
