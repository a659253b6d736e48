"""A synthetic set on disk, whole or in the making: what made it, and whether its shards are what was written."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.files import WHOLE_COPY, misfit, read_json, refuse_link, write_json
from datamodules.findings import NAMES
from datamodules.synthetic import layout
from datamodules.synthetic.annotations import AnnotationFolder, Annotations, read_annotations
from datamodules.synthetic.plan import Plan
from datamodules.synthetic.tables import SyntheticSetError, check_parquet, fault_of

FORMAT = 1
ID_DIGITS = 8  # of the recipe's hash, in front of an image's number
MOST_SHARDS = 99_999  # of five digits, by which their names are in order
MOST_PIXELS = 16_384  # along a side
IMAGE_FORMATS = ("png", "jpeg", "webp")
RECIPE_SHAPE = {
    "generator": {
        "checkpoint": str,
        "weights": str,
        "image_size?": int,
        "config?": dict,
        "fingerprints?": dict,
        "masks?": {"kind": str, "levels": [str]},
    },
    "plan": {"fingerprint": str, "num_images": int},
    "sampling": dict,
    "image": {"format": str, "quality?": int, "size": int},
    "shards": {"num_shards": int, "images_per_shard": int, "images_per_row_group": int},
    "filter?": {"findings": [str], "annotators?": [str], "segmenter?": str},
    "seed": int,
}  # as misfit reads it; keys of one's own may stand beside these
MANIFEST_SHAPE = {"files": [layout.CHECKSUM_SHAPE], "num_images": int, "num_bytes": int}


class SyntheticSet:
    """A set made by `+exp=synthesize`, whole or in the making.

    Args:
        root: its folder.

    Raises:
        FileNotFoundError: no such folder, or no recipe in it.
        SyntheticSetError: a recipe that cannot be read, of another version, or that contradicts itself.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        path = self.root / layout.RECIPE
        if not path.is_file():
            raise FileNotFoundError(
                f"{str(self.root)!r} is no synthetic set: there is no {path.name} in it. Remedy: name the output "
                "folder of +exp=synthesize."
            )
        self.recipe = read_json(path, error=SyntheticSetError)
        if self.recipe.get("format") != FORMAT:
            raise SyntheticSetError(f"{path}: its format is {self.recipe.get('format')!r}, and {FORMAT} is known here.")
        fault = misfit(self.recipe, RECIPE_SHAPE) or _contradiction(self.recipe)
        if fault is not None:
            raise SyntheticSetError(f"{path}: {fault}. Remedy: {WHOLE_COPY}.")

    @classmethod
    def begin(cls, root: str | Path, recipe: Mapping[str, Any]) -> "SyntheticSet":
        """The set in a folder, whose recipe is written where there is none; raises as the constructor does."""
        if not is_begun(root):
            write_json(Path(root) / layout.RECIPE, recipe)
        return cls(root)

    @property
    def num_images(self) -> int:
        """Images of the plan."""
        return self.recipe["plan"]["num_images"]

    @property
    def plan(self) -> Plan:
        """What each image is to show; raises as `Plan`."""
        return Plan(self.root / layout.PLAN)

    @property
    def id_prefix(self) -> str:
        """What the id of every image begins with."""
        return id_prefix(self.recipe)

    @cached_property
    def names(self) -> list[str]:
        """Names of all shards without their ending, in order."""
        return layout.shard_names(self.recipe["shards"]["num_shards"])

    @property
    def places(self) -> list[tuple[Path, Path]]:
        """Where all shards and their checksums lie, in order."""
        return layout.shard_places(self.root, len(self.names))

    @property
    def shards(self) -> list[Path]:
        """All shards, in order."""
        return [self.shard(name) for name in self.names]

    def shard(self, name: str) -> Path:
        """Where a shard lies."""
        return layout.shard_file(self.root, name)

    def bounds(self, number: int) -> tuple[int, int]:
        """The first image of a shard, and the one behind its last."""
        size = self.recipe["shards"]["images_per_shard"]
        return number * size, min((number + 1) * size, self.num_images)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Images of each shard by its name, in order."""
        bounds = map(self.bounds, range(len(self.names)))
        return {name: stop - start for name, (start, stop) in zip(self.names, bounds, strict=True)}

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The recipe, with `files` (file, sha256, num_rows, num_bytes of each shard), `num_images` and `num_bytes`.

        Raises:
            SyntheticSetError: the set is not complete, or its manifest is not of the shards of its recipe.
        """
        path = self.root / layout.MANIFEST
        if not path.is_file():
            there = sum(shard.is_file() for shard in self.shards)
            raise SyntheticSetError(
                f"{str(self.root)!r} is incomplete: {there} of {len(self.names)} shards are there, and no {path.name}. "
                "Remedy: go on making it, by the same command with resume=auto."
            )
        found = read_json(path, MANIFEST_SHAPE, error=SyntheticSetError)
        wanted = [(f"{layout.DATA}/{name}.parquet", size) for name, size in self.sizes.items()]
        told = [(file["file"], file["num_rows"]) for file in found["files"]]
        if told != wanted or found["num_images"] != self.num_images:
            place = next((n for n, pair in enumerate(zip(told, wanted, strict=False)) if pair[0] != pair[1]), None)
            said = (
                f"its file {place} is {told[place]}, and must be {wanted[place]}"
                if place is not None
                else (f"it has {len(told)} files and {found['num_images']:,} images")
            )
            raise SyntheticSetError(
                f"{path} is not of the {len(wanted)} shards with {self.num_images:,} images of {layout.RECIPE}: "
                f"{said}. Remedy: {WHOLE_COPY}."
            )
        return found

    def reopen(self) -> None:
        """Take the manifest away, until every shard is known to be there and whole."""
        (self.root / layout.MANIFEST).unlink(missing_ok=True)

    def complete(self) -> dict[str, Any]:
        """Write the manifest of a set whose shards are all there; returns it.

        Raises:
            ValueError: one is missing, or of another size than was written.
        """
        self.check_sizes("go on, by the same command with resume=auto")
        files = [self.checksum(name) for name in self.names]
        totals = {"num_images": sum(f["num_rows"] for f in files), "num_bytes": sum(f["num_bytes"] for f in files)}
        manifest = {**self.recipe, "files": files, **totals}
        write_json(self.root / layout.MANIFEST, manifest)
        return manifest

    def annotations_by(self, recipe: Mapping[str, Any]) -> AnnotationFolder:
        """The folder of annotations by this recipe, there or to be made."""
        return AnnotationFolder(self.root / layout.ANNOTATIONS, recipe)

    @property
    def annotations(self) -> Annotations | None:
        """What annotators said of all images; None until they are done.

        Raises:
            SyntheticSetError: what they left cannot be read, lacks files, or is not of the set's shards.
        """
        return read_annotations(self.root / layout.ANNOTATIONS, self.sizes)

    @property
    def has_annotation_shards(self) -> bool:
        """Whether a shard of annotations is there, of all or not."""
        return any((self.root / layout.ANNOTATIONS).glob("*.parquet"))

    def report(self, name: str, shape: Any, remedy: str = WHOLE_COPY) -> dict[str, Any] | None:
        """What a job left in the folder as JSON of `shape`, such as CONSISTENCY; None where it is not there.

        Raises:
            SyntheticSetError: it cannot be read, or is of another shape.
        """
        path = self.root / name
        return read_json(path, shape, remedy, SyntheticSetError) if path.is_file() else None

    def check_sizes(self, remedy: str) -> None:
        """See that every shard has the size that was written; raises SyntheticSetError with this remedy."""
        for name in self.names:
            fault = self.wrong_with(name, thorough=False)
            if fault is not None:
                raise SyntheticSetError(f"{self.shard(name)}: {fault}. Remedy: {remedy}.")

    def check_shards(self) -> None:
        """See that every shard is a whole Parquet file with the rows and the columns that it must have.

        Reads their ends alone. `verify` reads every byte.

        Raises:
            SyntheticSetError: one is not.
        """
        filtered = ("attempts", "accepted", *self.recipe["filter"]["findings"]) if self.recipe.get("filter") else ()
        for name, size in self.sizes.items():
            path = self.shard(name)
            if not path.is_file():
                raise SyntheticSetError(f"{path} is missing. Remedy: {WHOLE_COPY}, or make it again by resume=auto.")
            check_parquet(path, size, ("image", "id", "index", *filtered))

    def checksum(self, name: str) -> dict[str, Any] | None:
        """What was written of a shard: file, sha256, num_rows, num_bytes; None where it is not there, or was cut short.

        Raises:
            OSError: the disk cannot tell.
        """
        try:
            found = read_json(layout.checksum_file(self.root, name), layout.CHECKSUM_SHAPE, error=SyntheticSetError)
        except (FileNotFoundError, SyntheticSetError):
            return None
        return found if found["file"] == f"{layout.DATA}/{name}.parquet" else None

    def wrong_with(self, name: str, thorough: bool = True) -> str | None:
        """Why a shard has to be made: `missing`, or its difference from its record (fault_of); None for a good one."""
        return fault_of(self.shard(name), self.checksum(name), thorough)

    def verify(self) -> Iterator[tuple[str, str]]:
        """Name and fault of every shard that is missing, truncated or altered; reads every byte.

        Raises:
            SyntheticSetError: the set is not complete.
        """
        for name, file in zip(self.names, self.manifest["files"], strict=True):
            fault = self.wrong_with(name)
            if fault is None and (self.checksum(name) or {}).get("sha256") != file["sha256"]:
                fault = f"{layout.MANIFEST} has another sha256 than {layout.CHECKSUMS}/{name}.json"
            if fault is not None:
                yield name, fault


def is_begun(root: str | Path) -> bool:
    """Whether a folder is that of a synthetic set."""
    return (Path(root) / layout.RECIPE).is_file()


def clear_unfinished(root: Path) -> None:
    """Take away what processes that were killed have left of a set; raises ValueError where its folders are links."""
    for name in (layout.DATA, layout.CHECKSUMS):
        refuse_link(root / name)
    for left in (left for folder in ("", layout.DATA, layout.CHECKSUMS) for left in (root / folder).glob(".*.part*")):
        left.unlink()


def id_prefix(recipe: dict[str, Any]) -> str:
    """Eight hexadecimal digits of a hash of the recipe: what ids of two sets differ by."""
    text = json.dumps(recipe, sort_keys=True)
    return f"{hashlib.blake2b(text.encode(), digest_size=ID_DIGITS // 2).hexdigest()}-"


def _contradiction(recipe: dict[str, Any]) -> str | None:
    """What a recipe of the right shape says that cannot be; None for nothing."""
    shards, image, num_images = recipe["shards"], recipe["image"], recipe["plan"]["num_images"]
    for name, value in {"plan.num_images": num_images, **{f"shards.{key}": shards[key] for key in
                        ("num_shards", "images_per_shard", "images_per_row_group")}}.items():  # fmt: skip
        if value < 1:
            return f"{name} is {value}, and must be at least 1"
    wanted = -(-num_images // shards["images_per_shard"])
    if shards["num_shards"] != wanted or wanted > MOST_SHARDS:
        return (
            f"shards.num_shards is {shards['num_shards']}, and {num_images:,} images, {shards['images_per_shard']:,} a "
            f"shard, are {wanted:,} shards, of which there may be {MOST_SHARDS:,}"
        )
    if image["format"] not in IMAGE_FORMATS:
        return f"image.format is {image['format']!r}, and must be one of: {', '.join(IMAGE_FORMATS)}"
    if not 1 <= image["size"] <= MOST_PIXELS:
        return f"image.size is {image['size']}, and must be 1 to {MOST_PIXELS:,} pixels"
    unknown = [name for name in (recipe.get("filter") or {}).get("findings", ()) if name not in NAMES]
    return f"filter.findings names {unknown[0]!r}, which is no finding" if unknown else None
