"""The annotations beside a set, where there are any: which files, and what is told of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.files import read_json
from datamodules.synthetic import SyntheticSet, SyntheticSetError, check_parquet

FOLDER, TOLD = "annotations", "annotation.json"
SHAPE = {"annotators?": list, "files?": list}
REMEDY = "run annotate again; or remove the folder, and the set counts as not annotated"


@dataclass(frozen=True)
class Annotations:
    """A Parquet file for each shard, in their order, with the same rows; and what annotation.json tells of them."""

    files: list[Path]
    told: Mapping[str, Any]


def annotations_of(dataset: SyntheticSet) -> Annotations | None:
    """The annotations of a set; None before annotation.json, which is written last, is there.

    Raises:
        SyntheticSetError: annotation.json cannot be read, or files are missing, or are not of the set's shards.
    """
    folder = dataset.root / FOLDER
    if not (folder / TOLD).is_file():
        return None
    told = read_json(folder / TOLD, SHAPE, REMEDY, SyntheticSetError)
    files = [folder / shard.name for shard in dataset.shards]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise SyntheticSetError(
            f"{folder} has {TOLD}, but not {missing[0]}: {len(missing)} of {len(files)} files are missing. Remedy: "
            f"{REMEDY}."
        )
    for number, file in enumerate(files):
        start, stop = dataset.bounds(number)
        check_parquet(file, stop - start, ("id",))
    return Annotations(files, told)
