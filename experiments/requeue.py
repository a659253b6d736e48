"""SLURM: a run that is told that its time is almost up stops with a checkpoint, and joins the queue again."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from callbacks.shutdown import WARNINGS
from experiments.report import is_first, say_error


@contextmanager
def requeue_if_warned() -> Iterator[None]:
    """Put this job into SLURM's queue again where a warning of its time limit is why the run is left.

    The job then starts anew by the same command, which goes on where it says resume=auto. It does not matter who
    wrote the batch script, a person or submitit.
    """
    try:
        yield
    except SystemExit as leaving:
        if leaving.code in [128 + number for number in WARNINGS] and "SLURM_JOB_ID" in os.environ:
            if not is_first():
                raise SystemExit(0) from None  # or srun kills the first before it has asked
            requeue()
        raise


def requeue() -> None:
    """Ask SLURM; what it refuses is said."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=False)
        refused = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        refused = str(error)
    if refused:
        say_error(f"SLURM did not requeue job {job} ({refused}). Remedy: sbatch the same with resume=auto.")
    else:
        say_error(f"the time limit is near: job {job} is in the queue again, and goes on by resume=auto.")
