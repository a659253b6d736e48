"""Memory that the machine refuses, shared memory and threads too, in a sentence with the remedy."""

import errno
import re
import traceback

SHARED = "shared memory (/dev/shm) is too small for what loader processes hand over"
SHARED_REMEDY = "data.num_workers=0, which needs none; or more of it, as by docker run --shm-size=8g"
MEMORY = "the machine has no more memory to give"
SMALLER = (
    "a smaller data.batch_size or data.image_size, fewer data.num_workers (0 needs the least); then go on: the same "
    "command and resume=auto"
)
# What torch, numpy, OpenCV and the system say, what it means, and the remedy; the first that is found counts.
SAID = (
    (r"Bus error|out of shared memory|</?torch_|shared memory\(shm\)|shared memory object", SHARED, SHARED_REMEDY),
    (r"DataLoader worker \(pid.*(killed by signal|exited unexpectedly)", "a loader process was ended by the system, "
     "which has no more memory in most cases", SMALLER),
    (r"CUDA out of memory|CUDA error: out of memory", "the device has no more memory", SMALLER),
    (r"DefaultCPUAllocator|Caught \w*MemoryError|[Cc]an(no|')t allocate memory|std::bad_alloc|Insufficient memory",
     MEMORY, SMALLER),
    (r"can't start new thread", "the system allows no more threads", "a higher limit (ulimit -u), OMP_NUM_THREADS=1, "
     "fewer data.num_workers and data.cache_workers"),
)  # fmt: skip


def refused_memory(error: BaseException) -> str | None:
    """What the machine refused, and the remedy; None for another error, or another cause of it."""
    said = from_a_worker(str(error)).strip().partition("\n")[0].rstrip(". ")
    for pattern, what, remedy in SAID:
        if re.search(pattern, str(error)):
            return f"{what}: {said}. Remedy: {remedy}."
    if isinstance(error, MemoryError):
        return f"{MEMORY}{f': {said}' if said else ''}. Remedy: {SMALLER}."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and _is_of_processes(error):
        return f"{SHARED}: {said}. Remedy: {SHARED_REMEDY}."
    return refused_memory(error.__cause__) if error.__cause__ is not None else None


def from_a_worker(text: str) -> str:
    """What went wrong in a loader process, without `Caught … in DataLoader worker process 0` and its traceback."""
    found = re.match(r"Caught (\w+) in .*?\nOriginal Traceback.*\n[\w.]*\b\1: (.*)$", text, re.DOTALL)
    return found.group(2).rstrip() if found else text


def _is_of_processes(error: BaseException) -> bool:
    """Whether multiprocessing was to make a lock or a block, which lie in shared memory and on no disk."""
    return any("/multiprocessing/" in frame.filename for frame in traceback.extract_tb(error.__traceback__))
