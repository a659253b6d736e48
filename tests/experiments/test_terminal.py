"""What is printed stops no run: characters that a terminal lacks, streams that are closed, pipes that nobody reads."""

import os
import subprocess
import sys

import pytest

PROGRAM = r"""
import os, sys
from experiments.terminal import steady
for _ in range(2):  # as in a process of a sweep
    steady()
    print("\u2500\u2500 4 \xd7 4 \u2026 \xc4 \u7167 \udce9")
for _ in range(3):
    print("x" * 70000, flush=True)
print("to stderr", file=sys.stderr)
with open("made", "w") as file:
    os.write(2, b"as a library in C prints")
    file.write("of a file")
"""


def run(redirected: str, cwd, **environment: str) -> subprocess.CompletedProcess:
    """The program above in a shell that redirects its streams; its exit status is the shell's."""
    command = ["bash", "-c", f'set -o pipefail; "$0" -c "$1" {redirected}', sys.executable, PROGRAM]
    return subprocess.run(command, cwd=cwd, capture_output=True, timeout=120, env={**os.environ, **environment})


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, b"-- 4 x 4 ... \\xc4 \\u7167 \\udce9"),
        ({"PYTHONIOENCODING": "latin-1"}, b"-- 4 \xd7 4 ... \xc4 \\u7167 \\udce9"),
        ({"PYTHONIOENCODING": "utf-8"}, "── 4 × 4 … Ä 照 \\udce9".encode()),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, b"-- 4 x 4 ... \\xc4 \\u7167 \\udce9"),
    ],
    ids=["ascii", "latin-1", "utf-8", "C"],
)
def test_a_terminal_that_lacks_characters_shows_others(tmp_path, environment, shown):
    result = run("", tmp_path, **environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[:2] == [shown] * 2


@pytest.mark.parametrize(
    "redirected",
    [
        "| head -c 10",
        ">&-",
        "2>&-",
        "<&- >&- 2>&-",
        *([">/dev/full 2>/dev/full"] if os.path.exists("/dev/full") else []),
    ],
)
def test_a_stream_that_is_closed_or_goes_stops_nothing(tmp_path, redirected):
    result = run(redirected, tmp_path)
    assert result.returncode == 0, result.stderr
    assert b"Error" not in result.stderr
    assert (tmp_path / "made").read_text() == "of a file"


def test_unbuffered_text_is_there_at_once(tmp_path):
    """As under `python -u`: also of a process that is killed right after."""
    program = "import os; from experiments.terminal import steady; steady(); print('said', end=''); os._exit(9)"
    result = subprocess.run([sys.executable, "-u", "-c", program], capture_output=True, timeout=120, check=False)
    assert (result.returncode, result.stdout) == (9, b"said")
