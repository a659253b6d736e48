"""What a source of images is, and what every source that reads files from a root folder shares."""

import hashlib
import os
import stat
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from datamodules.images import VERSION, detect_field_of_view, read_image, square_crop
from datamodules.manifest import Manifest, ManifestError

MOST_NAMED = 5  # files that are not there
EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm")


@runtime_checkable
class Source(Protocol):
    """What the datamodule needs of a dataset. It must be picklable: images are read in other processes."""

    name: str

    def index(self) -> Manifest:
        """One row an image; paths relative to the root; the official split, or "" where there is none."""

    def read(self, path: str, image_size: int) -> np.ndarray:
        """The image at a path of the index as uint8 [S, S, 3]; raises ImageError or NotAFundusError with the reason."""

    def identity(self) -> str:
        """A string that changes whenever the pixels that `read` returns may have changed."""


class FileSource:
    """A source whose images are files below `root`. A subclass gives `name`, `about` and `_index`.

    `about` says where the data come from and how they lie; a missing root is answered with it.
    """

    name = ""
    about = ""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._manifest: Manifest | None = None
        self._stamp = ""

    def _index(self) -> Manifest:
        raise NotImplementedError

    def index(self) -> Manifest:
        """Read and check the index, once: afterwards every path is known to lie below the root and to exist."""
        if self._manifest is None:
            if not self.root.is_dir():
                state = "is not a folder" if self.root.exists() else "does not exist"
                raise FileNotFoundError(f"data.root is {str(self.root)!r}, which {state}. {self.about}")
            manifest = self._index()
            self._stamp = self._confine(manifest)
            self._manifest = manifest
        return self._manifest

    def identity(self) -> str:
        """A hash of the names, sizes and times of change of the files, and of the version of the cropping code."""
        self.index()
        return f"images-v{VERSION}-{self._stamp}"

    def read(self, path: str, image_size: int) -> np.ndarray:
        """Read, find the field of view, crop to it and resample to uint8 [S, S, 3]."""
        rgb = self._pixels(path, image_size)
        return square_crop(rgb, detect_field_of_view(rgb), image_size)

    def _pixels(self, path: str, image_size: int) -> np.ndarray:
        return read_image(self.root / path, min_side=max(2 * image_size, 256))

    def _where(self, row: int, path: str) -> str:
        """How a row is named in an error."""
        return f"{self.name}: row {row}, path {path!r}"

    def _confine(self, manifest: Manifest) -> str:
        """Check that every file exists and lies below the root, links followed; hash names, sizes and times."""
        home = os.path.realpath(self.root)
        folders: dict[str, bool] = {}
        digest = hashlib.blake2b(digest_size=16)
        absent: list[str] = []  # the first of them
        num_absent = 0
        files = list(enumerate(manifest.paths))
        if "mask" in manifest.table.column_names:
            masks = enumerate(manifest.table.column("mask").to_pylist())
            files += [(row, part) for row, mask in masks if mask for part in mask.split("|")]
        for row, path in files:
            full = os.path.join(home, path)
            folder = os.path.dirname(full)
            if folder not in folders:
                folders[folder] = _below(os.path.realpath(folder), home)
            try:
                state = os.lstat(full)
                inside = folders[folder]
                if stat.S_ISLNK(state.st_mode):
                    inside = inside and _below(os.path.realpath(full), home)
                    state = os.stat(full)
            except OSError as error:
                num_absent += 1
                if num_absent <= MOST_NAMED:
                    absent.append(f"{self._where(row, path)}: there is no such file below {home!r} ({error.strerror})")
                if num_absent == 1:
                    absent[0] += _nearly(full, path)
                continue
            if not inside:
                raise ManifestError(
                    f"{self._where(row, path)}: it is a link that leads outside the root {home!r}. Remedy: copy the "
                    "file below the root, or point data.root at a folder that holds both."
                )
            digest.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
        if absent:
            raise ManifestError(
                f"{absent[0]}. Remedy: correct the path, add the file, or point data.root at the folder that holds it."
                f"{_others(absent[1:], num_absent, len(files))}"
            )
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Without the index, which the processes that only read images do not need."""
        return {**self.__dict__, "_manifest": None}


def _nearly(full: str, path: str) -> str:
    """What may be meant by the path of a file that is not there, or nothing."""
    if "\\" in path:
        return "; folders are parted by /, not by \\"
    folder, name = os.path.split(full)
    try:
        there = os.listdir(folder)
    except OSError:
        return ""
    same = [one for one in there if one.lower() == name.lower()]
    same += [one for one in there if os.path.splitext(one)[0].lower() == os.path.splitext(name)[0].lower()]
    return f"; perhaps {same[0]!r} is meant" if same else ""


def _others(absent: list[str], num_absent: int, num_files: int) -> str:
    """That more files are not there, and the first of them."""
    if not absent:
        return ""
    first = "".join(f"\n  {where}" for where in absent)
    return f" In all {num_absent} of {num_files} files are not there; the next are:{first}"


def _below(path: str, home: str) -> bool:
    return path == home or path.startswith(home.rstrip(os.sep) + os.sep)


def _refuse(error: OSError) -> None:
    raise error


def list_images(root: str | Path) -> list[str]:
    """Paths of the image files below a folder, relative to it with `/`, sorted; hidden files and folders left out.

    Raises OSError for a folder that cannot be read, ManifestError for a link to a folder: neither is left out silently.
    """
    found = []
    for folder, names, files in os.walk(root, onerror=_refuse, followlinks=False):
        names[:] = sorted(n for n in names if not n.startswith((".", "__MACOSX")))
        for linked in (os.path.join(folder, name) for name in names if os.path.islink(os.path.join(folder, name))):
            raise ManifestError(f"{linked!r} is a link to a folder. Remedy: put the folder itself there, or remove it.")
        for name in files:
            if not name.startswith(".") and name.lower().endswith(EXTENSIONS):
                found.append(os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/"))
    return sorted(found)
