"""What the tests with files at random share: what happens in the interpreter meanwhile, and how long they try."""

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from foreign_files import TRAP
from hypothesis import HealthCheck, Phase, given, seed, settings

SECONDS = float(os.environ.get("SYNFUNDUS_FUZZ_SECONDS", "84"))
NUM_TESTS = 7  # that share these seconds
STARTED = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect")
CHANGED = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watcher:
    """What happens in the interpreter while it is on: processes, connections, files changed outside of a folder."""

    def __init__(self) -> None:
        self.root: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple) -> None:
        if self.root is None:
            return
        is_ours = event == "subprocess.Popen" and arguments[0] == "git"  # which revision of the code this is
        if (event.startswith(STARTED) and not is_ours) or (event == "import" and str(arguments[0]).startswith(TRAP)):
            self.seen.append(f"{event} {arguments}")
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if (writes or event in CHANGED) and isinstance(arguments[0], str | bytes | os.PathLike):
            name = os.fsdecode(arguments[0])
            path = os.path.realpath(name if event == "os.mkdir" else os.path.dirname(name) or ".")
            if not Path(path).is_relative_to(self.root) and not path.startswith(("/dev", "/proc")):
                self.seen.append(f"{event} {arguments}")

    @contextlib.contextmanager
    def within(self, root: Path) -> Iterator[None]:
        """Nothing may be started, and nothing written but below `root`."""
        self.seen, self.root = [], root.resolve()
        try:
            yield
        finally:
            self.root = None
        assert not self.seen, self.seen


def search(check: Callable, **strategies: Any) -> None:
    """Try it with ever other examples until the time of one test is up; prints how many were tried."""
    tried, deadline = 0, time.monotonic() + SECONDS / NUM_TESTS

    def count(**arguments: Any) -> None:
        nonlocal tried
        tried += 1
        check(**arguments)

    for number in itertools.count():
        how = settings(max_examples=25, deadline=None, database=None, phases=[Phase.generate],
                       suppress_health_check=list(HealthCheck))  # fmt: skip
        seed(number)(how(given(**strategies)(count)))()
        if time.monotonic() > deadline:
            break
    print(f"{check.__name__}: {tried} examples")
