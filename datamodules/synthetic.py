"""A synthetic set on disk: what made it, its shards, and whether they are what was written.

plan.parquet          a row an image: index, seed, condition (plans.py)
recipe.json           what made it, written before the first shard and never changed
data/                 shard-00000-of-00008.parquet …
checksums/            shard-00000-of-00008.json …, written before the shard appears
manifest.json         the recipe and all checksums, written when every shard is there
trained_on.parquet    hashes of the patients that the generator was trained on (lineage.py)
annotations/          beside the conditions, what a classifier says of the images
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.files import WHOLE_COPY, misfit, read_json
from datamodules.findings import NAMES

FORMAT = 1
RECIPE, MANIFEST, PLAN = "recipe.json", "manifest.json", "plan.parquet"
ID_DIGITS = 8  # of the recipe's hash, in front of an image's number
MOST_SHARDS = 99_999  # of five digits, by which their names are in order
MOST_PIXELS = 16_384  # along a side
IMAGE_FORMATS = ("png", "jpeg", "webp")
RECIPE_SHAPE = {
    "generator": {"checkpoint": str, "weights": str, "image_size?": int, "config?": dict, "fingerprints?": dict},
    "plan": {"fingerprint": str, "num_images": int},
    "sampling": dict,
    "image": {"format": str, "quality?": int, "size": int},
    "shards": {"num_shards": int, "images_per_shard": int, "images_per_row_group": int},
    "filter?": {"findings": [str], "annotators?": [str]},
    "seed": int,
}  # as misfit reads it; keys of one's own may stand beside these
FILE_SHAPE = {"file": str, "sha256": str, "num_rows": int, "num_bytes": int}
MANIFEST_SHAPE = {"files": [FILE_SHAPE], "num_images": int, "num_bytes": int}
KINDS = {
    "image": lambda kind: pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_binary(
        kind.field("bytes").type),
    "id": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    "index": pa.types.is_integer,
    "attempts": pa.types.is_integer,
    "accepted": pa.types.is_boolean,
}  # of columns of a shard; findings are whole numbers or, in annotations, true or false  # fmt: skip


class SyntheticSetError(ValueError):
    """A folder that is no synthetic set, or not a whole one; the message says what is wrong with it, and the remedy."""


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
        path = self.root / RECIPE
        if not path.is_file():
            raise FileNotFoundError(
                f"{str(self.root)!r} is no synthetic set: there is no {RECIPE} in it. Remedy: name the output folder "
                "of +exp=synthesize."
            )
        self.recipe = read_json(path, error=SyntheticSetError)
        if self.recipe.get("format") != FORMAT:
            raise SyntheticSetError(f"{path}: its format is {self.recipe.get('format')!r}, and {FORMAT} is known here.")
        fault = misfit(self.recipe, RECIPE_SHAPE) or _contradiction(self.recipe)
        if fault is not None:
            raise SyntheticSetError(f"{path}: {fault}. Remedy: {WHOLE_COPY}.")

    @property
    def num_images(self) -> int:
        """Images of the plan."""
        return self.recipe["plan"]["num_images"]

    @property
    def id_prefix(self) -> str:
        """What the id of every image begins with."""
        return id_prefix(self.recipe)

    @cached_property
    def names(self) -> list[str]:
        """Names of all shards without their ending, in order."""
        return shard_names(self.recipe["shards"]["num_shards"])

    @property
    def shards(self) -> list[Path]:
        """All shards, in order."""
        return [self.shard(name) for name in self.names]

    def shard(self, name: str) -> Path:
        """Where a shard lies."""
        return self.root / "data" / f"{name}.parquet"

    def bounds(self, number: int) -> tuple[int, int]:
        """The first image of a shard, and the one behind its last."""
        size = self.recipe["shards"]["images_per_shard"]
        return number * size, min((number + 1) * size, self.num_images)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The recipe, with `files` (file, sha256, num_rows, num_bytes of each shard), `num_images` and `num_bytes`.

        Raises:
            SyntheticSetError: the set is not complete, or its manifest is not of the shards of its recipe.
        """
        path = self.root / MANIFEST
        if not path.is_file():
            there = sum(shard.is_file() for shard in self.shards)
            raise SyntheticSetError(
                f"{str(self.root)!r} is incomplete: {there} of {len(self.names)} shards are there, and no {MANIFEST}. "
                "Remedy: go on making it, by the same command with resume=auto."
            )
        found = read_json(path, MANIFEST_SHAPE, error=SyntheticSetError)
        sizes = [stop - start for start, stop in map(self.bounds, range(len(self.names)))]
        wanted = [(f"data/{name}.parquet", size) for name, size in zip(self.names, sizes, strict=True)]
        told = [(file["file"], file["num_rows"]) for file in found["files"]]
        if told != wanted or found["num_images"] != self.num_images:
            place = next((n for n, pair in enumerate(zip(told, wanted, strict=False)) if pair[0] != pair[1]), None)
            said = (
                f"its file {place} is {told[place]}, and must be {wanted[place]}"
                if place is not None
                else (f"it has {len(told)} files and {found['num_images']:,} images")
            )
            raise SyntheticSetError(
                f"{path} is not of the {len(wanted)} shards with {self.num_images:,} images of {RECIPE}: {said}. "
                f"Remedy: {WHOLE_COPY}."
            )
        return found

    def check_shards(self) -> None:
        """See that every shard is a whole Parquet file with the rows and the columns that it must have.

        Reads their ends alone. `verify` reads every byte.

        Raises:
            SyntheticSetError: one is not.
        """
        filtered = ("attempts", "accepted", *self.recipe["filter"]["findings"]) if self.recipe.get("filter") else ()
        for number, path in enumerate(self.shards):
            start, stop = self.bounds(number)
            if not path.is_file():
                raise SyntheticSetError(f"{path} is missing. Remedy: {WHOLE_COPY}, or make it again by resume=auto.")
            check_parquet(path, stop - start, ("image", "id", "index", *filtered))

    def checksum(self, name: str) -> dict[str, Any] | None:
        """What was written of a shard: file, sha256, num_rows, num_bytes; None where it is not there, or was cut short.

        Raises:
            OSError: the disk cannot tell.
        """
        try:
            found = read_json(self.root / "checksums" / f"{name}.json", FILE_SHAPE, error=SyntheticSetError)
        except (FileNotFoundError, SyntheticSetError):
            return None
        return found if found["file"] == f"data/{name}.parquet" else None

    def wrong_with(self, name: str, thorough: bool = True) -> str | None:
        """Why a shard has to be made: `missing`, or how it differs from what was written; None for a good one.

        Args:
            thorough: read every byte; otherwise only the file's size is compared.
        """
        path, written = self.shard(name), self.checksum(name)
        if not path.is_file():
            return "missing"
        if written is None:
            return "there is no checksum of it"
        size = path.stat().st_size
        if size != written["num_bytes"]:
            return f"it has {size} bytes, and {written['num_bytes']} were written"
        if thorough and sha256(path) != written["sha256"]:
            return "its bytes are not those that were written: the sha256 differs"
        return None

    def verify(self) -> Iterator[tuple[str, str]]:
        """Name and fault of every shard that is missing, truncated or altered; reads every byte.

        Raises:
            SyntheticSetError: the set is not complete.
        """
        for name, file in zip(self.names, self.manifest["files"], strict=True):
            fault = self.wrong_with(name)
            if fault is None and (self.checksum(name) or {}).get("sha256") != file["sha256"]:
                fault = f"{MANIFEST} has another sha256 than checksums/{name}.json"
            if fault is not None:
                yield name, fault


def shard_names(num_shards: int) -> list[str]:
    """`shard-00000-of-00008` …, as Hugging Face datasets names them, without their ending."""
    return [f"shard-{number:05d}-of-{num_shards:05d}" for number in range(num_shards)]


def id_prefix(recipe: dict[str, Any]) -> str:
    """Eight hexadecimal digits of a hash of the recipe: what ids of two sets differ by."""
    text = json.dumps(recipe, sort_keys=True)
    return f"{hashlib.blake2b(text.encode(), digest_size=ID_DIGITS // 2).hexdigest()}-"


def sha256(path: Path) -> str:
    """Of a file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_parquet(path: Path, num_rows: int, columns: Sequence[str]) -> None:
    """See that a file of a set has so many rows, and these columns, of the kind that they must be of.

    Raises:
        SyntheticSetError: it has not, or is no whole Parquet file.
    """
    with opened(path) as parquet:
        found, schema = parquet.metadata.num_rows, parquet.schema_arrow
    if found != num_rows:
        raise SyntheticSetError(f"{path} has {found:,} rows, and must have {num_rows:,}. Remedy: {WHOLE_COPY}.")
    for name in columns:
        fits = KINDS.get(name, lambda kind: pa.types.is_integer(kind) or pa.types.is_boolean(kind))
        if name not in schema.names or not fits(schema.field(name).type):
            said = f"of type {schema.field(name).type}" if name in schema.names else "missing"
            raise SyntheticSetError(f"{path}: the column {name!r} is {said}. Remedy: {WHOLE_COPY}.")


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file of a set; an error of Arrow, also while it is read, names the file.

    Raises:
        SyntheticSetError: it is not whole, or its bytes are not what they should be.
        OSError: it is out of reach, which is no fault of its own.
    """
    try:
        with pq.ParquetFile(path) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise SyntheticSetError(f"{path} is no whole Parquet file ({said}). Remedy: {WHOLE_COPY}.") from error


def read_columns(path: Path, columns: Sequence[str], group: int | None = None) -> pa.Table:
    """Columns of a file of a set, or of one of its row groups, checked down to their bytes; raises as `opened`."""
    with opened(path) as parquet:
        if group is None:
            table = parquet.read(list(columns), use_threads=False)
        else:
            table = parquet.read_row_group(group, list(columns), use_threads=False)
        table.validate(full=True)
        return table


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


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
