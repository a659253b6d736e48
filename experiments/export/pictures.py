"""Images and masks out of shards as files, whole or not there: bytes as they are, or as PNG with the same pixels."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image
from tqdm import tqdm

from callbacks.files import own_folder, write_atomically
from datamodules.files import WHOLE_COPY, safe_name
from datamodules.image_files import without_metadata
from datamodules.images import ImageError, read_image
from datamodules.synthetic import SyntheticSet, SyntheticSetError
from datamodules.synthetic.tables import opened, read_columns
from experiments.export.layouts import Layout
from experiments.export.masks import MaskValues

BEGINNINGS = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff", "webp": b"RIFF"}  # of a file, by its format
FORMATS = {".png": "png", ".jpg": "jpeg", ".webp": "webp"}
END_OF_PNG = b"\0\0\0\0IEND\xaeB`\x82"
END_OF_JPEG = b"\xff\xd9"
RGB_OF_8_BITS = b"\x08\x02"  # at byte 24 of a PNG


class Written(NamedTuple):
    """Images that were written, and that were there already."""

    num_new: int
    num_there: int


class Rows(NamedTuple):
    """What the rows of a table of a shard are of: lists of one length, with paths below the root of the layout."""

    indices: list[int]
    ids: list[str]
    paths: list[str]
    masks: list[str]  # paths of their masks, [] for a layout without
    kept: list[int]  # their places among the rows of the table

    def files(self, root: Path) -> list[list[Path]]:
        """Where the files of each row lie: its image and, in a layout with masks, its mask."""
        lists = [self.paths, self.masks] if self.masks else [self.paths]
        return [[root / path for path in paths] for paths in zip(*lists, strict=True)]


def rows_of(table: pa.Table, layout: Layout, format: str, only_accepted: bool, file: Path, first: int) -> Rows:
    """The rows of a table of `columns(…)` that are written, and where to: below the root, whatever the table says.

    Args:
        file: the shard that the table is of, for messages.
        first: number of the image in its first row.

    Raises:
        SyntheticSetError: images that are not numbered one after the other, or ids that are no names of files.
    """
    indices, ids = table.column("index").to_pylist(), table.column("id").to_pylist()
    for row, (index, name) in enumerate(zip(indices, ids, strict=True)):
        if index != first + row:
            raise SyntheticSetError(f"{file}: the index of image {first + row} is {index!r}. Remedy: {WHOLE_COPY}.")
        try:
            safe_name(name, f"{file}, id of image {index}")
        except ValueError as error:
            raise SyntheticSetError(str(error)) from None
    if len(set(ids)) < len(ids):
        raise SyntheticSetError(f"{file} has an id twice. Remedy: {WHOLE_COPY}.")
    kept = list(range(table.num_rows))
    if only_accepted:
        accepted = table.column("accepted").to_pylist()
        kept = [row for row in kept if accepted[row]]
    indices, ids = [indices[row] for row in kept], [ids[row] for row in kept]
    ending = layout.endings[format]
    named = list(zip(indices, ids, strict=True))
    masks = [f"{place}.png" for place in (layout.mask_place(*one) for one in named) if place is not None]
    return Rows(indices, ids, [layout.place(*one) + ending for one in named], masks, kept)


def columns(only_accepted: bool) -> list[str]:
    """What `rows_of` reads."""
    return ["index", "id", *(["accepted"] if only_accepted else [])]


def write_pictures(
    dataset: SyntheticSet,
    layout: Layout,
    root: Path,
    only_accepted: bool,
    num_workers: int | None,
    values: MaskValues | None = None,
) -> Written:
    """Write every image, and its mask where the layout has masks, that is not there whole; in memory is one row group.

    Args:
        values: how levels of masks are written; None for a layout without.

    Raises:
        SyntheticSetError: bytes that are no image of the format that the recipe names; names the file and the image.
        ValueError: a folder of the layout is a link.
        OSError: what the disk says.
    """
    format = dataset.recipe["image"]["format"]
    num_new = num_there = 0
    bar = tqdm(total=dataset.num_images, desc="writing images", unit="image", mininterval=0.5, dynamic_ncols=True)
    with ThreadPoolExecutor(num_workers) as threads, bar:
        for number, file in enumerate(dataset.shards):
            for group, first, table in _groups(file, columns(only_accepted), dataset.bounds(number)[0]):
                rows = rows_of(table, layout, format, only_accepted, file, first)
                for folder in {str(Path(path).parent) for path in (*rows.paths, *rows.masks)}:
                    own_folder(root, folder)
                files = rows.files(root)
                whole = list(threads.map(lambda paths: all(map(is_whole, paths)), files))
                absent = [place for place, there in enumerate(whole) if not there]
                if absent:
                    contents = [_pixels(file, group, name) for name in ("image", "mask")[: len(files[0])]]
                    work = [
                        (files[n], [pixels[rows.kept[n]] for pixels in contents], f"{file}, id {rows.ids[n]!r}")
                        for n in absent
                    ]
                    list(threads.map(lambda one: _write(*one, format, values), work))
                num_new, num_there = num_new + len(absent), num_there + len(whole) - len(absent)
                bar.update(table.num_rows)
    return Written(num_new, num_there)


def _write(paths: list[Path], contents: list[pa.Scalar], origin: str, format: str, values: MaskValues | None) -> None:
    """Write an image, and its mask where the layout has masks."""
    if values is None:
        write_picture(*paths, *contents, origin, format)
    else:
        write_pair(*paths, *contents, origin, format, values)


def _groups(file: Path, names: list[str], first: int) -> Iterator[tuple[int, int, pa.Table]]:
    """Number, first image and columns of every row group of a shard that begins with image `first`."""
    with opened(file) as parquet:
        num_groups = parquet.metadata.num_row_groups
    for group in range(num_groups):
        table = read_columns(file, names, group)
        yield group, first, table
        first += table.num_rows


def _pixels(file: Path, group: int, column: str) -> pa.Array:
    """The bytes of every image or mask of a row group."""
    return read_columns(file, [f"{column}.bytes"], group).column(column).combine_chunks().field("bytes")


def write_picture(path: Path, pixels: pa.Scalar, origin: str, format: str) -> None:
    """Write an image; `format` is that of its bytes, and the path's ending says what the file is to be.

    Raises:
        SyntheticSetError: the bytes are of another format, or cannot be decoded; says where they are from.
    """
    content = _content(pixels, origin, format)
    if FORMATS[path.suffix] == format:
        write_atomically(path, lambda temporary: temporary.write_bytes(content))
    else:
        write_atomically(path, Image.fromarray(_decoded(content, origin)).save)


def write_pair(
    path: Path, mask_path: Path, pixels: pa.Scalar, mask: pa.Scalar, origin: str, format: str, values: MaskValues
) -> None:
    """Write an image as a PNG of red, green and blue with 8 bits each, and its mask as a grey PNG.

    The bytes of an image that is such a PNG stay as they are.

    Raises:
        SyntheticSetError: as `write_picture`; a mask that cannot be used, or of another size than its image.
        ValueError: as MaskValues has it.
    """
    content = _content(pixels, origin, format)
    rgb, greys = _decoded(content, origin), values.decoded(mask.as_py() or b"", origin)
    if rgb.shape[:2] != greys.shape:
        sizes = " x ".join(map(str, greys.shape[::-1])), " x ".join(map(str, rgb.shape[1::-1]))
        raise SyntheticSetError(
            f"{origin}: the mask has {sizes[0]} pixels, and the image {sizes[1]}. Remedy: {WHOLE_COPY}."
        )
    if format == "png" and content[24:26] == RGB_OF_8_BITS and without_metadata(content).content == content:
        write_atomically(path, lambda temporary: temporary.write_bytes(content))
    else:
        write_atomically(path, Image.fromarray(rgb).save)
    write_atomically(mask_path, Image.fromarray(greys).save)


def _content(pixels: pa.Scalar, origin: str, format: str) -> bytes:
    """The bytes of an image of this format; raises SyntheticSetError where they are of another."""
    content = pixels.as_py() if pixels.is_valid else b""
    if not content.startswith(BEGINNINGS[format]):
        raise SyntheticSetError(
            f"{origin}: the bytes are no {format}, which the recipe says they are. Remedy: SyntheticSet.verify tells "
            "which shards are damaged; take them from a whole copy."
        )
    return content


def _decoded(content: bytes, origin: str) -> np.ndarray:
    """The pixels uint8 [H, W, 3] of an image; raises SyntheticSetError where it cannot be decoded."""
    try:
        return read_image(io.BytesIO(content))
    except ImageError as error:
        raise SyntheticSetError(f"{origin}: cannot be decoded ({error}). Remedy: {WHOLE_COPY}.") from error


def is_whole(path: Path) -> bool:
    """Whether a file is there and ends as its format does."""
    try:
        with open(path, "rb") as file:
            if path.suffix == ".webp":
                head = file.read(8)
                return head[:4] == b"RIFF" and int.from_bytes(head[4:], "little") + 8 == path.stat().st_size
            end = END_OF_PNG if path.suffix == ".png" else END_OF_JPEG
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - len(end)))
            return file.read() == end
    except FileNotFoundError:
        return False
