"""Where a run prints: a terminal that lacks a character, is closed, or has gone meanwhile, stops no run."""

import codecs
import io
import os
import select
import sys
from typing import Any

REPLACING = "synfundus.replacing"
SUBSTITUTES = {"─": "-", "…": "...", "×": "x", "–": "-", "—": "-", "·": "-", "’": "'", "“": '"', "”": '"'}


def steady() -> None:
    """Make sys.stdout and sys.stderr take any text, and drop it once nobody reads it."""
    codecs.register_error(REPLACING, _replaced)
    for number in range(3):  # or the next file would get the number of a closed stream, and what is printed
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = _steady(sys.stdout, sys.__stdout__), _steady(sys.stderr, sys.__stderr__)


def _steady(stream: io.TextIOWrapper | None, first: io.TextIOWrapper | None) -> io.TextIOBase:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8", errors=REPLACING)
    if stream is first:
        file = _Lasting(stream.fileno(), "wb", closefd=False)
        if not stream.write_through:  # as under python -u, where each word is to be there at once
            file = io.BufferedWriter(file)
        return io.TextIOWrapper(
            file, stream.encoding, REPLACING, line_buffering=stream.line_buffering, write_through=stream.write_through
        )
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors=REPLACING)
    return stream


class _Lasting(io.FileIO):
    """A file that takes and drops what is written after the first failure: a pipe that nobody reads, a full disk."""

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        num_bytes = left.nbytes
        try:
            while left:  # what lies above may not ask again for the rest
                written = super().write(left)
                if written is None:  # the other end is slow, and the stream does not wait
                    select.select([], [self], [])
                left = left[written or 0 :]
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
        return num_bytes


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(SUBSTITUTES.get(c) or c.encode("ascii", "backslashreplace").decode() for c in missing), error.end
