"""Whether painted regions are those of real images: the nearest ones, beside those of images that were held out."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from callbacks.image_sheet import compose
from callbacks.metrics.estimate import Estimate
from callbacks.metrics.region_copies import OWN, Nearest, nearest_real, region_copies
from datamodules.dataset import RowsOf
from datamodules.fundus import FundusDataModule
from experiments.decoded import decoded_rows
from experiments.inpainting.writing import Pair, write_sheet
from experiments.inspection.pictures import outlined

CHUNK = 512  # real images that are looked at together
HELD_OUT = ("val", "test")
SHEET, MOST_ROWS = "nearest.png", 8


def check_copies(
    datamodule: FundusDataModule,
    root: Path,
    pairs: Sequence[Pair],
    patients: Sequence[str],
    max_held_out: int,
    seed: int,
) -> dict[str, Estimate]:
    """Figures of `region_copies`, and the nearest pairs as `samples/nearest.png`.

    Real images are those of the training split, mirrored too where the generator's training mirrors them, and those
    that were painted in.

    Args:
        pairs: what was painted; compared are the regions before they were dilated.
        patients: whose images were painted in.
        max_held_out: images of the other splits at most, drawn at random.
    """
    painted, sources, regions = (
        np.stack([getattr(one, name) for one in pairs]) for name in ("image", "source", "target")
    )
    training = datamodule.images("train")
    held_out, people = _held_out(datamodule, max_held_out, seed)
    usable = np.array(patients, dtype=object)[:, None] != people[None]
    mirrored = bool(getattr(datamodule, "flip", False))
    found = nearest_real(painted, regions, sources, held_out, usable, _chunks(training, mirrored))
    nearest = [sources[n] if real == OWN else _real(training, real) for n, real in enumerate(found.real)]
    write_sheet(root, SHEET, _sheet(found, painted, nearest, regions))
    return region_copies(found, patients, seed=seed)


def _held_out(datamodule: FundusDataModule, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images that the generator has not seen, and whose they are."""
    if not any(len(datamodule.manifest.rows(split)) for split in HELD_OUT):
        return np.zeros((0, datamodule.image_size, datamodule.image_size, 3), np.uint8), np.zeros(0, object)
    seen, images, _ = decoded_rows(datamodule, HELD_OUT)
    rows = np.sort(np.random.default_rng(seed).permutation(len(seen))[:most])
    return images[rows], np.array(seen.patients, dtype=object)[rows]


def _chunks(training: RowsOf, mirrored: bool) -> Iterator[np.ndarray]:
    """Training images, and with `mirrored` all their mirror images behind them."""
    for step in (1, -1)[: 1 + mirrored]:
        for start in range(0, len(training), CHUNK):
            yield training[start : start + CHUNK][:, :, ::step]


def _real(training: RowsOf, number: int) -> np.ndarray:
    """The real image of a number by the order of `_chunks`."""
    turn, row = divmod(int(number), len(training))
    return training[row][:, :: -1 if turn else 1]


def _sheet(found: Nearest, painted: np.ndarray, nearest: list[np.ndarray], regions: np.ndarray) -> np.ndarray:
    """A row a pair, the nearest first: what was painted, and the real image beside it."""
    chosen = np.lexsort((found.distance, found.ranks))[:MOST_ROWS]
    rows = [np.stack([outlined(painted[n], regions[n], 2), outlined(nearest[n], regions[n], 2)]) for n in chosen]
    captions = [
        f"distance {found.distance[n]:.2f} rank {found.ranks[n]:.2f}{' its source' if found.real[n] == OWN else ''}"
        for n in chosen
    ]
    return compose(np.stack(rows), captions)
