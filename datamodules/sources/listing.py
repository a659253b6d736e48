"""The image files below a folder: which are taken, and what is left out of them, which is said with its count."""

import logging
import os
import re
import unicodedata
from collections import Counter
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from datamodules.image_files import BEGINNINGS
from datamodules.manifest_checks import OUTSIDE, ManifestError

log = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm")
# Kinds of images that are not read: photographs of phones and of other cameras, of clinics, of programs that draw.
OTHER_KINDS = frozenset(
    (".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".j2c", ".jpf", ".jpx", ".jpm", ".jxr", ".wdp", ".jif",
     ".dcm", ".dicom", ".dic", ".ima", ".nii", ".mha", ".mhd", ".nrrd", ".e2e", ".fda", ".fds", ".vol", ".svs", ".ndpi",
     ".raw", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".arw", ".raf", ".rw2", ".orf", ".pef", ".srw", ".mpo", ".apng",
     ".psd", ".xcf", ".tga", ".pcx", ".exr", ".hdr", ".pnm", ".pbm", ".pfm", ".dib")
)  # fmt: skip
# Folders that systems make for themselves: thumbnails, bins, snapshots, what archives of macOS and repairs leave.
FOREIGN = frozenset(
    ("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@sharesnap", "#recycle", "#snapshot", "~snapshot", "__macosx",
     "$recycle.bin", "recycler", "recycled", "system volume information", "lost+found", "found.000", "thumbs.db")
)  # fmt: skip
FORKS = "._"  # how names begin of what macOS keeps of a file beside it, where it cannot keep it within: no image


def is_foreign(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or one that a system makes for itself."""
    return name.startswith(".") or name.lower() in FOREIGN


def list_images(root: str | Path) -> list[str]:
    """Paths of the image files below a folder, relative to it with `/`, sorted.

    Files and folders that `is_foreign` tells are left out, and so are images of kinds that are not read: the log says
    how many of which. Raises OSError for a folder that cannot be read, ManifestError for a link to a folder and for a
    name that is not UTF-8, or that a manifest would read as another: none of them is left out silently.
    """
    found: list[str] = []
    foreign, others = Counter(), Counter()
    for folder, names, files in os.walk(root, onerror=_refuse, followlinks=False):
        for name in filter(is_foreign, names):
            foreign += _below(os.path.join(folder, name), name)
        names[:] = sorted(name for name in names if not is_foreign(name))
        for linked in (os.path.join(folder, name) for name in names if os.path.islink(os.path.join(folder, name))):
            raise ManifestError(f"{linked!r} is a link to a folder. Remedy: put the folder itself there, or remove it.")
        for name in files:
            extension = os.path.splitext(name)[1].strip().lower()
            if is_foreign(name):
                foreign[FORKS if name.startswith(FORKS) else "hidden files"] += extension in EXTENSIONS
            elif extension in EXTENSIONS:
                found.append(_checked(os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")))
            elif extension in OTHER_KINDS:
                others[extension] += 1
            elif not extension[1:].strip("0123456789") and _begins_as_image(os.path.join(folder, name)):
                others["without an extension"] += 1
    if forks := foreign.pop(FORKS, 0):
        log.info("%s: passed over %d files %s* that macOS leaves beside images", root, forks, FORKS)
    if foreign.total():
        log.warning(
            "%s: left out %d images that are hidden, or of a system's own folders: %s", root, *_counted(foreign)
        )
    if others.total():
        log.warning(
            "%s: left out %d files of kinds that are not read: %s. To use them, convert them to PNG or JPEG "
            "(docs/data.md says how), and let their names end so", root, *_counted(others),
        )  # fmt: skip
    return sorted(found)


def _begins_as_image(path: str) -> bool:
    """Whether a file begins as an image, or as DICOM, whose names often end in a number of its own."""
    ways = tuple(way for ways in BEGINNINGS.values() for way in ways if len(way) > 2)  # text, too, begins with BM or P6
    if not os.path.isfile(path):  # to open a pipe waits for ever
        return False
    with suppress(OSError), open(path, "rb") as file:
        head = file.read(132)
        return head.startswith(ways) or head[128:] == b"DICM"
    return False


def _counted(counter: Counter) -> tuple[int, str]:
    return counter.total(), ", ".join(f"{num} {name}" for name, num in sorted(counter.items()) if num)


def _below(folder: str, name: str) -> Counter:
    """How many image files are below a folder, as far as it can be read, by its name; FORKS apart."""
    files = [] if os.path.islink(folder) else [file for _, _, there in os.walk(folder) for file in there]
    images = [file for file in files if file.lower().endswith(EXTENSIONS)]
    return Counter(FORKS if file.startswith(FORKS) else name for file in images)


def _checked(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ManifestError(
            f"the name of the file {os.fsencode(path)!r} is not UTF-8. Remedy: rename it, and all like it, by "
            "`convmv -r -f latin1 -t utf8 --notest <folder>`."
        ) from None
    if path != path.strip() or re.search(OUTSIDE, path):
        raise ManifestError(
            f"the name of the file {path!r} begins or ends with a blank, or is another place on Windows. Remedy: "
            "rename it."
        )
    return path


def _refuse(error: OSError) -> None:
    raise error


def entries(folder: Path, pattern: str) -> list[Path]:
    """What lies in a folder and matches a pattern of a shell, capitals or not, sorted; `.` is the folder itself."""
    if pattern == ".":
        return [folder]
    if not folder.is_dir():
        return []
    within = (entry for entry in folder.iterdir() if not is_foreign(entry.name))
    return [undoubled(entry) for entry in sorted(within) if fnmatchcase(entry.name.lower(), pattern.lower())]


def undoubled(folder: Path) -> Path:
    """The folder itself; or, where it holds nothing but one of its own name, as unzipping makes them, that one."""
    if not folder.is_dir():
        return folder
    within = [entry for entry in folder.iterdir() if not is_foreign(entry.name)]
    alone = [entry for entry in within if entry.is_dir() or entry.name.lower().endswith(EXTENSIONS)]
    twin = len(alone) == 1 and alone[0].is_dir() and alone[0].name.lower() == folder.name.lower()
    return undoubled(alone[0]) if twin else folder


def stem(path: str) -> str:
    """A path without its extension, lower case, accents composed: what tables and files are matched by."""
    head, dot, tail = path.rpartition(".")
    return unicodedata.normalize("NFC", (head if dot and f".{tail.lower()}" in EXTENSIONS else path).lower())
