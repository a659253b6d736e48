"""What the disk or the system refuses, in a sentence: what, which file, and how to go on."""

import errno
import os

from callbacks.disk import refusal
from experiments.runs import FOLDER_VARIABLE

WHAT = {
    errno.ENOSPC: ("the disk is full", "Free space"),
    errno.EDQUOT: ("the disk is full", "Free space, or ask for a larger quota"),
    errno.EFBIG: ("a file is larger than may be written", "Raise the limit (ulimit -f), or choose another disk"),
    errno.EROFS: ("the disk is read-only", "Make it writable, or choose other folders by output_dir=… and cache_dir=…"),
}


def refused(error: BaseException) -> str | None:
    """Why the system would not write, read or open a file, and the remedy; None for what is no error of that kind."""
    found = refusal(error) or (error if isinstance(error, OSError) else None)
    if found is None:
        return None
    what, remedy = WHAT.get(found.errno, ("the system refused", "Mend that"))
    folder, text = os.environ.get(FOLDER_VARIABLE), str(found)
    if found.filename is None and found.strerror == os.strerror(found.errno or 0) and folder:
        text = f"{text}, for a file of the run in {folder!r}"
    return f"{what}: {text}. {remedy}, then go on: the same command and resume=auto."
