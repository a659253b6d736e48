"""Files of a run's folder: read when they are what they should be; whole or not there; never written through a link.

What datamodules/files.py has under the same name is the same, as a test sees to: the rooms do not import each other.
"""

import errno
import hashlib
import json
import os
import re
import reprlib
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from callbacks.disk import naming
from datamodules.errors import UserError

WHOLE_COPY = "take it from a whole copy"
SAID = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", float: "a finite number",
        int: "a whole number from 0 to 2**63 - 1"}  # fmt: skip
LOCK = ".lock"  # of a folder that somebody holds; says who
UNFINISHED = re.compile(r"\..+\.\d+\.part(\.\w+)?")  # names of files and folders that are not in their place yet
UNSEEN = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ud800-\\udfff\\ufeff]"
)  # control characters, marks without a width, halves of characters


def read_json(path: str | Path, shape: Any = dict, remedy: str = WHOLE_COPY, error: type[Exception] = UserError) -> Any:
    """What a JSON file holds, which is of `shape` (see misfit).

    Raises:
        FileNotFoundError: there is no such file.
        OSError: whatever else the disk says.
        error: it is no JSON, or of another shape; names the file, the place, its value and the remedy.
    """
    text = read_text(path, remedy, error)
    try:
        found = json.loads(text)
        if re.search(r"\\u[dD][89a-fA-F]", text):  # halves of characters, which no file and no terminal takes
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as fault:
        raise error(f"{path} cannot be read: it is no JSON ({fault}). Remedy: {remedy}.") from fault
    return _fitting(found, shape, path, remedy, error)


def misfit(found: Any, shape: Any, place: str = "") -> str | None:
    """How what was read differs from a shape, in words; None where it does not.

    Args:
        shape: a type (dict, list, str, bool; int is a whole number in [0, 2**63), float a finite number, also a whole
            one); [shape], a list of such; {key: shape}, a mapping that has these keys and perhaps more, where a key
            that ends in `?` may be absent or null, and the key `*` stands for every key that there is.
        place: of `found` in what was read, as `plan.num_images`.
    """
    kind = _kind(shape)
    if not _is_of(found, kind):
        return f"{f'{place} is' if place else 'it holds'} {reprlib.repr(found)}, and must be {SAID[kind]}"
    if isinstance(shape, list):
        faults = (misfit(one, shape[0], f"{place}[{number}]") for number, one in enumerate(found))
        return next((fault for fault in faults if fault is not None), None)
    for key, wanted in shape.items() if isinstance(shape, dict) else ():
        optional = key.endswith("?")
        for name in found if key == "*" else [key.removesuffix("?")]:
            if optional and found.get(name) is None:
                continue
            inner = f"{place}.{name}" if place else str(name)
            if name not in found:
                return f"{inner} is missing, and must be {SAID[_kind(wanted)]}"
            if (fault := misfit(found[name], wanted, inner)) is not None:
                return fault
    return None


def _kind(shape: Any) -> type:
    return type(shape) if isinstance(shape, dict | list) else shape


def _is_of(found: Any, kind: type) -> bool:
    if kind is int:
        return type(found) is int and 0 <= found < 2**63
    if kind is float:
        return type(found) in (int, float) and abs(found) < 2**63
    return isinstance(found, kind)


def _fitting(found: Any, shape: Any, path: str | Path, remedy: str, error: type[Exception]) -> Any:
    fault = misfit(found, shape)
    if fault is not None:
        raise error(f"{path}: {fault}. Remedy: {remedy}.")
    return found


def read_text(path: str | Path, remedy: str = WHOLE_COPY, error: type[Exception] = UserError) -> str:
    """The text of a regular file (a pipe would be waited for) that is not empty; it raises what read_json does."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise error(f"{path} is no file. Remedy: {remedy}.")
    try:
        text = Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise error(f"{path} is no text in UTF-8 ({fault}). Remedy: {remedy}.") from fault
    if not text.strip():
        raise error(f"{path} is empty. Remedy: {remedy}.")
    return text


def own_folder(root: str | Path, name: str | Path) -> Path:
    """The folder `root/name`, made where it is not there, to write into; below `root` no part of it is a link.

    Raises:
        ValueError: one is: what is written would land wherever whoever made the link has wanted it.
        OSError: whatever the disk says.
    """
    folder = Path(root)
    folder.mkdir(parents=True, exist_ok=True)
    for part in Path(name).parts:
        folder /= part
        refuse_link(folder)
        folder.mkdir(exist_ok=True)
    return folder


def refuse_link(path: Path) -> None:
    """Raise ValueError where a file or a folder of a fixed name, which is to be written, is a link."""
    if path.is_symlink():
        raise UserError(
            f"{path} is a link to {os.readlink(path)!r}, and what is written there would land elsewhere. Remedy: "
            "delete the link (what it leads to stays), or give another folder."
        )


def open_own(path: str | Path, mode: str) -> IO:
    """Open a file of a fixed name in a folder that may be from elsewhere, as `open` does, text in UTF-8.

    Raises:
        ValueError: it is a link, or no file; nothing was opened then.
        OSError: whatever the disk says.
    """
    path = Path(path)

    def opener(name: str, flags: int) -> int:  # without O_NONBLOCK a pipe would be waited for
        descriptor = os.open(name, flags & ~os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.ENXIO, "no regular file")
        if flags & os.O_TRUNC:
            os.ftruncate(descriptor, 0)
        return descriptor

    try:
        return open(path, mode, encoding=None if "b" in mode else "utf-8", opener=opener)
    except OSError as fault:
        refuse_link(path)
        if fault.errno != errno.ENXIO:
            raise
        raise UserError(f"{path} is no file. Remedy: delete it, or give another folder.") from fault


def write_atomically(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Call write(temporary path in the same folder), then move the file to path; makes folders, leaves nothing over.

    Raises:
        OSError: whatever the disk says; path is then as it was before. Where the disk is full the error names path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as PIL choose their format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    temporary.unlink(missing_ok=True)  # which might be a link
    try:
        with naming(path):
            write(temporary)
            sync(temporary)  # or a power cut leaves an empty file under the final name
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(root: str | Path, seconds: float = 0.0) -> None:
    """Delete what processes that were killed have left unfinished below root, where nobody else is at work.

    A folder below it that has a lock of its own is left alone: whoever takes it sees to it.

    Args:
        seconds: that nothing was written to it, where somebody may be at work; what may not be deleted stays there.
    """
    for folder, names, files in os.walk(root):
        if folder != str(root) and LOCK in files:
            names.clear()
            continue
        for name in filter(UNFINISHED.fullmatch, [*files, *names]):
            left = Path(folder, name)
            with suppress(OSError if seconds else FileNotFoundError):
                if time.time() - left.lstat().st_mtime < seconds:
                    continue
                if name in names:
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink()
        names[:] = [name for name in names if not UNFINISHED.fullmatch(name)]


def write_text(path: str | Path, text: str) -> None:
    """Write text in UTF-8, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON for people and programs, in UTF-8, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def sha256(path: str | Path) -> str:
    """Of a file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder to write into, which is moved to path at the end; if anything is raised, nothing is left of it.

    Its files may then be read by whoever may read the folder, which some writers see to and others do not.
    What an earlier process that was killed has left beside path is deleted.

    Raises:
        FileExistsError: path is there.
        OSError: whatever the disk says.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} is there already")
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.iterdir():
        if re.fullmatch(rf"\.{re.escape(path.name)}\.\d+\.part", left.name):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.mkdir()
    try:
        with naming(path):
            yield temporary
            readable = temporary.stat().st_mode & 0o666
            for part in (*temporary.rglob("*"), temporary):
                if part.is_file():
                    part.chmod(readable)
                sync(part)
            os.rename(temporary, path)
            sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync(path: Path) -> None:
    """See that a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def printable(text: str) -> str:
    """Text for a terminal: what would move its cursor, ring, colour or turn the writing about is written as `\\x1b`.

    Ends of lines and tabs stay.
    """
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
