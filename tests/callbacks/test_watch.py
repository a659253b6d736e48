"""What processes that watch each other say when one of them goes; their ends are tried by runs that die."""

import threading
import time
from types import SimpleNamespace

import pytest

from callbacks.watch import _Circle


def trainer(rank, first):
    """Stands for a Trainer of two processes, which know what the first has told all."""

    def broadcast(at):
        return first.setdefault("at", at)

    return SimpleNamespace(global_rank=rank, num_nodes=1, strategy=SimpleNamespace(broadcast=broadcast))


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
