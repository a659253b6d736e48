"""What the readers of public datasets share: where the data come from, what is published of them, and how they lie.

A reader states its layout, licence, address, label rules and published counts, and gives `_table`. Whatever is not as
described is an error that says what was looked for, what was found, and where to get the data.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.findings import NAMES, nearest
from datamodules.images import (
    FieldOfView,
    NotAFundusError,
    crop_levels,
    detect_field_of_view,
    read_image,
    square_crop,
    whole_frame,
    whole_levels,
)
from datamodules.manifest import SPLITS, Manifest, ManifestError
from datamodules.sources.base import EXTENSIONS, FileSource, list_images
from datamodules.sources.csv import read_table
from datamodules.sources.harmonise import Rule, harmonise

log = logging.getLogger(__name__)

KEPT = ("id", "path", "patient", "split", "mask")


class LayoutError(ManifestError):
    """Data that do not lie as their source describes: what was looked for, what was found, where to get it."""


class PublicSource(FileSource):
    """A public dataset below `root`. A subclass states the attributes and gives `_table`.

    Args:
        root: the folder that holds what `layout` describes.
        partial: put up with rows whose image is not there; they are left out and counted in the log. Otherwise the
            first of them is an error.

    Attributes:
        title: the dataset's own name.
        licence, address: on which terms, and where it is to be had.
        layout: what the root should hold, in a sentence's half: "train_images/ and train.csv".
        trap: what a careless reader gets wrong, and this one handles.
        rules: from the columns of `_table` to our findings.
        published: counts that the authors, or who counted, give: keys `images`, `patients`, `train`, `val`, `test`, or
            `<finding>=<level>`.
        frame: "disc" crops to the field of view and refuses an image that shows none; "either" keeps such an image
            whole, for sets that hold crops; "whole" looks for none, for sets that show no fundus.
        mask_levels: names of the values of a mask, background first; empty where there are no masks.
        patient_space: datasets with the same one number the same people alike, so that a union keeps them together.
    """

    title = ""
    licence = ""
    address = ""
    layout = ""
    trap = ""
    rules: Sequence[Rule] = ()
    published: Mapping[str, int] = {}
    frame: Literal["disc", "either", "whole"] = "disc"
    mask_levels: tuple[str, ...] = ()
    patient_space = ""

    def __init__(self, root: str | Path, partial: bool = False) -> None:
        super().__init__(root)
        self.partial = partial
        self.differences: dict[str, tuple[int, int]] = {}  # of `published`: found, published

    @property
    def about(self) -> str:
        """How the data lie and where to get them; goes into errors."""
        return f"It should hold {self.layout}. {self.title} is to be had from {self.address}."

    def _table(self) -> pa.Table:
        """One row an image: `id`, `path`, perhaps `patient`, `split`, `mask`, and the rules' columns; all as text."""
        raise NotImplementedError

    def _index(self) -> Manifest:
        table = self._table()
        if table.num_rows == 0:
            raise self.lacks("images", "an image")
        findings = harmonise(self.rules, table, self.title)
        columns = {name: table.column(name) for name in KEPT if name in table.column_names}
        source = pa.array([self.name] * table.num_rows, pa.string())
        manifest = Manifest.from_table(pa.table({**columns, "source": source, **findings}), origin=self.title)
        self._compare(manifest)
        return manifest

    def _compare(self, manifest: Manifest) -> None:
        """Say in the log where the counts differ from the published ones: a part of a set is still a set."""
        found = {key: count(manifest, key) for key in self.published}
        self.differences = {k: (found[k], n) for k, n in self.published.items() if found[k] != n}
        for key, (here, there) in self.differences.items():
            log.warning("%s: %s: %d found, %d published", self.title, key, here, there)

    # -- what subclasses build `_table` with

    def lacks(self, what: str, looked_for: str | Iterable[str], where: Path | None = None) -> LayoutError:
        """The error for a layout that is not as described."""
        where = self.root if where is None else where
        wanted = looked_for if isinstance(looked_for, str) else " or ".join(looked_for)
        here = sorted(entry.name for entry in where.iterdir())[:12] if where.is_dir() else "no such folder"
        return LayoutError(
            f"{self.title}: no {what} in {str(where)!r}: looked for {wanted}. Found: {here}. {self.about}"
        )

    def find(self, what: str, *patterns: str) -> Path:
        """The first file or folder below the root that a pattern matches, capitals or not; raises LayoutError.

        `*` and `?` stand for any characters and any one, as in a shell; `.` is the root itself.
        """
        for pattern in patterns:
            matches = [self.root]
            for part in pattern.split("/"):
                matches = [entry for folder in matches for entry in _entries(folder, part)]
            if matches:
                return matches[0]
        raise self.lacks(what, patterns)

    def read_labels(self, path: Path, *required: str) -> pa.Table:
        """A table of texts with trimmed names and cells; raises LayoutError when a required column is not there."""
        table = read_table(path)
        for name in required:
            if name not in table.column_names:
                near = nearest(name, table.column_names)
                hint = f" Is it {near!r}?" if near else ""
                found = ", ".join(table.column_names)
                raise LayoutError(f"{path} has no column {name!r}.{hint} Its columns are: {found}. {self.about}")
        return table

    def images_below(self, folder: Path) -> dict[str, str]:
        """Path from the root of each image below a folder, by its path from that folder, lower case, no extension.

        Raises LayoutError where two images have the same name but for the extension, or where there is none.
        """
        prefix = folder.relative_to(self.root).as_posix()
        prefix = "" if prefix == "." else f"{prefix}/"
        found: dict[str, str] = {}
        for path in list_images(folder):
            key = stem(path)
            if key in found:
                raise LayoutError(
                    f"{self.title}: {found[key]!r} and {prefix + path!r} are both the image {key!r}. Remedy: remove "
                    "one of them."
                )
            found[key] = prefix + path
        if not found:
            raise self.lacks("images", f"files ending in {', '.join(EXTENSIONS)}", folder)
        return found

    def located(self, table: pa.Table, names: Sequence[str], files: Mapping[str, str], origin: str | Path) -> pa.Table:
        """The table with `path`: the file of each row's name, whatever the extension in either.

        Raises LayoutError for a row without a file unless `partial`, which leaves the row out. Files without a row are
        counted in the log.
        """
        keys = [stem(name) if name.lower().endswith(EXTENSIONS) else name.lower() for name in names]
        paths = [files.get(key) for key in keys]
        missing = [row for row, path in enumerate(paths) if path is None]
        if missing and (not self.partial or len(missing) == len(paths)):
            row = missing[0]
            raise LayoutError(
                f"{origin}, row {row + 2}: there is no image {names[row]!r} ({len(missing)} of {len(paths)} rows have "
                f"no image). Remedy: complete the download, or go on without them: data.partial=true. {self.about}"
            )
        if missing:
            log.warning("%s: %d of %d rows of %s have no image: left out", self.title, len(missing), len(paths), origin)
        unnamed = len(set(files.values()) - set(paths))
        if unnamed:
            log.warning("%s: %d images are in no row of %s: left out", self.title, unnamed, origin)
        kept = table.append_column("path", pa.array(paths, pa.string()))
        return kept.filter(pc.is_valid(kept.column("path")))

    # -- masks

    def mask_level(self, part: str, values: np.ndarray) -> np.ndarray:
        """Levels uint8 [H, W] from the grey values [H, W] of one mask file; by default: brighter than half is 1."""
        return (values > 127).astype(np.uint8)

    def read_mask(self, path: str, mask: str, image_size: int) -> np.ndarray:
        """The mask of an image as uint8 [S, S], cropped as `read` crops the image.

        `mask` is the manifest's cell: one file, or several joined by `|`, of which later ones cover earlier ones.
        """
        rgb = read_image(self.root / path)
        levels = self._painted(mask, rgb.shape[:2])
        fov = self._field_of_view(rgb)
        return whole_levels(levels, image_size) if fov is None else crop_levels(levels, fov, image_size)

    def read(self, path: str, image_size: int) -> np.ndarray:
        """Read and crop as `frame` says, uint8 [S, S, 3]."""
        rgb = self._pixels(path, image_size)
        fov = self._field_of_view(rgb)
        return whole_frame(rgb, image_size) if fov is None else square_crop(rgb, fov, image_size)

    def _field_of_view(self, rgb: np.ndarray) -> FieldOfView | None:
        if self.frame == "whole":
            return None
        try:
            return detect_field_of_view(rgb)
        except NotAFundusError:
            if self.frame == "disc":
                raise
            return None

    def _painted(self, mask: str, shape: tuple[int, int]) -> np.ndarray:
        levels = np.zeros(shape, dtype=np.uint8)
        for part in mask.split("|"):
            values = read_image(self.root / part).max(axis=2)
            if values.shape != shape:
                raise ManifestError(
                    f"{self.title}: mask {part!r} has {values.shape[1]} x {values.shape[0]} pixels, its image "
                    f"{shape[1]} x {shape[0]}. Remedy: take image and mask from the same copy of the dataset."
                )
            found = self.mask_level(part, values)
            levels[found > 0] = found[found > 0]
        return levels


def _entries(folder: Path, pattern: str) -> list[Path]:
    if pattern == ".":
        return [folder]
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if fnmatchcase(entry.name.lower(), pattern.lower()))


def stem(path: str) -> str:
    """A path without its extension, lower case: what tables and files are matched by."""
    head, dot, tail = path.rpartition(".")
    return (head if dot and f".{tail.lower()}" in EXTENSIONS else path).lower()


def count(manifest: Manifest, key: str) -> int:
    """Of a manifest: `images`, `patients`, `masks`, a split's images, or the images with `<finding>=<level>`."""
    if key == "images":
        return len(manifest)
    if key == "patients":
        return manifest.num_patients
    if key == "masks":
        column = manifest.table.column("mask") if "mask" in manifest.table.column_names else pa.chunked_array([[""]])
        return pc.sum(pc.not_equal(column, "")).as_py()
    if key in SPLITS:
        return len(manifest.rows(key))
    finding, _, level = key.partition("=")
    assert finding in NAMES, f"published counts name {key!r}"
    return int((manifest.table.column(finding).to_numpy() == int(level)).sum())
