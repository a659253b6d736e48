"""The annotations of a set: whose they are, which shards are there, and what is wrong with them.

recipe.json           which annotators, thresholds, versions; written before the first shard
shard-00000-of-00008.parquet …   what is said of the images of the data shard of that name
checksums/            shard-00000-of-00008.json …, written before the shard appears
annotation.json       the recipe and all checksums, written when every shard is there
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.errors import UserError
from datamodules.files import own_folder, read_json, refuse_link, sha256, write_json
from datamodules.synthetic.layout import CHECKSUM_SHAPE, CHECKSUMS, checksum_file
from datamodules.synthetic.tables import SyntheticSetError, check_parquet, fault_of

RECIPE, FINISHED = "recipe.json", "annotation.json"
FINISHED_SHAPE = {"annotators?": list, "files?": list}
REMEDY = "run annotate again; or remove the folder, and the set counts as not annotated"
TOLD_APART_BY = ("annotators", "thresholds", "precision", "advice", "data")
OF_ANNOTATORS = ("weights", "findings", "image_size")
RECIPE_SHAPE = {"annotators": [{"weights": str}]}  # as misfit reads it


@dataclass(frozen=True)
class Annotations:
    """A Parquet file for each shard, in their order, with the same rows; and what annotation.json tells of them."""

    files: list[Path]
    told: Mapping[str, Any]


def read_annotations(folder: Path, sizes: Mapping[str, int]) -> Annotations | None:
    """The annotations in a folder; None before annotation.json, which is written last, is there.

    Args:
        sizes: rows of every shard of the set, by its name without ending, in order.

    Raises:
        SyntheticSetError: annotation.json cannot be read, or files are missing, or are not of the set's shards.
    """
    if not (folder / FINISHED).is_file():
        return None
    told = read_json(folder / FINISHED, FINISHED_SHAPE, REMEDY, SyntheticSetError)
    files = [folder / f"{name}.parquet" for name in sizes]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise SyntheticSetError(
            f"{folder} has {FINISHED}, but not {missing[0]}: {len(missing)} of {len(files)} files are missing. Remedy: "
            f"{REMEDY}."
        )
    for file, num_rows in zip(files, sizes.values(), strict=True):
        check_parquet(file, num_rows, ("id",))
    return Annotations(files, told)


class AnnotationFolder:
    """`<set>/annotations`, for annotations by one recipe.

    Two recipes are of the same annotations if `TOLD_APART_BY` are equal; of an annotator `OF_ANNOTATORS` count, not
    where it lies.

    Args:
        root: the folder.
        recipe: in plain containers: `annotators` (a list, each with `weights`, `findings`, `image_size`, and for people
            `run`), `thresholds`, `precision`, `advice` (version of the texts), `data` (sha256 of every data shard by
            its name without ending); what else is kept is for people.
    """

    def __init__(self, root: str | Path, recipe: Mapping[str, Any]) -> None:
        self.root = Path(root)
        self.recipe = dict(recipe)
        self.identity = _identity(self.recipe)

    @property
    def names(self) -> list[str]:
        """Names of all shards, without ending, in order."""
        return list(self.recipe["data"])

    def shard(self, name: str) -> Path:
        """Where a shard of annotations lies."""
        return self.root / f"{name}.parquet"

    def check(self, overwrite: bool) -> None:
        """See that what lies there is of this recipe, or nothing.

        Raises:
            ValueError: it is of another, and `overwrite` is False; says what differs, and the remedy. Or the folder is
                a link.
        """
        refuse_link(self.root)
        if overwrite or not self.root.is_dir() or not any(self.root.iterdir()):
            return
        theirs = _read(self.root / RECIPE, RECIPE_SHAPE)
        if theirs is None:
            raise UserError(
                f"{self.root} is not empty, and there is no {RECIPE} that says whose annotations these are. Remedy: "
                "job.overwrite=true to replace them, or move them away."
            )
        if _identity(theirs) != self.identity:
            lines = "; ".join(_differences(theirs, self.recipe))
            raise UserError(
                f"{self.root} holds other annotations: {lines}. Remedy: job.overwrite=true replaces them; or give what "
                "they were made with, and they are gone on with."
            )

    def begin(self, overwrite: bool) -> None:
        """Make the folder ready: with `overwrite` remove what is of another recipe; write ours.

        Raises:
            ValueError: as `check`.
        """
        self.check(overwrite)
        theirs = _read(self.root / RECIPE, RECIPE_SHAPE)
        if self.root.is_dir() and (theirs is None or _identity(theirs) != self.identity):
            shutil.rmtree(self.root)
        (self.root / FINISHED).unlink(missing_ok=True)
        for left in self.root.rglob(".*.part*"):  # of a process that was killed
            left.unlink()
        if not (self.root / RECIPE).is_file():
            write_json(self.root / RECIPE, self.recipe)

    def wrong_with(self, name: str) -> str | None:
        """Why a shard has to be made: missing, or how it differs from what was written; None for a good one."""
        return fault_of(self.shard(name), self._checksum(name))

    def _checksum(self, name: str) -> dict[str, Any] | None:
        """What was written of a shard of this recipe; None where it is not there, or was cut short."""
        found = _read(checksum_file(self.root, name), CHECKSUM_SHAPE | {"identity": str})
        return found if found is not None and found["identity"] == self.identity else None

    def pending(self) -> list[str]:
        """Names of the shards that are not there, or not whole, in order; reads every byte of the others."""
        return [name for name in self.names if self.wrong_with(name) is not None]

    def write_checksum(self, name: str, path: Path, num_rows: int) -> None:
        """Note what a shard will be that lies at `path` for now."""
        file, size = f"{self.root.name}/{name}.parquet", path.stat().st_size
        told = {"file": file, "sha256": sha256(path), "num_rows": num_rows, "num_bytes": size}
        own_folder(self.root, CHECKSUMS)
        write_json(checksum_file(self.root, name), told | {"identity": self.identity})

    def finish(self) -> dict[str, Any]:
        """Write annotation.json, and return it.

        Raises:
            ValueError: a shard that is missing or not whole.
        """
        wanted = self.pending()
        if wanted:
            raise UserError(
                f"{len(wanted)} of {len(self.names)} shards of {self.root} are not there: {wanted[0]}: "
                f"{self.wrong_with(wanted[0])}. Remedy: the same command again."
            )
        files = [self._checksum(name) for name in self.names]
        whole = self.recipe | {
            "identity": self.identity,
            "files": [{key: value for key, value in file.items() if key != "identity"} for file in files],
            "num_images": sum(file["num_rows"] for file in files),
        }
        write_json(self.root / FINISHED, whole)
        return whole


def _identity(recipe: Mapping[str, Any]) -> str:
    """32 hexadecimal digits of what tells annotations apart."""
    told = {key: recipe.get(key) for key in TOLD_APART_BY} | {"annotators": _who(recipe)}
    return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16).hexdigest()


def _who(recipe: Mapping[str, Any]) -> list[str]:
    """What tells the annotators of a recipe apart, whatever their order."""
    return sorted(json.dumps([one.get(key) for key in OF_ANNOTATORS]) for one in recipe.get("annotators", ()))


def _named(recipe: Mapping[str, Any]) -> str:
    """The annotators of a recipe for people: their runs, and the first digits of their weights."""
    return ", ".join(f"{one.get('run')} ({one.get('weights', '')[:8]})" for one in recipe.get("annotators", ()))


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What tells two recipes apart, in words."""
    lines = []
    if _who(theirs) != _who(ours):
        lines.append(f"by annotators {_named(theirs)}, and these are {_named(ours)}")
    for key in ("thresholds", "precision", "advice"):
        if theirs.get(key) != ours.get(key):
            lines.append(f"{key} {theirs.get(key)} there, {ours.get(key)} here")
    if theirs.get("data") != ours.get("data"):
        lines.append("of other images, which have changed since")
    return lines


def _read(path: Path, shape: Mapping[str, Any]) -> dict[str, Any] | None:
    """A JSON file; None where there is none, or not a whole one of this shape."""
    try:
        return read_json(path, dict(shape))
    except (FileNotFoundError, ValueError):
        return None
