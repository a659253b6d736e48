"""The folder of an export: new, or begun by the same export; whatever else is in it is refused."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.files import refuse_link, remove_unfinished, write_text
from datamodules.errors import UserError
from datamodules.files import read_json
from datamodules.synthetic import SyntheticSet
from datamodules.synthetic.set import is_begun
from experiments.export.layouts import LAYOUTS

OWN_FOLDERS = ("images", "masks", "Part*", "Dataset*")  # that layouts write into
MARK = "export.json"  # of which set and which layout the files of a folder are


def claim(
    output_dir: Path, mark: Mapping[str, Any], datasets: Sequence[SyntheticSet], owned: Sequence[str] = ()
) -> None:
    """Take a folder for an export: a new one, or one that the same export began; clear what that left.

    Args:
        mark: what the export is of, as JSON holds it.
        datasets: the sets that are exported.
        owned: patterns of what it writes, besides those of every layout.

    Raises:
        ValueError: the folder is that of a set, holds another export, files of which it cannot be told what of, or
            links in the place of its own folders.
    """
    inside = any(output_dir.resolve().is_relative_to(dataset.root.resolve()) for dataset in datasets)
    if is_begun(output_dir) or inside:
        raise UserError(f"output_dir={output_dir} is the folder of a synthetic set, or in it: give another.")
    folders = [folder for name in OWN_FOLDERS for folder in output_dir.glob(name)]
    for folder in folders:
        refuse_link(folder)
    path = output_dir / MARK
    if path.is_file():
        there = read_json(path, remedy="give another output_dir")
        differing = [f"{key} {there.get(key)!r} instead of {value!r}" for key, value in mark.items()
                     if there.get(key) != value]  # fmt: skip
        if differing:
            raise UserError(f"output_dir={output_dir} holds another export ({'; '.join(differing)}): give another.")
        for folder in folders:
            remove_unfinished(folder)
        return
    patterns = [*owned, *(pattern for layout in LAYOUTS.values() for pattern in layout.owned)]
    foreign = sorted(file.name for pattern in patterns for file in output_dir.glob(pattern))
    if foreign:
        raise UserError(
            f"output_dir={output_dir} holds {foreign[0]!r}, and no {MARK} says of which set: give an empty folder."
        )
    write_text(path, json.dumps(mark, indent=2) + "\n")


def facts_of_set(dataset: SyntheticSet) -> dict[str, Any]:
    """Of which set an export is, in its mark."""
    return {
        "set": dataset.id_prefix.rstrip("-"),
        "num_images": dataset.num_images,
        "weights": dataset.recipe["generator"]["weights"],
        "plan": dataset.recipe["plan"]["fingerprint"],
    }


def check_set(dataset: SyntheticSet, only_accepted: bool) -> None:
    """See that a set is whole, and that it can be told which images are accepted where that is asked.

    Raises:
        ValueError: it is not, or cannot.
    """
    _ = dataset.manifest
    dataset.check_shards()
    if only_accepted and not dataset.recipe.get("filter"):
        raise UserError(
            f"job.only_accepted=true, but {str(dataset.root)!r} was made without a filter: nothing says which images "
            "are accepted. Leave it out, and all images are written."
        )
