"""A loader's worker heeds the process that reads its batches, and nobody else."""

import os
import signal
import time

import pytest
from torch.utils.data import DataLoader

from datamodules.loader import begin_worker


class Numbers:
    """Each item is the number of the process that reads it."""

    def __len__(self):
        return 6

    def __getitem__(self, item):
        return os.getpid()


def loader():
    return DataLoader(Numbers(), batch_size=None, num_workers=1, prefetch_factor=1, worker_init_fn=begin_worker)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_to_all_is_not_for_the_workers(number):
    batches = iter(loader())
    worker = int(next(batches))
    # from another process than that which reads
    assert os.spawnlp(os.P_WAIT, "kill", "kill", f"-{int(number)}", str(worker)) == 0
    time.sleep(0.2)
    assert {int(pid) for pid in batches} == {worker}


def test_the_order_of_the_parent_is_heeded():
    batches = iter(loader())
    next(batches)
    [worker] = batches._workers
    worker.terminate()
    worker.join(5)
    assert worker.exitcode == 0
