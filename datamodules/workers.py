"""What a loader's worker does first."""

import os
import signal
import threading

import cv2


def begin(worker: int) -> None:
    """Use no threads of OpenCV, which do not survive a fork; and leave signals to the process that reads the batches.

    A queue or a terminal sends them to all. The workers are needed until that process has finished its batch and saved.
    """
    cv2.setNumThreads(0)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_parent_says_so, args=(os.getppid(),), daemon=True).start()


def _end_when_the_parent_says_so(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
