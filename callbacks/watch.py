"""A process that dies ends the run: the others notice, even those that wait for it in a collective, and end too.

Gloo notices by itself that a neighbour has gone, NCCL does not, and neither does notice a machine that falls silent.
"""

import atexit
import contextlib
import os
import secrets
import socket
import sys
import threading
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.files import printable

LOOK_SECONDS = 2.0  # between two looks at whether the launcher is still there
SILENCE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # a machine that does not answer for 30 seconds
CONNECT_SECONDS = 20.0
PAUSE_SECONDS = 0.1  # after which a door that could not be opened is tried again
ECHO_SECONDS = 1.0  # by which the news of a death may come after the error that it makes in a collective
MOST_BYTES = 4096  # of a first line
MOST_STRANGERS = 64  # that are listened to at once, until they have said who they are
LOOPBACK = "127.0.0.1"


class Watch(Callback):
    """Each process holds a connection to the first, which the system closes when it dies, whatever it dies of.

    The first tells the others. Who has been told has `grace_seconds` to fail by itself, with a traceback, and is ended
    then. `dismiss` is the end of it, when the job is done.

    Args:
        grace_seconds: between the news of a death and the end.
    """

    def __init__(self, grace_seconds: float = 20.0) -> None:
        self.grace_seconds = grace_seconds

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Connect, once for all Trainers of a job."""
        global _circle
        if trainer.world_size > 1 and _circle is None:
            _circle = _Circle(trainer, self.grace_seconds)
            atexit.register(_leave_without_dismissal, _circle)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tell the others that this process fails; one that was asked to stop, as all are, just leaves."""
        if isinstance(exception, SystemExit):
            dismiss()
        elif _circle is not None:
            _circle.fail()


class _Circle:
    """The connections of one process."""

    def __init__(self, trainer: Trainer, grace_seconds: float) -> None:
        self.rank, self.grace_seconds = trainer.global_rank, grace_seconds
        self._peers: list[socket.socket] = []
        self._lock, self._is_over, self._is_ending = threading.Lock(), False, threading.Event()
        threading.Thread(target=self._end, daemon=True).start()  # now: none can be started when Python shuts down
        self._name = f"process {self.rank} ({os.getpid()} on {socket.gethostname()})"
        is_one_machine = trainer.num_nodes == 1
        self._server = _server(is_one_machine) if self.rank == 0 else None
        self._num_missing = trainer.world_size - 1  # who is to connect to the first
        self._strangers = threading.BoundedSemaphore(MOST_STRANGERS)
        at = {"port": self._server.getsockname()[1] if self._server else 0, "token": secrets.token_hex(8)}
        at = trainer.strategy.broadcast(at | {"name": self._name})
        self._token = at["token"]
        if self._server is not None:
            threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()
        else:
            address = LOOPBACK if is_one_machine else trainer.strategy.cluster_environment.main_address
            self._connect(address, at)
        if "TORCHELASTIC_RUN_ID" in os.environ or os.environ.get("LOCAL_RANK", "0") != "0":  # a shell may go before
            threading.Thread(target=self._look_at, args=(os.getppid(),), daemon=True).start()

    # -- the ends of it

    def dismiss(self) -> None:
        """All is well: what becomes of the others is no matter any more."""
        self._is_over = True
        self._tell("bye")
        self.forget()

    def fail(self) -> None:
        """Tell the others, and see that this process does end; unless its failure is but the echo of another's."""
        if self._is_ending.wait(ECHO_SECONDS) or not self._is_first_news():
            return
        self._is_ending.set()
        self._tell(f"failed {self._name} has failed: its traceback is the one to read")

    def forget(self) -> None:
        """Close what this process holds."""
        self._shut_the_door()
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
            peer.close()

    def forget_in_a_fork(self) -> None:
        """Close a fork's copies, which the connections are not for; its parent's stay as they are."""
        for held in (*self._peers, *([self._server] if self._server else [])):
            os.close(held.detach())

    # -- connections

    def _look_at(self, parent: int) -> None:
        while not self._is_over:
            if os.getppid() != parent:
                self._lose(f"what had started {self._name} has died")
            time.sleep(LOOK_SECONDS)

    def _accept(self, server: socket.socket) -> None:
        """Let in who comes, until all have come: anybody may, and is to take neither threads nor files from the run."""
        while self._server is not None:
            self._strangers.acquire()
            try:
                peer, _ = server.accept()
                threading.Thread(target=self._hear, args=(peer,), daemon=True).start()
            except (OSError, RuntimeError):  # the door is shut; or files or threads are short
                self._strangers.release()
                time.sleep(PAUSE_SECONDS)

    def _shut_the_door(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            server.close()

    def _connect(self, address: str, at: dict[str, Any]) -> None:
        try:
            peer = socket.create_connection((address, at["port"]), CONNECT_SECONDS)
        except OSError as error:
            _say(f"{self._name} cannot watch the first at {address}:{at['port']} ({error}), nor be watched by it.")
            return
        peer.settimeout(None)
        peer.sendall(f"{self._token} {self._name}\n".encode())
        self._peers.append(peer)
        threading.Thread(target=self._listen, args=(peer, peer.makefile(), at["name"]), daemon=True).start()

    def _hear(self, peer: socket.socket) -> None:
        token, _, name = _first_line(peer).partition(b" ")
        is_one_of_us = secrets.compare_digest(token, self._token.encode())
        if is_one_of_us:
            peer.settimeout(None)
            self._peers.append(peer)
            with self._lock:
                self._num_missing -= 1
            if self._num_missing == 0:
                self._shut_the_door()
        else:
            peer.close()
        self._strangers.release()
        if is_one_of_us:
            self._listen(peer, peer.makefile(), name.decode(errors="replace").strip())

    def _listen(self, peer: socket.socket, lines: Any, name: str) -> None:
        """Wait for the last word of another process, or for its end without one."""
        for option, value in SILENCE.items():
            if hasattr(socket, option):  # not on every system
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            word, _, rest = lines.readline().strip().partition(" ")
        except (OSError, ValueError):
            word, rest = "", ""
        if word != "bye" and not self._is_over:
            self._lose(rest or f"{name} has died: if no traceback of it is above, it was killed, as the system does if "
                               "memory runs out, or its machine is silent")  # fmt: skip

    def _lose(self, words: str) -> None:
        if self.rank == 0:
            self._tell(f"failed {words}")
        if self._is_first_news():
            try:
                _say(f"{words}. So this run ends. After mending it: the same command and resume=auto.", self.rank)
            finally:
                self._is_ending.set()

    def _tell(self, words: str) -> None:
        for peer in list(self._peers):
            with contextlib.suppress(OSError):
                peer.sendall(f"{words}\n".encode())

    def _is_first_news(self) -> bool:
        """Whether nothing was settled before: neither dismissal nor another end. What asks first settles it."""
        with self._lock:
            was_over, self._is_over = self._is_over, True
        return not was_over

    def _end(self) -> None:
        """End this process by force if it does not by itself."""
        self._is_ending.wait()
        time.sleep(self.grace_seconds)
        os._exit(1)


_circle: _Circle | None = None  # of this process, as torch's process group is


def dismiss() -> None:
    """Say that the job of this process is done."""
    global _circle
    if _circle is not None:
        _circle.dismiss()
        _circle = None


def _leave_without_dismissal(circle: _Circle) -> None:
    if circle is _circle:  # an exception outside of the Trainer, which nothing has told of
        circle.fail()


def _forget_in_a_fork() -> None:
    global _circle
    if _circle is not None:
        _circle.forget_in_a_fork()
        _circle = None


os.register_at_fork(after_in_child=_forget_in_a_fork)


def _server(is_one_machine: bool) -> socket.socket:
    if is_one_machine:
        return socket.create_server((LOOPBACK, 0))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _first_line(peer: socket.socket) -> bytes:
    """What comes first, as far as a line's end; cut short where it is too long or takes too much time in all."""
    line, end = b"", time.monotonic() + CONNECT_SECONDS
    with contextlib.suppress(OSError):
        while not line.endswith(b"\n") and len(line) < MOST_BYTES and (left := end - time.monotonic()) > 0:
            peer.settimeout(left)
            byte = peer.recv(1)
            if not byte:
                break
            line += byte
    return line


def _say(text: str, rank: int = 0) -> None:
    print(printable(f"\n[process {rank}] {text}" if rank else f"\n{text}"), file=sys.stderr, flush=True)
