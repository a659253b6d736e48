"""Kills a tiny ddpm_train at random moments of all its stages, lets it go on, and compares it with one left alone.

`python tests/experiments/random_kills.py FOLDER SEED NUMBER`: so many runs, each killed twice before it may end. The
stages are the index, the cache of images, the autoencoder, its latents, the features of real images, and checkpoints.
Kills come just before a file is opened, renamed, linked or deleted, or by the clock. Among them are signals to stop,
which come twice.
"""

import csv
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import torch
from tiny_runs import DDPM_TRAIN

from experiments.run import main

WORDS = [*DDPM_TRAIN, "data.num_images=32", "checkpoint_every_n_steps=1", "checkpoint_keep_last=2",
         "checkpoint_keep_best=2", "output_dir=out", "resume=auto"]  # fmt: skip
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
CLOCK = ("seconds", "unix_time")  # how long measuring took, and when it was
SECONDS = 300
AGAIN = 1.3  # seconds after which a signal to stop is sent again, longer than what is taken for its echo
STOPPED = (0, 1, 130, 143, -signal.SIGTERM, -signal.SIGINT)  # or ended before


def attempt(folder: Path, at_event: int = 0, after: float = 0.0, number: int = signal.SIGKILL) -> tuple[int, int]:
    """Run in a fork, which gets a signal at its n-th event, or after so many seconds; exit status, and events seen."""
    folder.mkdir(parents=True, exist_ok=True)
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        os.chdir(folder)
        with open("log.txt", "a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        process, seen, now = os.getpid(), [0], threading.Event()

        def hook(event: str, arguments: tuple) -> None:
            path = str(arguments[0]) if arguments else ""
            if event in EVENTS and os.getpid() == process and (path[:1] != "/" or path.startswith(str(folder))):
                seen[0] += 1
                if seen[0] == at_event:
                    now.set()
                    os.kill(process, number)

        def clock() -> None:
            if not now.wait(after or None):
                os.kill(process, number)
            time.sleep(AGAIN)
            os.kill(process, number)

        sys.addaudithook(hook)
        if at_event or after:
            threading.Thread(target=clock, daemon=True).start()
        sys.argv[1:] = WORDS
        code = 1
        try:
            code = main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        finally:
            os.write(tell, str(seen[0]).encode())
            os._exit(code)
    os.close(tell)
    end = time.monotonic() + SECONDS
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"{folder}: hangs: {(folder / 'log.txt').read_text()[-3000:]}")
        time.sleep(0.05)
    events = int(os.read(told, 100) or 0)
    os.close(told)
    return os.waitstatus_to_exitcode(ended[1]), events


def result(folder: Path) -> dict:
    """What is to be the same, however often it was killed."""
    out = folder / "out"
    last, best = (torch.load(out / f"checkpoints/{name}.ckpt", weights_only=True) for name in ("last", "best"))
    tables = {}
    for name in ("metrics", "frechet"):
        with open(out / f"{name}.csv", newline="") as file:
            tables[name] = [{key: value for key, value in row.items() if value and key not in CLOCK}
                            for row in csv.DictReader(file)]  # fmt: skip
    return {
        "weights": {name: tensor for name, tensor in last["state_dict"].items()},
        "best": (best["epoch"], best["global_step"]),
        **tables,
        "checkpoints": sorted(path.name for path in (out / "checkpoints").iterdir()),
        "status": json.loads((out / "record.json").read_text())["status"],
        "left": sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                       if ".part" in path.name or path.name == ".lock" or path.name.endswith(".building")),
    }  # fmt: skip


def differences(found: dict, wanted: dict) -> list[str]:
    """Names of what differs."""
    weights, others = found.pop("weights"), {**wanted}
    expected = others.pop("weights")
    names = [name for name, tensor in expected.items() if not torch.equal(tensor, weights[name])]
    return [f"{key}: {found[key]} instead of {others[key]}" for key in others if found[key] != others[key]] + names


def run(root: Path, seed: int, number: int) -> list[str]:
    """Kill so many runs; returns what went wrong."""
    draw, wrong = random.Random(seed), []
    begin = time.monotonic()
    code, events = attempt(root / "whole")
    seconds = time.monotonic() - begin
    assert code == 0, (root / "whole/log.txt").read_text()[-3000:]
    print(f"{events} events in {seconds:.1f} s", flush=True)
    for index in range(number):
        folder, moments = root / f"killed_{index}", []
        for _ in range(2):
            by_event = draw.random() < 0.5
            moment = {"at_event": draw.randint(1, events)} if by_event else {"after": draw.uniform(0.05, seconds)}
            moment["number"] = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            code, _ = attempt(folder, **moment)
            moments.append(f"{moment} -> {code}")
            if code not in ((0, -signal.SIGKILL) if moment["number"] == signal.SIGKILL else STOPPED):
                wrong.append(f"{folder} {moments}: {(folder / 'log.txt').read_text()[-1500:]}")
        code, _ = attempt(folder)
        faults = [f"exit status {code}: {(folder / 'log.txt').read_text()[-1500:]}"] if code else []
        faults = faults or differences(result(folder), result(root / "whole"))
        print(index, moments, faults or "equal", flush=True)
        wrong += [f"{folder} {moments}: {fault}" for fault in faults]
    return wrong


if __name__ == "__main__":
    found = run(Path(sys.argv[1]).absolute(), int(sys.argv[2]), int(sys.argv[3]))
    print("\n".join(found))
    sys.exit(bool(found))
