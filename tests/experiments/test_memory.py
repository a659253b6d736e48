"""Memory that the machine refuses is a sentence that names the remedy, wherever it was asked for."""

import errno
import subprocess
import sys

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException

from datamodules.errors import UserError
from experiments.errors import report_errors
from experiments.memory import SHARED, refused_memory

TRACEBACK = "Caught {} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  raise\n{}"


def raised(error: BaseException):
    def fail():
        raise error

    return fail


def of_instantiation() -> None:
    raise InstantiationException("Error in call to target 'a.B'\nfull_key: model") from MemoryError()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda: np.ones(1 << 60, np.uint8), "no more memory"),
        (lambda: torch.empty(1 << 60, dtype=torch.uint8), "no more memory"),
        (raised(MemoryError()), "no more memory"),
        (raised(OSError(errno.ENOMEM, "Cannot allocate memory")), "no more memory"),
        (
            raised(
                RuntimeError(
                    TRACEBACK.format(
                        "_ArrayMemoryError", "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 1 GiB"
                    )
                )
            ),
            "memory",
        ),
        (raised(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")), "device has no more memory"),
        (raised(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")), "loader process was ended"),
        (raised(RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. ")), SHARED),
        (raised(RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)")), SHARED),
        (raised(RuntimeError("can't start new thread")), "no more threads"),
        (of_instantiation, "no more memory"),
    ],
)
def test_a_sentence_and_no_traceback(function, said, capsys):
    assert report_errors(function) == 1
    err = capsys.readouterr().err
    assert said in err and "Remedy: " in err and "num_workers" in err
    assert "Traceback" not in err


def test_a_mistake_in_a_loader_process_is_the_mistake(capsys):
    text = TRACEBACK.format("UserError", "datamodules.errors.UserError: eye_3.jpg is damaged.\nRemedy: make it anew.")
    assert report_errors(raised(UserError(text))) == 1
    assert capsys.readouterr().err.startswith("error: eye_3.jpg is damaged.\nRemedy: make it anew.\n")


def test_other_errors_are_none_of_it():
    assert refused_memory(RuntimeError("shapes differ")) is None
    with pytest.raises(KeyError):
        report_errors(raised(KeyError("a")))


PROGRAM = """
import numpy as np, sys
from torch.utils.data import DataLoader
from experiments.errors import report_errors
batches = DataLoader([np.zeros(1 << 20, np.uint8)] * 4, batch_size=2, num_workers=1)
sys.exit(report_errors(lambda: [batch for batch in batches]))
"""
SMALL = ["unshare", "--mount", "bash", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && "$0" -c "$1"']


@pytest.mark.slow
def test_shared_memory_that_is_too_small_for_the_workers(tmp_path):
    if subprocess.run([*SMALL[:-1], "mount -t tmpfs tmpfs /dev/shm"], capture_output=True).returncode:
        pytest.skip("this needs a mount namespace of its own")
    result = subprocess.run([*SMALL, sys.executable, PROGRAM], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1 and SHARED in result.stderr and "data.num_workers=0" in result.stderr
    assert "Traceback" not in result.stderr[result.stderr.index("error: ") :]
