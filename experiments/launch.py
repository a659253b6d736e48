"""Processes that a launcher has started: the first reads and prepares alone, the others join it when it trains.

So it is where Lightning starts the processes itself, and nothing that comes before depends on who started them.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

from datamodules.errors import UserError
from experiments.runs import FOLDER_VARIABLE, RESUME_VARIABLE, RunFolder, hand_down

ARRIVAL_MINUTES = 10.0  # between the first and the last of the processes that a launcher starts
FAREWELL_SECONDS = 10.0
EXTERNAL = {"torchrun": TorchElasticEnvironment, "SLURM": SLURMEnvironment}
BEGUN, ENDED, FAILED = b"begun", b"ended", b"failed"


class LaunchError(UserError, RuntimeError):
    """Processes that were to work together cannot; the message says which, and what to do."""


@dataclass(frozen=True)
class WorldInfo:
    """Where this process is among those that were started for a run.

    Attributes:
        launcher: who started them, for people.
        rank: from 0 to size - 1.
        size: processes; nodes, where Lightning starts those of each node.
        address, port: of the first.
    """

    launcher: str = "Lightning"
    rank: int = 0
    size: int = 1
    address: str = ""
    port: int = 0

    @property
    def is_process(self) -> bool:
        """Whether all processes are started by the launcher, and Lightning starts none."""
        return self.launcher in EXTERNAL

    @classmethod
    def here(cls, num_nodes: int = 1) -> "WorldInfo":
        """As the environment tells it.

        Raises:
            LaunchError: one start on each node, and no address at which they could meet.
        """
        for name, kind in EXTERNAL.items():
            if kind.detect():
                told = kind()
                return cls(name, told.global_rank(), told.world_size(), told.main_address, told.main_port)
        if num_nodes == 1:
            return cls()
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
        if missing:
            raise LaunchError(
                f"trainer.num_nodes={num_nodes}, and nothing says where the nodes meet: {', '.join(missing)} is not "
                "set. Remedy: start by torchrun or srun; or set these three on each node."
            )
        told = LightningEnvironment()
        return cls("one start on each node", told.node_rank(), num_nodes, told.main_address, told.main_port)

    def check(self, devices: Any, num_nodes: int) -> None:
        """See that the launcher has started as many processes as are asked for; the first one says so if not.

        One device is no number to check: what trains nothing is done once, whoever starts it.

        Raises:
            LaunchError: on the first process, another number.
            SystemExit: on the others.
        """
        num = len(devices) if isinstance(devices, Sequence) and not isinstance(devices, str) else devices
        if not self.is_process or not isinstance(num, int) or num * num_nodes in (self.size, 1) or num < 1:
            return
        if self.rank:
            raise SystemExit(1)
        option = "--nproc-per-node" if self.launcher == "torchrun" else "--ntasks-per-node"
        raise LaunchError(
            f"{self.launcher} has started {self.size} process(es), and trainer.devices={devices} on "
            f"trainer.num_nodes={num_nodes} are {num * num_nodes}. Remedy: {option}={num}, or another trainer.devices."
        )


class Rendezvous:
    """The processes of a launch, before torch's process group is there: a store at the address of the first.

    Args:
        place: of this process.
        name: tells the jobs of a sweep apart.
        wait_minutes: after which a process that waits for the first gives up.
    """

    def __init__(self, place: WorldInfo, name: str, wait_minutes: float) -> None:
        self.place, self.wait_minutes = place, wait_minutes
        url = f"tcp://{place.address}:{place.port}"
        arrival = timedelta(minutes=ARRIVAL_MINUTES)
        try:
            store, _, _ = next(dist.rendezvous(url, place.rank, place.size, timeout=arrival))
        except RuntimeError as error:
            raise LaunchError(
                f"process {place.rank} of {place.size} could not meet the others at {place.address}:{place.port} in "
                f"{ARRIVAL_MINUTES:g} minutes ({str(error).splitlines()[0]}). Remedy: see that all of them run, and "
                "that their machines reach that address."
            ) from error
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = dist.PrefixStore(f"synfundus/{attempt}/{name}", store)
        self._has_begun = False

    def gather(self, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
        """On the first process what every one has told, in the order of the ranks; on the others what they told.

        Raises:
            LaunchError: some have not come; names them.
        """
        self._store.set(f"facts/{self.place.rank}", json.dumps(dict(facts)))
        ranks = range(self.place.size) if self.place.rank == 0 else [self.place.rank]
        end = time.monotonic() + 60 * ARRIVAL_MINUTES
        while missing := [rank for rank in ranks if not self._store.check([f"facts/{rank}"])]:
            if time.monotonic() > end:
                raise LaunchError(
                    f"process {', '.join(map(str, missing))} of {self.place.size} has not come in {ARRIVAL_MINUTES:g} "
                    f"minutes. Remedy: see that the launcher ({self.place.launcher}) starts as many as it says."
                )
            time.sleep(0.1)
        return [json.loads(self._store.get(f"facts/{rank}")) for rank in ranks]

    def agree(self, decide: Callable[[], RunFolder]) -> RunFolder | None:
        """The folder that the first process decides on; the others have it when the first begins to train.

        None on the others where the first has done all there was to do without them.

        Raises:
            SystemExit: the first has failed, and said why.
            LaunchError: it has gone without a word, or takes longer than `wait_minutes`.
        """
        if self.place.rank == 0:
            folder = decide()
            told = {name: str(value) for name, value in asdict(folder).items()}
            self._store.set("folder", json.dumps(told))
            return folder
        word = self._wait()
        if word == FAILED:
            raise SystemExit(1)
        if word == ENDED:
            return None
        told = json.loads(self._store.get("folder"))
        return hand_down(RunFolder(Path(told["output_dir"]), told["checkpoint"], told["note"]))

    def begin(self) -> None:
        """On the first process: let the others come."""
        if not self._has_begun:
            self._say(BEGUN)

    def end(self, is_well: bool) -> None:
        """On the first process: send the others home, if they have not been let in; the store goes when they know."""
        if self.place.rank or self._has_begun:
            return
        self._say(ENDED if is_well else FAILED)
        end = time.monotonic() + FAREWELL_SECONDS
        while self._store.add("heard", 0) < self.place.size - 1 and time.monotonic() < end:
            time.sleep(0.05)

    def _say(self, word: bytes) -> None:
        if self.place.rank == 0:
            self._store.set("word", word)
            self._has_begun = True

    def _wait(self) -> bytes:
        end = time.monotonic() + 60 * self.wait_minutes
        try:
            while not self._store.check(["word"]):
                if time.monotonic() > end:
                    raise LaunchError(
                        f"process {self.place.rank} has waited wait_minutes={self.wait_minutes:g} for the first, which "
                        "reads and prepares the data alone. Remedy: a higher wait_minutes; or run the same on one "
                        "process first, until it trains."
                    )
                time.sleep(0.2)  # not store.wait, which would not hear SIGTERM
            word = self._store.get("word")
            self._store.add("heard", 1)
            return word
        except dist.DistError as error:
            raise LaunchError(
                f"the first process has gone, which process {self.place.rank} waited for: what it said last tells why. "
                f"({str(error).splitlines()[0]})"
            ) from error


_meeting: Rendezvous | None = None  # of this process, as torch's process group is


@contextmanager
def meeting(place: WorldInfo, name: str, wait_minutes: float) -> Iterator[Rendezvous]:
    """Meet the others; what the first does within is not done before it leaves, unless `begin` lets them in."""
    global _meeting
    _meeting, is_well = Rendezvous(place, name, wait_minutes), False
    try:
        yield _meeting
        is_well = True
    finally:
        _meeting.end(is_well)
        _meeting = None


def begin() -> None:
    """Let the others come, if there are others that wait: all that one process alone can do is done."""
    if _meeting is not None:
        _meeting.begin()


def is_started_by_a_run() -> bool:
    """Whether Lightning has started this process, which then has everything from the one that did."""
    return os.environ.get("LOCAL_RANK", "0") != "0" and FOLDER_VARIABLE in os.environ


def inherited() -> RunFolder:
    """The folder of the process by which this one was started."""
    return RunFolder(Path(os.environ[FOLDER_VARIABLE]), os.environ.get(RESUME_VARIABLE, ""), "")
