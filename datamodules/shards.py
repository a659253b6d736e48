"""Parquet shards of images, as Hugging Face datasets stores them: finding, checking and reading them, never unpacking.

A folder holds `shard-00000-of-00008.parquet` …, a row an image: `image` struct<bytes: binary, path: string> (a PNG,
JPEG or WebP file of a square fundus image), `id` text, findings by their names (-1 or null unknown), and perhaps
`patient`, `split` and `mask`. A mask is a picture as `image` is: a PNG of levels, 255 for unknown, whose names the
file's metadata hold (`mask_levels`, a JSON list, background first). Where the split is blank or not there, a file's
name may tell it: `train-…`, `validation-…`, `test.parquet`, or that of its folder, `test/0000.parquet`
(shard_files.py). Other columns, such as the `seed` that an image was generated from, are left alone. A row group is
the least that can be read: one of about 100 images, as Hugging Face datasets writes them, lets readers shuffle well in
little memory. A file's footer is parsed for each row group that is read, 50 ms where it lists 1250 of them: files of
1 GB are better than larger ones.
"""

import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.columns import text
from datamodules.errors import nearest
from datamodules.findings import NAMES, UNKNOWN
from datamodules.images import VERSION, ImageError, read_image, resize, resize_levels
from datamodules.manifest import Manifest
from datamodules.masks import decode_levels
from datamodules.parquet import open_parquet
from datamodules.shard_files import ABOUT, ShardError, find_shards, split_of_name, warn_of_names
from datamodules.sources.people import MOST_NAMES, warn_of_eyes

log = logging.getLogger(__name__)

PIXELS, MASK = "image.bytes", "mask.bytes"  # the one field of the columns `image` and `mask` that is read
REMEDY = "copy or write it again; or move it out of the folder if it is no shard"


@dataclass(frozen=True)
class RowGroups:
    """Every row group of all shards, in order: arrays int64 [G].

    `shard` is the place in the list of files, `number` the row group's number in its file, `first_row` its first row
    among all rows, `num_bytes` its size in memory, images undecoded.
    """

    shard: np.ndarray
    number: np.ndarray
    first_row: np.ndarray
    num_rows: np.ndarray
    num_bytes: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)


@dataclass(frozen=True)
class Footers:
    """What the ends of the files say: their paths, the row groups, the columns to read, a digest of the footers.

    `mask_levels` are the names of the levels of masks, () where there are none.
    `identity` covers names, sizes and times of change of the files; `digest` is the same on another machine.
    """

    files: tuple[Path, ...]
    groups: RowGroups
    columns: tuple[str, ...]
    identity: str
    digest: str
    mask_levels: tuple[str, ...] = ()


class ShardSource:
    """The shards below `root`. With `partial` some of a numbered set may be missing, as after a partial download.

    It is a Source: besides streaming (streaming.py), a small set can be cached and joined with others like any other.
    """

    name = "shards"

    def __init__(self, root: str | Path, partial: bool = False) -> None:
        self.root = Path(root)
        self.partial = partial
        self._footers: Footers | None = None
        self._manifest: Manifest | None = None
        self._last: tuple[int, pa.Table] | None = None  # the row group that `read` read last
        self.rows: np.ndarray | None = None  # of all rows of the shards those that `index` has, ascending; None: all

    def __getstate__(self) -> dict[str, Any]:
        """Without the index, which the processes that only read images do not need."""
        return {**self.__dict__, "_manifest": None, "_last": None}

    @property
    def footers(self) -> Footers:
        """The ends of all files, read and checked once.

        Raises ShardError for a file that is missing from its numbered set, truncated, not Parquet, or of other columns.
        """
        if self._footers is None:
            self._footers = read_footers(find_shards(self.root, self.partial))
        return self._footers

    @property
    def mask_levels(self) -> tuple[str, ...]:
        """Names of the levels of masks, background first; () where there are none."""
        return self.footers.mask_levels

    def index(self) -> Manifest:
        """One row an image, with the split that its column or its file's name tells; the path is `<file>#<row>`.

        Reads the texts and numbers, no image. A million rows take 0.1 GB, while they are read 0.5 GB, and 6 seconds on
        one core. Raises ManifestError for a level that a finding does not have, or an id that is blank or there twice;
        names the file, the row, the column.
        """
        if self._manifest is None:
            if "split" not in self.footers.columns:
                warn_of_names(self.footers.files, self.root)
            parts = pa.concat_tables([self._index_of(file) for file in self.footers.files])
            self._manifest = Manifest.from_table(parts, origin=f"{self.root}, all shards in their order")
            if "patient" not in self.footers.columns:
                ids = self._manifest.table.column("id").slice(0, MOST_NAMES).to_pylist()
                warn_of_eyes(str(self.root), ids, ids, ". Remedy: a column 'patient'.")
        return self._manifest

    def _index_of(self, file: Path) -> pa.Table:
        """Columns id, path and findings of one shard, checked."""
        table = self._columns(file)
        place = pa.scalar(f"{file.relative_to(self.root).as_posix()}#")
        rows = pc.cast(pa.array(np.arange(table.num_rows)), pa.string())
        table = table.append_column("path", pc.binary_join_element_wise(place, rows, ""))
        table = table.append_column("source", pa.repeat(pa.scalar(self.name), table.num_rows))
        if self.mask_levels:
            table = table.append_column("mask", table.column("path"))
        table = _with_split(table, file, self.root)
        checked = Manifest.from_table(table, origin=str(file)).table
        return checked if "patient" in table.column_names else checked.drop_columns("patient")

    def _columns(self, file: Path) -> pa.Table:
        """What there is of one shard besides images."""
        wanted = [name for name in self.footers.columns if name not in (PIXELS, MASK)]
        with open_parquet(file, ShardError, REMEDY) as parquet:
            return parquet.read(wanted)

    def identity(self) -> str:
        """A hash of the names, sizes and times of change of the files, and of the version of the reading code."""
        return f"images-v{VERSION}-{self.footers.identity}"

    def read(self, path: str, image_size: int) -> np.ndarray:
        """The image at a path of the index as uint8 [S, S, 3]; rows that follow each other are read fast.

        Raises ShardError for one that cannot be decoded or is not square.
        """
        return self.decode(*self._found(path), image_size)

    def read_mask(self, path: str, mask: str, image_size: int) -> np.ndarray:
        """The levels of an image's mask, uint8 [S, S], 255 for unknown; `mask` is the path once more.

        Raises ShardError for one that cannot be decoded, or has another size than its image.
        """
        return self.decode_mask(*self._found(path), image_size)

    def _found(self, path: str) -> tuple[int, pa.Table, int]:
        """The row group of a path of the index, its table, and the row in it; the last group that was read is kept."""
        name, _, row = path.rpartition("#")
        shards = [file.relative_to(self.root).as_posix() for file in self.footers.files]
        groups = self.footers.groups
        inside = np.flatnonzero(groups.shard == shards.index(name))
        row = int(row) + int(groups.first_row[inside[0]])
        group = int(inside[np.searchsorted(groups.first_row[inside], row, side="right") - 1])
        if self._last is None or self._last[0] != group:
            self._last = (group, self.read_group(group))
        return group, self._last[1], row - int(groups.first_row[group])

    def read_group(self, group: int) -> pa.Table:
        """One row group: `image` undecoded, `id`, and the findings that the shards have."""
        footers = self.footers
        file, number = footers.files[footers.groups.shard[group]], int(footers.groups.number[group])
        with open_parquet(file, ShardError, REMEDY) as parquet:
            table = parquet.read_row_group(number, columns=list(footers.columns), use_threads=False)
        if table.num_rows != footers.groups.num_rows[group]:
            raise ShardError(f"{str(file)!r} has changed since it was opened. Remedy: start again, resume=auto.")
        place = table.column_names.index("id")
        return table.set_column(place, "id", text(table.column("id").chunks)).combine_chunks()

    def decode(self, group: int, table: pa.Table, row: int, image_size: int) -> np.ndarray:
        """The image in a row of `read_group`, uint8 [S, S, 3]; by area where it shrinks, cubic where it grows.

        Raises ShardError for one that is empty, cannot be decoded or is not square.
        """
        with self._naming(group, table, row, "image"):
            rgb = read_image(io.BytesIO(_bytes(table, "image", row)), min_side=max(2 * image_size, 256))
            if rgb.shape[0] != rgb.shape[1]:
                raise ImageError(f"it is {rgb.shape[1]} x {rgb.shape[0]} pixels, and must be square")
        return resize(rgb, image_size)

    def decode_mask(self, group: int, table: pa.Table, row: int, image_size: int) -> np.ndarray:
        """The mask in a row of `read_group`, levels uint8 [S, S], 255 for unknown.

        Raises ShardError for one that is empty, cannot be decoded, is not square or has a level without a name.
        """
        with self._naming(group, table, row, "mask"):
            mask = decode_levels(_bytes(table, "mask", row).to_pybytes(), len(self.mask_levels))
            if mask.shape[0] != mask.shape[1]:
                raise ImageError(f"it is {mask.shape[1]} x {mask.shape[0]} pixels, and must be square")
        return resize_levels(mask, image_size)

    @contextmanager
    def _naming(self, group: int, table: pa.Table, row: int, what: str) -> Iterator[None]:
        """Raise ShardError with file, row and id for a picture that cannot be used."""
        try:
            yield
        except ImageError as error:
            footers = self.footers
            name, place = table.column("id")[row].as_py(), int(footers.groups.first_row[group]) + row
            shard = footers.groups.shard[group]
            place -= int(footers.groups.first_row[np.searchsorted(footers.groups.shard, shard)])
            raise ShardError(
                f"{str(footers.files[shard])!r}, row {place}, id {name!r}: the {what} cannot be used: {error}. "
                f"Remedy: write this shard again, without the row or with a whole, square {what}."
            ) from error


def _bytes(table: pa.Table, column: str, row: int) -> pa.Buffer:
    """The file of a picture. Raises ImageError where there is none."""
    pixels = table.column(column).chunk(0).field("bytes")[row]
    if not pixels.is_valid:
        raise ImageError("it holds no bytes (only a path, perhaps)")
    return pixels.as_buffer()


def _with_split(table: pa.Table, file: Path, root: Path) -> pa.Table:
    """The rows of a shard below `root`, of which those without a split have that of the file's or folder's name."""
    if "split" not in table.column_names:
        return table.append_column("split", pa.repeat(pa.scalar(split_of_name(file, root)), table.num_rows))
    given = text(table.column("split").chunks)
    nothing = pc.equal(given, "")
    if not pc.any(nothing).as_py():
        return table
    filled = pc.if_else(nothing, split_of_name(file, root), given)
    return table.set_column(table.column_names.index("split"), "split", filled)


def labels_of(table: pa.Table, rows: np.ndarray) -> np.ndarray:
    """Labels of rows of `ShardSource.read_group`, int64 [len(rows), F]; what is null or not there is unknown."""
    labels = np.full((len(rows), len(NAMES)), UNKNOWN, dtype=np.int64)
    for column, name in enumerate(NAMES):
        if name in table.column_names and not pa.types.is_null(table.schema.field(name).type):
            values = table.column(name).chunk(0).take(pa.array(rows)).cast(pa.float64())
            labels[:, column] = np.nan_to_num(pc.fill_null(values, UNKNOWN).to_numpy(), nan=UNKNOWN)
    return labels


def read_footers(files: Sequence[Path]) -> Footers:
    """Read the footer of every file, and check its columns against those of the first.

    Raises ShardError for a file that is truncated, not Parquet, or of other columns; OSError for one out of reach.
    """
    identity, digest = (hashlib.blake2b(digest_size=16) for _ in range(2))
    columns, levels = (), ()
    groups: list[tuple[int, int, int, int]] = []
    for place, file in enumerate(files):
        state = os.stat(file)
        identity.update(f"{file.name}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
        with open_parquet(file, ShardError, REMEDY) as parquet:
            metadata, schema = parquet.metadata, parquet.schema_arrow
        columns = _check_columns(file, schema, files[0], columns)
        levels = _check_levels(file, schema, files[0], levels) if MASK in columns else ()
        digest.update(f"{file.name}\0{metadata.num_rows}\0{_footer(file, state.st_size)}\n".encode())
        parts = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        groups += [(place, n, part.num_rows, part.total_byte_size) for n, part in enumerate(parts) if part.num_rows]
    if not groups:
        raise ShardError(f"the {len(files)} shards in {str(files[0].parent)!r} have no rows. {ABOUT}")
    shard, number, num_rows, num_bytes = np.array(groups, dtype=np.int64).T
    arrays = RowGroups(shard, number, np.cumsum(num_rows) - num_rows, num_rows, num_bytes)
    return Footers(tuple(files), arrays, columns, identity.hexdigest(), digest.hexdigest(), levels)


def _check_levels(file: Path, schema: pa.Schema, first: Path, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the levels of a file's masks, which must be those of the first (`wanted`, unless this is the first)."""
    told = (schema.metadata or {}).get(b"mask_levels", b"")
    try:
        levels = tuple(json.loads(told))
    except ValueError:
        levels = ()
    if len(levels) < 2 or not all(isinstance(name, str) for name in levels):
        raise ShardError(
            f"{str(file)!r} has a column 'mask', and its metadata name no levels: mask_levels is {told[:100]!r}, and "
            'must be a JSON list such as ["background", "vessel"]. Remedy: write it again so, or without masks.'
        )
    if wanted and levels != wanted:
        raise ShardError(
            f"{str(file)!r} has masks with the levels {', '.join(levels)}, and {first.name} has {', '.join(wanted)}. "
            "Remedy: shards of one folder have the same levels; move those of another set to a folder of their own."
        )
    return levels


def _footer(file: Path, num_bytes: int) -> str:
    """A hash of a file's footer, which holds the place and the size of every page."""
    with open(file, "rb") as opened:
        opened.seek(num_bytes - 8)
        length = int.from_bytes(opened.read(4), "little")
        opened.seek(num_bytes - 8 - length)
        return hashlib.blake2b(opened.read(length), digest_size=16).hexdigest()


def _check_columns(file: Path, schema: pa.Schema, first: Path, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The columns to read of a file, which must be those of the first (`wanted`, unless this is the first)."""
    for name in ("image", "id"):
        if name not in schema.names:
            raise ShardError(
                f"{str(file)!r} has no column {name!r}; its columns are: {', '.join(schema.names)}. Remedy: write it "
                "again with image and id; or move it out of the folder if it is no shard."
            )
    _check_image(file, schema.field("image").type)
    masks = (MASK,) if "mask" in schema.names and _is_picture(schema.field("mask").type) else ()
    columns = ("id", PIXELS, *masks, *(name for name in ("patient", "split", *NAMES) if name in schema.names))
    for name in (*wanted, *columns):
        if wanted and (name in wanted) != (name in columns):
            there, here = (first, file) if name in wanted else (file, first)
            raise ShardError(
                f"{str(here)!r} has no column {name!r}, which {there.name} has. Remedy: shards of one folder have the "
                "same columns: write it again, or move those of another set to a folder of their own."
            )
    if not wanted:
        for name in set(schema.names) - set(columns):
            if near := nearest(name, NAMES, cutoff=0.85):
                log.warning("%s: column %r is not used; did you mean %r?", file, name, near[0])
    return columns


def _is_picture(kind: pa.DataType) -> bool:
    """Whether cells of this type hold the bytes of a picture."""
    fields = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
    pixels = fields.get("bytes", pa.null())
    return pa.types.is_binary(pixels) or pa.types.is_large_binary(pixels)


def _check_image(file: Path, kind: pa.DataType) -> None:
    if not _is_picture(kind):
        raise ShardError(
            f"{str(file)!r}: the column 'image' is of type {kind}, and must be struct<bytes: binary, path: string> "
            "with the bytes of a PNG, JPEG or WebP file. Remedy: write it again so, as Image of Hugging Face datasets."
        )
