"""What processes that watch each other say when one of them goes; their ends are tried by runs that die."""

import contextlib
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from callbacks.watch import MOST_BYTES, _Circle, _first_line


def trainer(rank, first):
    """Stands for a Trainer of two processes, which know what the first has told all."""

    def broadcast(at):
        return first.setdefault("at", at)

    return SimpleNamespace(global_rank=rank, num_nodes=1, world_size=2, strategy=SimpleNamespace(broadcast=broadcast))


def wait_until(is_so):
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def circles(monkeypatch):
    """Two processes within one, which nothing ends by force."""
    monkeypatch.setattr(_Circle, "_end", lambda circle: None)
    first: dict = {}
    circles = [_Circle(trainer(rank, first), grace_seconds=0) for rank in range(2)]
    wait_until(lambda: circles[0]._peers and circles[1]._peers)
    yield circles
    for circle in circles:
        circle.dismiss()


def said(circles, capsys):
    """What is on the screen when all have heard the news."""
    wait_until(lambda: all(circle._is_ending.is_set() for circle in circles))
    return capsys.readouterr().err


@pytest.mark.parametrize("dead", [0, 1])
def test_a_death_is_named_though_the_error_it_makes_comes_first(circles, dead, capsys, monkeypatch):
    monkeypatch.setattr("callbacks.watch.ECHO_SECONDS", 60)
    failing = threading.Thread(target=circles[1 - dead].fail)  # a collective has lost its neighbour
    failing.start()
    time.sleep(0.2)
    circles[dead]._is_over = True  # the dead say nothing
    circles[dead].forget()
    failing.join()
    text = capsys.readouterr().err
    assert f"process {dead} (" in text
    assert "has died" in text
    assert "resume=auto" in text
    assert "has failed" not in text


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_is_told_to_the_others(circles, failing, capsys, monkeypatch):
    monkeypatch.setattr("callbacks.watch.ECHO_SECONDS", 0)
    circles[failing].fail()
    text = said(circles, capsys)
    assert text.count(f"process {failing} (") == 1
    assert "its traceback is the one to read" in text
    assert "has died" not in text


def test_who_leaves_with_a_word_is_not_missed(circles, capsys):
    circles[1].dismiss()
    wait_until(lambda: not any("(_hear)" in thread.name for thread in threading.enumerate()))
    assert not circles[0]._is_ending.is_set()
    assert not capsys.readouterr().err


STRANGERS = [b"", b"\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\xff\xfe\x00" * 50, b"[" * 4000 + b"\n", b"x" * 10**6,
             b'{"token": "0123456789abcdef", "name": "a friend"}\n', b"failed all is lost\n", b"bye\n"]  # fmt: skip


def test_strangers_are_let_in_by_none_and_keep_nobody_out(capsys, monkeypatch):
    """Junk, long lines, bytes that come one by one, and more connections than there may be files."""
    monkeypatch.setattr(_Circle, "_end", lambda circle: None)
    monkeypatch.setattr("callbacks.watch.CONNECT_SECONDS", 0.5)
    monkeypatch.setattr("callbacks.watch.MOST_STRANGERS", 8)
    failed = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    first: dict = {}
    circle = _Circle(trainer(0, first), grace_seconds=0)
    address = ("127.0.0.1", first["at"]["port"])
    held = []
    for words in STRANGERS + [b"slow"] * 10:
        held.append(socket.create_connection(address, 5))
        with contextlib.suppress(OSError):  # who is sent away does not hear it all
            held[-1].sendall(words)
    threads = threading.active_count()
    assert threads <= 8 + 5
    other = _Circle(trainer(1, first), grace_seconds=0)
    wait_until(lambda: circle._peers)
    assert len(circle._peers) == 1 and not capsys.readouterr().err and not failed
    wait_until(lambda: circle._server is None)
    with pytest.raises(OSError):  # all have come: the door is shut
        socket.create_connection(address, 5)
    other._is_over = True
    other.forget()
    wait_until(circle._is_ending.is_set)
    assert "process 1 (" in capsys.readouterr().err, "who belongs here is missed all the same"
    for stranger in held:
        stranger.close()
    circle.dismiss()


def test_a_first_line_without_an_end_is_cut_short():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"x" * 3 * MOST_BYTES)
        assert len(_first_line(ours)) == MOST_BYTES
