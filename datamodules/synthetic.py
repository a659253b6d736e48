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
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

FORMAT = 1
RECIPE, MANIFEST, PLAN = "recipe.json", "manifest.json", "plan.parquet"
ID_DIGITS = 8  # of the recipe's hash, in front of an image's number


class SyntheticSetError(ValueError):
    """A folder that is no synthetic set, or not a whole one; the message says what is wrong with it, and the remedy."""


class SyntheticSet:
    """A set made by `+exp=synthesize`, whole or in the making.

    Args:
        root: its folder.

    Raises:
        FileNotFoundError: no such folder, or no recipe in it.
        SyntheticSetError: a recipe that cannot be read, or of another version.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        path = self.root / RECIPE
        if not path.is_file():
            raise FileNotFoundError(
                f"{str(self.root)!r} is no synthetic set: there is no {RECIPE} in it. Remedy: name the output folder "
                "of +exp=synthesize."
            )
        self.recipe = _read(path)
        if self.recipe.get("format") != FORMAT:
            raise SyntheticSetError(f"{path}: its format is {self.recipe.get('format')!r}, and {FORMAT} is known here.")

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
            SyntheticSetError: the set is not complete.
        """
        path = self.root / MANIFEST
        if not path.is_file():
            there = sum(shard.is_file() for shard in self.shards)
            raise SyntheticSetError(
                f"{str(self.root)!r} is incomplete: {there} of {len(self.names)} shards are there, and no {MANIFEST}. "
                "Remedy: go on making it, by the same command with resume=auto."
            )
        return _read(path)

    def checksum(self, name: str) -> dict[str, Any] | None:
        """What was written of a shard: file, sha256, num_rows, num_bytes; None where that is not to be read."""
        path = self.root / "checksums" / f"{name}.json"
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):  # it is not there, or was cut short
            return None
        return (
            found if isinstance(found, dict) and found.keys() >= {"file", "sha256", "num_rows", "num_bytes"} else None
        )

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


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SyntheticSetError(f"{path} cannot be read ({error}). Remedy: take it from a whole copy.") from error
