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


@pytest.fixture
def circles():
    """Two processes within one: neither ends while the test goes on."""
    first: dict = {}
    circles = [_Circle(trainer(rank, first), grace_seconds=1000) for rank in range(2)]
    yield circles
    for circle in circles:
        circle.dismiss()


def said(capsys, words):
    """Wait for words on the screen; everything that was there by then."""
    text, deadline = "", time.monotonic() + 5
    while words not in text and time.monotonic() < deadline:
        text += capsys.readouterr().err
        time.sleep(0.02)
    return text


@pytest.mark.parametrize("dead", [0, 1])
def test_a_death_is_named_though_the_error_it_makes_comes_first(circles, dead, capsys):
    failing = threading.Thread(target=circles[1 - dead].fail)  # a collective has lost its neighbour
    failing.start()
    time.sleep(0.2)
    circles[dead]._is_over = True  # the dead say nothing
    circles[dead].forget()
    text = said(capsys, "has died")
    failing.join()
    assert f"process {dead} (" in text
    assert "has died" in text
    assert "resume=auto" in text
    assert "has failed" not in text


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_is_told_to_the_others(circles, failing, capsys):
    circles[failing].fail()
    text = said(capsys, "its traceback is the one to read")
    assert f"process {failing} (" in text
    assert "its traceback is the one to read" in text
    assert "has died" not in text


def test_who_leaves_with_a_word_is_not_missed(circles, capsys):
    circles[1].dismiss()
    time.sleep(0.2)
    assert not circles[0]._is_ending.is_set()
    assert not capsys.readouterr().err
