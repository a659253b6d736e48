"""The same photograph twice: found across the sources and splits of a union, whatever it was re-encoded, resized or
mirrored to.

Public sets of fundus photographs overlap: a photograph comes back as a JPEG of another quality, smaller, mirrored, in
another container. Two photographs of one eye, or the two eyes of one person, are not duplicates.

1. Squares of equal bytes are exact duplicates.
2. All squares look alike from afar, a bright disc on black. So the green channel is first parted, within the disc that
   is visible, into its light (the local mean) and its detail (what is left, at a local deviation of 1: vessels and
   lesions). The signs of the detail's low frequencies are the perceptual hash. Mirroring changes the sign of those that
   are odd across, so the hash of the mirror image is the hash with these bits turned over.
3. Pairs whose hashes differ in few bits are candidates, by a popcount over blocks of rows: every pair is looked at, at
   a few nanoseconds each.
4. A candidate is a duplicate when the details correlate, at a small shift and change of scale (fields of view are found
   to a percent or two), and the lights do too: two photographs of one eye have the same vessels, but seldom in quite
   the same place and light.

The thresholds were chosen on one half of the persons of Rahim DR, DRIVE and CHASE_DB1 and checked on the other. Two
persons of Rahim DR were photographed on two visits, as patients 058 and 155, 067 and 237: their details correlate to
0.79 to 0.92, those of the same photograph as JPEG of quality 50 to 0.94 and more.

Not found: a photograph that was turned by more than two degrees, cropped within its disc, or whose contrast was
equalised locally. Taken for duplicates: two photographs of one eye that differ by less than 2 % of the diameter, in the
same light; and now and then two photographs so blurred that no vessel shows.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from datamodules.errors import UserError
from datamodules.likeness import ODD, SIDE, as_words, hash_of, planes_of, similarity
from datamodules.manifest import SPLITS, STRICTEST

KINDS = ("exact", "near", "mirrored")
VERSION = 1  # changes whenever the same images would give other pairs; what is kept of them depends on it
MAX_BITS = 56  # of the hash, that may differ in a candidate
MIN_SIMILARITY = 0.93  # correlation of the details
BATCH, BLOCK, COLUMNS = 512, 128, 4096  # squares read at once; rows and columns of hashes compared at once


@dataclass(frozen=True)
class Duplicate:
    """Two rows, `first` < `second`, that show the same photograph; `similarity` in [0, 1], 1 when exact."""

    first: int
    second: int
    kind: str  # one of KINDS
    similarity: float


def find_duplicates(images: np.ndarray, progress: bool = False) -> list[Duplicate]:
    """The pairs of rows that show the same photograph, ordered by rows.

    `images` is array-like uint8 [N, S, S, 3], squares cropped to the field of view, S 64 or more; a memory-mapped one
    is read in batches, in order, and again where candidates lie. Of rows with equal bytes each is paired with the first
    of them only, and only that one is compared with others; two that are known to belong together by other pairs are
    not compared: `groups` tells who belongs together. A square without content, such as the black one of a rejected
    row, is a duplicate of nothing. `progress` shows bars.

    Raises ValueError for another type or shape.
    """
    _check_images(images)
    first, hashes, content = _fingerprints(images, progress)
    copies = np.flatnonzero(content & (first != np.arange(len(images))))
    found = [Duplicate(int(first[row]), int(row), "exact", 1.0) for row in copies]
    rows = np.flatnonzero(content & (first == np.arange(len(images))))
    group = _Groups()
    for pairs in _candidates(hashes[rows], progress):
        pairs[:, :2] = rows[pairs[:, :2]]
        found += _verified(images, pairs, group)
    return sorted(found, key=lambda duplicate: (duplicate.first, duplicate.second))


def groups(duplicates: Sequence[Duplicate], num_images: int) -> np.ndarray:
    """The group of each row, int64 [N]: the least of the rows that are its duplicates, or their duplicates, or it.

    Raises ValueError when a duplicate names a row outside 0 to `num_images` - 1.
    """
    group = np.arange(num_images, dtype=np.int64)
    pairs = np.array([(d.first, d.second) for d in duplicates], dtype=np.int64).reshape(-1, 2)
    beyond = pairs[(pairs < 0) | (pairs >= num_images)]
    if len(beyond):
        raise UserError(
            f"duplicates name row {beyond[0]} and num_images is {num_images}: give the number of images that they were "
            "found in."
        )
    while True:
        first, second = group[pairs.T]
        if (first == second).all():
            return group
        np.minimum.at(group, np.maximum(first, second), np.minimum(first, second))
        while (group[group] != group).any():
            group = group[group]


def rows_to_drop(group: np.ndarray, splits: Sequence[str]) -> np.ndarray:
    """The rows to leave out so that of each group one is left, ascending, int64.

    `group` [N] is what `groups` returns, `splits` [N] the split of each row. What stays is the first row of the
    strictest split in the group: test before val before train before "", no split. Raises ValueError for an unknown
    split, or another number of splits than rows.
    """
    if len(splits) != len(group):
        raise UserError(f"splits has {len(splits)} rows and group {len(group)}: give one split for each row.")
    unknown = sorted(set(splits) - set(STRICTEST))
    if unknown:
        raise UserError(f"splits holds {unknown[0]!r}, and must hold {', '.join(SPLITS)} or '' for none.")
    rank = np.array([STRICTEST.index(split) for split in splits], dtype=np.int64)
    order = np.lexsort((np.arange(len(group)), rank, group))
    ordered = np.asarray(group)[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    return np.sort(order[again])


def _check_images(images: np.ndarray) -> None:
    shape, dtype = tuple(images.shape), images.dtype
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or shape[1] < SIDE or dtype != np.uint8:
        raise UserError(f"images is {dtype} {list(shape)}, and must be uint8 [N, S, S, 3] with S of {SIDE} or more.")


def _fingerprints(images: np.ndarray, progress: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first row of the same bytes, int64 [N]; its hash, uint64 [N, 4]; whether it has content, bool [N]."""
    first = np.empty(len(images), dtype=np.int64)
    hashes = np.zeros((len(images), 4), dtype=np.uint64)
    content = np.zeros(len(images), dtype=bool)
    known: dict[bytes, int] = {}
    with tqdm(total=len(images), desc="hashing images", unit="image", disable=not progress) as bar:
        for start in range(0, len(images), BATCH):
            batch = np.ascontiguousarray(images[start : start + BATCH])
            for row, square in enumerate(batch, start):
                first[row] = known.setdefault(hashlib.blake2b(square, digest_size=16).digest(), row)
                if first[row] < row:
                    content[row] = content[first[row]]
                    continue
                planes = planes_of(square)
                if planes is not None:
                    hashes[row], content[row] = hash_of(planes), True
            bar.update(len(batch))
    return first, hashes, content


def _candidates(hashes: np.ndarray, progress: bool) -> Iterator[np.ndarray]:
    """Pairs of hashes, uint64 [N, 4], that differ in MAX_BITS bits or fewer: int64 [K, 3] of first, second, mirrored.

    `first` < `second`; where `mirrored` is 1, it is the mirror image of the second that has such a hash.
    """
    words = np.ascontiguousarray(hashes.T)
    turned = as_words(ODD)[:, None]
    with tqdm(total=len(hashes), desc="comparing hashes", unit="image", disable=not progress) as bar:
        for top in range(0, len(hashes), BLOCK):
            rows = words[:, top : top + BLOCK]
            for left in range(top, len(hashes), COLUMNS):
                columns = words[:, left : left + COLUMNS]
                for mirrored, block in enumerate((rows, rows ^ turned)):
                    first, second = np.nonzero(_num_different(block, columns) <= MAX_BITS)
                    pairs = np.stack([first + top, second + left, np.full(len(first), mirrored)], axis=1)
                    yield pairs[pairs[:, 0] < pairs[:, 1]]
            bar.update(rows.shape[1])


def _num_different(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """How many bits differ between hashes uint64 [4, A] and [4, B], uint8 [A, B]."""
    count = np.bitwise_count(rows[0, :, None] ^ columns[0])
    for row, column in zip(rows[1:], columns[1:], strict=True):
        count += np.bitwise_count(row[:, None] ^ column)
    return count


class _Groups:
    """Who belongs together so far: a row's least known relative, by union and find."""

    def __init__(self) -> None:
        self._of: dict[int, int] = {}

    def of(self, row: int) -> int:
        """The group of a row."""
        while (parent := self._of.get(row, row)) != row:
            self._of[row] = self._of.get(parent, parent)
            row = parent
        return row

    def join(self, first: int, second: int) -> None:
        """They belong together."""
        low, high = sorted((self.of(first), self.of(second)))
        self._of[high] = low


def _verified(images: np.ndarray, pairs: np.ndarray, group: _Groups) -> list[Duplicate]:
    """Those of the candidates, int64 [K, 3] of first, second, mirrored, that show the same photograph.

    Rows that are in one group already are left out: else many copies of one image would take their number squared.
    """
    planes: dict[int, np.ndarray] = {}
    found = []
    for first, second, ways in _by_pair(pairs):
        if group.of(first) == group.of(second):
            continue
        for row in (first, second):
            if row not in planes:
                planes[row] = planes_of(images[row])
        best = max((similarity(planes[first], planes[second], mirrored), mirrored) for mirrored in ways)
        if best[0] >= MIN_SIMILARITY:
            found.append(Duplicate(first, second, "mirrored" if best[1] else "near", best[0]))
            group.join(first, second)
    return found


def _by_pair(pairs: np.ndarray) -> Iterator[tuple[int, int, list[bool]]]:
    """Each pair once, ordered, with the ways in which it is a candidate: as it is, mirrored, or both."""
    ordered = pairs[np.lexsort(pairs.T[::-1])].tolist()
    for (first, second), ways in itertools.groupby(ordered, key=lambda pair: (pair[0], pair[1])):
        yield first, second, [bool(mirrored) for _, _, mirrored in ways]
