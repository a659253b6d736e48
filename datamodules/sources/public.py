"""What the readers of public datasets share: where the data come from, what is published of them, and how they lie.

A reader states its layout, licence, address, label rules and published counts, and gives `_table`. Whatever is not as
described is an error that says what was looked for, what was found, and where to get the data.
"""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.errors import nearest
from datamodules.field_of_view import FieldOfView, NotAFundusError, detect_field_of_view
from datamodules.findings import NAMES
from datamodules.images import read_image, square_crop, whole_frame
from datamodules.manifest import SPLITS, Manifest, ManifestError
from datamodules.sources.base import FileSource
from datamodules.sources.harmonise import WHERE, Rule, harmonise, row_name
from datamodules.sources.listing import EXTENSIONS, entries, list_images, stem, undoubled
from datamodules.sources.mask_files import framed, painted, two_levels
from datamodules.sources.people import warn_of_patients
from datamodules.sources.rows import read_rows
from datamodules.sources.tables import refuse_no_value

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
        field_of_view: of an image that is cropped to its disc, what lies outside is unknown in the mask, and so neither
            learnt nor measured; else it is background.

    Attributes:
        title: the dataset's own name.
        licence, address: on which terms, and where it is to be had.
        layout: what the root should hold, in a sentence's half: "train_images/ and train.csv".
        trap: what a careless reader gets wrong, and this one handles.
        rules: from the columns of `_table` to our findings.
        published: counts that the authors, or who counted, give: keys `images`, `patients`, `masks` (images that have
            one), `train`, `val`, `test`, or `<finding>=<level>`.
        frame: "disc" crops to the field of view and refuses an image that shows none; "either" keeps such an image
            whole, for sets that hold crops; "whole" looks for none, for sets that show no fundus.
        mask_levels: names of the values of a mask, background first; empty where there are no masks.
        patient_space: datasets with the same one number the same people alike, so that a union keeps them together.
        version: raised when the reader gives other pixels or masks of the same files: caches depend on it.
        contains: names of other sources whose images it holds under other patients; a union of both is refused.
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
    contains: tuple[str, ...] = ()
    version = 1

    def __init__(self, root: str | Path, partial: bool = False, field_of_view: bool = False) -> None:
        super().__init__(undoubled(Path(root)))
        self.partial, self.field_of_view = partial, field_of_view
        self.differences: dict[str, tuple[int, int]] = {}  # of `published`: found, published

    @property
    def about(self) -> str:
        """How the data lie and where to get them; goes into errors."""
        return f"It should hold {self.layout}. {self.title} is to be had from {self.address}."

    def _table(self) -> pa.Table:
        """One row an image: `id`, `path`, perhaps `patient`, `split`, `mask`, and the rules' columns; all as text.

        `where`, which `read_labels` gives, names the rows in errors; without it, their paths do.
        """
        raise NotImplementedError

    def _index(self) -> Manifest:
        table = self._table()
        if table.num_rows == 0:
            raise self.lacks("images", "an image")
        if WHERE not in table.column_names:
            table = table.append_column(WHERE, table.column("path"))
        findings = harmonise(self.rules, table, self.title)
        columns = {name: table.column(name) for name in KEPT if name in table.column_names}
        source = pa.array([self.name] * table.num_rows, pa.string())
        rows = pa.table({**columns, "source": source, **findings})
        manifest = Manifest.from_table(rows, origin=self.title, where=table.column(WHERE))
        warn_of_patients(self.title, manifest)
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
        found = self.seek(*patterns)
        if found is None:
            raise self.lacks(what, patterns)
        return found

    def seek(self, *patterns: str) -> Path | None:
        """As `find`, but None where nothing matches."""
        for pattern in patterns:
            matches = [self.root]
            for part in pattern.split("/"):
                matches = [entry for folder in matches for entry in entries(folder, part)]
            if matches:
                return matches[0]
        return None

    def read_labels(self, path: Path, *required: str) -> pa.Table:
        """A CSV or Excel file as texts, names and cells trimmed, and `where`; rows whose cells are all blank left out.

        Raises LayoutError when a required column is not there.
        """
        table = read_rows(path, self.below(path))
        for name in required:
            if name not in table.column_names:
                hint = "".join(f" Is it {near!r}?" for near in nearest(name, table.column_names))
                found = ", ".join(there for there in table.column_names if there != WHERE)
                raise LayoutError(f"{path} has no column {name!r}.{hint} Its columns are: {found}. {self.about}")
        columns = {name: table.column(name) for name in required}
        refuse_no_value(columns, lambda row: row_name(table, row, self.title))
        return table

    def below(self, path: Path) -> str:
        """A path as it is seen from the root, for messages and manifests."""
        return path.relative_to(self.root).as_posix()

    def images_below(self, folder: Path) -> dict[str, str]:
        """Path from the root of each image below a folder, by its path from that folder, lower case, no extension.

        Raises LayoutError where two images have the same name but for the extension, or where there is none.
        """
        folder = undoubled(folder)
        prefix = self.below(folder)
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

        Raises LayoutError for a row without a file unless `partial`, which leaves the row out, and where no row has
        one. Files without a row are counted in the log.
        """
        keys = [stem(name) for name in names]
        paths = [files.get(key) for key in keys]
        missing = [row for row, path in enumerate(paths) if path is None]
        if missing and (not self.partial or len(missing) == len(paths)):
            folders = [os.path.dirname(path) for path in files.values()] or ["."]
            looked = self.root / os.path.commonpath(folders)
            remedy = "complete the download, or go on without them: data.partial=true"
            if len(missing) == len(paths):
                remedy = "point data.root one folder deeper or higher, where these names are"
            raise LayoutError(
                f"{row_name(table, missing[0], self.title)}: there is no image {names[missing[0]]!r} ({len(missing)} "
                f"of {len(paths)} rows of {origin} have no image). Looked in {str(looked)!r}, found "
                f"{sorted(files.values())[:4]}, … Remedy: {remedy}. {self.about}"
            )
        if missing:
            log.warning("%s: %d of %d rows of %s have no image: left out", self.title, len(missing), len(paths), origin)
        unnamed = len(set(files.values()) - set(paths))
        if unnamed:
            log.warning("%s: %d images are in no row of %s: left out", self.title, unnamed, origin)
        kept = table.append_column("path", pa.array(paths, pa.string()))
        return kept.filter(pc.is_valid(kept.column("path")))

    def identity(self) -> str:
        """As that of any source of files, and how this one frames its images and codes its masks."""
        outside = "-fov" if self.field_of_view else ""
        return f"{super().identity()}-{self.frame}-{'|'.join(self.mask_levels)}-v{self.version}{outside}"

    def _where(self, row: int, path: str) -> str:
        return f"{self.title}: {path!r}"

    # -- masks

    def mask_level(self, part: str, values: np.ndarray) -> np.ndarray:
        """Levels uint8 [H, W] from the grey values [H, W] of one mask file; by default: brighter than half is 1."""
        return two_levels(part, values, self.title)

    def read_mask(self, path: str, mask: str, image_size: int) -> np.ndarray:
        """The mask of an image as uint8 [S, S], cropped as `read` crops the image.

        `mask` is the manifest's cell: one file, or several joined by `|`, of which later ones cover earlier ones.
        """
        rgb = read_image(self.root / path)
        levels = self._painted(mask, rgb.shape[:2])
        return framed(self, mask, levels, self._field_of_view(rgb), image_size)

    def _painted(self, mask: str, shape: tuple[int, int]) -> np.ndarray:
        """Levels uint8 of `shape` from the files of a mask; a subclass whose masks are no pictures has its own."""
        return painted(self, mask, shape)

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
