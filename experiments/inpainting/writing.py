"""Pairs on disk: images, masks and regions as PNG, a table of where each comes from, and a sheet to look at."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from callbacks.files import own_folder, write_atomically
from callbacks.image_sheet import compose
from datamodules.findings import NAMES
from datamodules.manifest import Manifest
from experiments.inpainting.requests import Request
from experiments.inspection.pictures import outlined

FOLDERS = ("images", "masks", "regions")
TABLE = "pairs.parquet"
DIGITS = 8


def pair_name(number: int) -> str:
    """Name of a pair, and of its files without their ending."""
    return f"{number:0{DIGITS}d}"


def write_pair(root: Path, number: int, image: np.ndarray, mask: np.ndarray, region: np.ndarray) -> None:
    """Write an image uint8 [S, S, 3], its mask uint8 [S, S] and its region bool [S, S], which is 255 and 0."""
    for folder, picture in zip(FOLDERS, (image, mask, region.astype(np.uint8) * 255), strict=True):
        path = own_folder(root, folder) / f"{pair_name(number)}.png"
        write_atomically(path, lambda temporary, picture=picture: Image.fromarray(picture).save(temporary))


def write_table(
    path: Path, requests: Sequence[Request], seen: Manifest, labels: np.ndarray, sizes: Sequence[int], source: str
) -> None:
    """Write `pairs.parquet`: a row a pair; patient and split are those of the image that was painted in.

    Args:
        labels: int64 [N, F], what was asked for.
        sizes: pixels of each region.
        source: name of the data.
    """
    ids = seen.table.column("id").to_pylist()
    rows, names = [request.row for request in requests], [pair_name(number) for number in range(len(requests))]
    columns = {
        "id": [f"{source}-inpainted-{name}" for name in names],
        **{folder.removesuffix("s"): [f"{folder}/{name}.png" for name in names] for folder in FOLDERS},
        "source_id": [ids[row] for row in rows],
        "mask_id": [ids[request.donor] for request in requests],
        "patient": [seen.patients[row] for row in rows],
        "split": seen.table.column("split").cast(pa.string()).take(pa.array(rows)).to_pylist(),
        "seed": [request.seed for request in requests],
        "region_pixels": [int(size) for size in sizes],
    }
    table = pa.table({**columns, **{name: pa.array(labels[:, n], pa.int8()) for n, name in enumerate(NAMES)}})
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))


class Pair(Protocol):
    """Image before and after uint8 [S, S, 3], mask uint8 [S, S], region before and after it was dilated bool [S, S]."""

    source: np.ndarray
    image: np.ndarray
    mask: np.ndarray
    target: np.ndarray
    where: np.ndarray


def sheet(pairs: Sequence[Pair], captions: Sequence[str], num_levels: int) -> np.ndarray:
    """A row a pair: the image with its region, what was painted with the mask's outline, and without it."""
    rows = [
        np.stack([outlined(one.source, one.where, 2), outlined(one.image, one.mask, num_levels), one.image])
        for one in pairs
    ]
    return compose(np.stack(rows), captions)


def write_sheet(root: Path, name: str, picture: np.ndarray) -> Path:
    """Write a sheet into the folder `samples`."""
    path = own_folder(root, "samples") / name
    write_atomically(path, lambda temporary: Image.fromarray(picture).save(temporary))
    return path
