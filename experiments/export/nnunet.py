"""nnU-Net's raw layout: names of cases and folders, labels, dataset.json and the file of the folds.

The layout is that of nnunetv2 2.8 (Isensee et al. 2021, "nnU-Net"): documentation/dataset_format.md, and for images of
three colours, which are one file a case, dataset_conversion/Dataset120_RoadSegmentation.py.
"""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from callbacks.files import write_json
from datamodules.errors import UserError
from datamodules.files import read_json
from experiments.export.layouts import AS_PNG, NNUNET
from experiments.export.masks import MaskValues

CHANNELS = {"0": "R", "1": "G", "2": "B"}  # each is standardised by itself
BACKGROUND, IGNORE = "background", "ignore"  # names that nnU-Net gives a meaning


class NnunetLayout:
    """The generated cases of one set: `imagesTr/<case>_0000.png` and `labelsTr/<case>.png` of a dataset's folder."""

    name = NNUNET
    tables: Mapping[str, str] = {}
    endings = AS_PNG
    owned = ()
    carried = ("seed",)

    def __init__(self, folder: str, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix

    def case(self, index: int) -> str:
        """Name of a case: of the set's recipe and the image's number, since an id may be any text."""
        return f"{self.prefix}{index:08d}"

    def place(self, index: int, id: str) -> str:
        """As a Layout."""
        return f"{self.folder}/imagesTr/{self.case(index)}_0000"

    def mask_place(self, index: int, id: str) -> str:
        """As a Layout."""
        return f"{self.folder}/labelsTr/{self.case(index)}"

    def keys(self, indices: Sequence[int], ids: Sequence[str], paths: Sequence[str]) -> dict[str, Sequence[Any]]:
        """As a Layout."""
        return keys_of([self.case(index) for index in indices], "synthetic", ids)


def keys_of(cases: Sequence[str], kind: str, ids: Sequence[str]) -> dict[str, Sequence[Any]]:
    """The first columns of cases.csv, for training, with no patient and no fold."""
    same = {"kind": kind, "id": "", "patient": "", "split": "train", "fold": ""}
    return {"case": cases} | {name: [value] * len(cases) for name, value in same.items()} | {"id": ids}


def folder_name(number: Any, name: Any) -> str:
    """`Dataset501_Fundus`.

    Raises:
        ValueError: a number outside 1..999, or a name that is not made of letters, digits, `_` and `-`.
    """
    if type(number) is not int or not 1 <= number <= 999:
        raise UserError(f"job.number={number} is no number of a dataset of nnU-Net, which are 1 to 999.")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise UserError(f"job.name={name}: letters, digits, _ and - may be in it, 64 at most, and the first is none of "
                        "the last two.")  # fmt: skip
    return f"Dataset{number:03d}_{name}"


def values_of(levels: Mapping[str, Sequence[str]]) -> MaskValues:
    """How masks are written whose levels these are, by where they are from: unknown pixels get the highest label.

    Raises:
        ValueError: the levels differ, or have a name that nnU-Net gives another meaning.
    """
    (first, wanted), *others = levels.items()
    for origin, found in others:
        if tuple(found) != tuple(wanted):
            raise UserError(
                f"the masks of {first} have the levels {', '.join(wanted)}, and those of {origin} "
                f"{', '.join(found)}. Remedy: pairs of one export have the same levels, in the same order."
            )
    taken = {BACKGROUND, IGNORE} & set(wanted[1:])
    if taken:
        raise UserError(f"a level of the masks of {first} is called {min(taken)!r}, which has another meaning to "
                        "nnU-Net. Remedy: another name for it in the source.")  # fmt: skip
    return MaskValues(tuple(wanted), tuple(range(len(wanted))), len(wanted))


def dataset_json(folder: str, values: MaskValues, has_unknown: bool, num_training: int) -> dict[str, Any]:
    """The content of nnU-Net's dataset.json; the first level is its background, whatever it is called."""
    labels = dict(zip((BACKGROUND, *values.levels[1:]), values.greys, strict=True))
    return {
        "channel_names": CHANNELS,
        "labels": labels | ({IGNORE: values.unknown} if has_unknown else {}),
        "numTraining": num_training,
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
        "name": folder,
    }


def write_splits(path: Path, splits: list[dict[str, list[str]]]) -> None:
    """Write splits_final.json.

    Raises:
        ValueError: other splits are there, by which models may have been trained.
    """
    if path.is_file() and read_json(path, list) != splits:
        raise UserError(
            f"{path} has other splits, by which models may have been trained. Remedy: delete it, or give another "
            "job.number or job.preprocessed."
        )
    write_json(path, splits)


def any_has(files: Sequence[Path], value: int, num_workers: int | None) -> bool:
    """Whether a pixel of one of these grey images has this value."""

    def has(path: Path) -> bool:
        return bool((np.asarray(Image.open(path, formats=("PNG",))) == value).any())

    with ThreadPoolExecutor(num_workers) as threads:
        return any(list(threads.map(has, files)))
