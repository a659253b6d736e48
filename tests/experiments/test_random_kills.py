"""A training that is killed at random moments of any of its stages goes on, and ends as one that was left alone."""

import subprocess
import sys
from pathlib import Path

import pytest

SEED = 17


@pytest.mark.slow
@pytest.mark.timeout(1800)  # of the script, beside other work too
@pytest.mark.parametrize("number", [3, pytest.param(12, marks=pytest.mark.full)])
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(tmp_path, number):
    script = Path(__file__).with_name("random_kills.py")
    command = [sys.executable, str(script), str(tmp_path), str(SEED), str(number)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1750, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("equal") == number
