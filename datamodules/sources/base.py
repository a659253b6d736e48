"""What a source of images is, and what every source that reads files from a root folder shares."""

import errno
import filecmp
import hashlib
import os
import stat
import unicodedata
from array import array
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import unquote

import numpy as np

from datamodules.field_of_view import detect_field_of_view
from datamodules.images import VERSION, read_image, square_crop
from datamodules.manifest import Manifest, ManifestError

MOST_NAMED = 5  # files that are not there
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)  # of a path; any other error may pass


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
        self.nodes = np.zeros(0, dtype=np.int64)  # of each row's file, a hash of device and inode; 0 where it has none
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
        nodes = array("q")
        absent: list[str] = []  # the first of them
        num_absent = 0
        files = list(enumerate(manifest.paths))
        if "mask" in manifest.table.column_names:
            masks = enumerate(manifest.table.column("mask").to_pylist())
            files += [(row, part) for row, mask in masks if mask for part in mask.split("|")]
        for row, path in files:
            if "\0" in path:
                raise ManifestError(f"{self._where(row, path)}: a NUL character is in it. Remedy: correct the path.")
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
                if error.errno not in ABSENT:
                    raise
                num_absent += 1
                if num_absent <= MOST_NAMED:
                    absent.append(f"{self._where(row, path)}: there is no such file below {home!r} ({error.strerror})")
                if num_absent == 1:
                    absent[0] += _nearly(home, path)
                continue
            if not inside:
                raise ManifestError(
                    f"{self._where(row, path)}: it is a link that leads outside the root {home!r}. Remedy: copy the "
                    "file below the root, or point data.root at a folder that holds both."
                )
            if row == len(nodes):  # a mask's comes later
                nodes.append(hash((state.st_dev, state.st_ino)) if state.st_ino else 0)
            digest.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
        if absent:
            raise ManifestError(
                f"{absent[0]}. Remedy: correct the path, add the file, or point data.root at the folder that holds it."
                f"{_others(absent[1:], num_absent, len(files))}"
            )
        self.nodes = np.frombuffer(nodes, dtype=np.int64)
        self._refuse_links(manifest)
        return digest.hexdigest()

    def _refuse_links(self, manifest: Manifest) -> None:
        """See that no two rows are one file: links, or names that the file system takes for one."""
        for first, second in alike(self.nodes):
            paths = [manifest.table.column("path")[row].as_py() for row in (first, second)]
            if is_one_file(*(self.root / path for path in paths)):
                raise ManifestError(
                    f"{self._where(second, paths[1])}: it is the same file as {paths[0]!r}, by a link or by another "
                    "spelling. Remedy: keep one row an image, or its copies land on both sides of a split."
                )

    def __getstate__(self) -> dict[str, Any]:
        """Without the index, which the processes that only read images do not need."""
        return {**self.__dict__, "_manifest": None, "nodes": np.zeros(0, dtype=np.int64)}


def alike(nodes: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows, each with the next, whose nodes are the same and not 0."""
    order = np.argsort(nodes, kind="stable")
    again = np.flatnonzero((nodes[order][1:] == nodes[order][:-1]) & (nodes[order][1:] != 0))
    return sorted((int(order[n]), int(order[n + 1])) for n in again)


def is_one_file(first: Path, second: Path) -> bool:
    """Whether two paths lead to one file; some servers give one number to two, so the bytes are compared too."""
    return os.path.samefile(first, second) and filecmp.cmp(first, second, shallow=False)


def _nearly(home: str, path: str) -> str:
    """What may be meant by the path of a file that is not there, or nothing."""
    if "\\" in path:
        return "; folders are parted by /, not by \\"
    folder, *deeper = home, *path.split("/")
    name = next((part for part in deeper if not os.path.lexists(folder := os.path.join(folder, part))), "")
    try:
        there = sorted(os.listdir(os.path.dirname(folder)))
    except OSError:
        return ""
    if any(_composed(one) == _composed(name) for one in there if one != name):
        return (
            f"; {name!r} is there with its accents written otherwise (as letters and marks apart, which macOS does, or "
            "as one): rename the files or write the table again, for example with `convmv -r -f utf8 -t utf8 --nfc`"
        )
    same = [one for one in there if one.lower() == name.lower() or one == unquote(name)]
    same += [one for one in there if os.path.splitext(one)[0].lower() == os.path.splitext(name)[0].lower()]
    return f"; perhaps {same[0]!r} is meant" if same else ""


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _others(absent: list[str], num_absent: int, num_files: int) -> str:
    """That more files are not there, and the first of them."""
    if not absent:
        return ""
    first = "".join(f"\n  {where}" for where in absent)
    return f" In all {num_absent} of {num_files} files are not there; the next are:{first}"


def _below(path: str, home: str) -> bool:
    return path == home or path.startswith(home.rstrip(os.sep) + os.sep)
