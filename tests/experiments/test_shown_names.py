"""Names that somebody else chose, on the terminal: written out, never obeyed."""

import logging
import warnings

import pytest

from callbacks.files import printable
from datamodules.errors import UserError
from experiments.errors import report_errors
from experiments.known_warnings import filter_known_warnings
from experiments.report import config_text, say, say_error

NAME = "x\x1b[2J\x07\r\x9b31m\u202egpj\udcff.png"
SHOWN = r"x\x1b[2J\x07\r\x9b31m\u202egpj\udcff.png"


@pytest.mark.parametrize("text", ["", "größe 1\tµ\n── 頭 ──", "e\u0301", "'x'"])
def test_text_of_all_scripts_stays_as_it_is(text):
    assert printable(text) == text


def test_what_a_run_says_moves_no_cursor(capsys):
    say(f"in {NAME}")
    say(config_text({"data": {"root": NAME}}))
    said = capsys.readouterr().out
    assert f"in {SHOWN}\n" in said and printable(said) == said


def test_errors_move_no_cursor(capsys):
    def fail() -> None:
        raise UserError(f"{NAME}: no such file")

    say_error(NAME)
    assert report_errors(fail) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"{SHOWN}\nerror: {SHOWN}: no such file\n")


def test_logs_and_warnings_move_no_cursor(caplog, monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    before = logging.getLogRecordFactory()
    try:
        filter_known_warnings()
        filter_known_warnings()
        logging.getLogger("datamodules.any").warning("%s is left out", NAME)
        shown = warnings.formatwarning(UserWarning(NAME), UserWarning, "file.py", 1, "line")
    finally:
        logging.setLogRecordFactory(before)
    assert caplog.messages == [f"{SHOWN} is left out"]
    assert SHOWN in shown and printable(shown) == shown
