"""Images that were refused: how many are put up with, and the file that lists them."""

from collections.abc import Sequence
from pathlib import Path

from datamodules.errors import UserError
from datamodules.files import write_csv


def check_rejected(rejected: Sequence[tuple[str, str]], num_images: int, source: str, max_rejected: int) -> None:
    """Raise ValueError when more images of a source are refused than `max_rejected`; names the first of them.

    Args:
        rejected: pairs of path and reason.
    """
    if len(rejected) > max_rejected:
        first = "".join(f"\n  {path}: {reason}" for path, reason in rejected[:5])
        raise UserError(
            f"{len(rejected)} of {num_images} images of {source} are rejected, and data.max_rejected is "
            f"{max_rejected}. The first are:{first}\nRemedy: repair or remove them, or go on without them with "
            f"data.max_rejected={len(rejected)}."
        )


def write_rejected(folder: str | Path, rejected: Sequence[tuple[str, str]]) -> None:
    """Write `rejected.csv` (path, reason) into a folder."""
    write_csv(Path(folder) / "rejected.csv", [("path", "reason"), *rejected])
