"""The annotations beside a set, where there are any: which files, and what is told of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.synthetic import SyntheticSet, SyntheticSetError

FOLDER, TOLD = "annotations", "annotation.json"


@dataclass(frozen=True)
class Annotations:
    """A Parquet file for each shard, in their order, with the same rows; and what annotation.json tells of them."""

    files: list[Path]
    told: Mapping[str, Any]


def annotations_of(dataset: SyntheticSet) -> Annotations | None:
    """The annotations of a set; None before annotation.json, which is written last, is there.

    Raises:
        SyntheticSetError: annotation.json cannot be read, or files are missing.
    """
    folder = dataset.root / FOLDER
    if not (folder / TOLD).is_file():
        return None
    told = read_json(folder / TOLD)
    files = [folder / shard.name for shard in dataset.shards]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise SyntheticSetError(
            f"{folder} has {TOLD}, but not {missing[0]}: {len(missing)} of {len(files)} files are missing. Remedy: run "
            "annotate again; or remove the folder, and the set counts as not annotated."
        )
    return Annotations(files, told)


def read_json(path: Path) -> dict[str, Any]:
    """A mapping from a JSON file.

    Raises:
        SyntheticSetError: it cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SyntheticSetError(f"{path} cannot be read ({error}). Remedy: write it again, or remove it.") from error
    if not isinstance(found, dict):
        raise SyntheticSetError(f"{path} holds no mapping. Remedy: write it again, or remove it.")
    return found
