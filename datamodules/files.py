"""Files that somebody else may have written: read when they are what they should be; names that stay in their folder.

Files are written whole or not at all, and never through a link. What callbacks/files.py has under the same name is the
same, as a test sees to: the rooms do not import each other.
"""

import csv
import errno
import hashlib
import json
import os
import re
import reprlib
import stat
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import yaml

from datamodules.errors import UserError

WHOLE_COPY = "take it from a whole copy"
MOST_VALUES = 10  # of a YAML file for each of its characters: aliases of aliases can stand for more than memory holds
SAID = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", float: "a finite number",
        int: "a whole number from 0 to 2**63 - 1"}  # fmt: skip
NO_YAML = (yaml.YAMLError, ValueError, RecursionError, AttributeError, LookupError, TypeError)  # what PyYAML raises
MOST_BYTES_OF_A_NAME = 200  # of the 255 of most file systems: an extension, and .….12345.part while it is written
SIGN = r"[=+\-@\uff1d\uff0b\uff0d\uff20]"  # that a formula begins with
FORMULA = re.compile(rf"^(?=\s*{SIGN}|[\t\r\n])|(?<=[;\t\r\n])(?=[^\S\t\r\n]*{SIGN})")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


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


def read_yaml(path: str | Path, shape: Any = dict, remedy: str = WHOLE_COPY, error: type[Exception] = UserError) -> Any:
    """What a YAML file holds, in plain containers, which is of `shape` (see misfit); it raises what read_json does."""
    text = read_text(path, remedy, error)
    try:
        found = parsed_yaml(text)
    except ValueError as fault:
        raise error(f"{path} cannot be read: it is no YAML ({fault}). Remedy: {remedy}.") from fault
    return _fitting(found, shape, path, remedy, error)


def parsed_yaml(text: str) -> Any:
    """What YAML says, in plain containers.

    Raises:
        ValueError: it is none, or stands for far more than it has characters.
    """
    try:
        found = yaml.safe_load(text)
        _check_size(found, 1000 + MOST_VALUES * len(text))
    except NO_YAML as fault:
        raise UserError(" ".join(str(fault).split())) from fault
    return found


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


def _check_size(tree: Any, most: int) -> None:
    left, count = [tree], 0
    while left:
        node, count = left.pop(), count + 1
        if count + len(left) > most:
            raise UserError(f"with its aliases written out it holds more than {most:,} values")
        if isinstance(node, int) and node.bit_length() > 64:
            raise UserError("a number in it has more than 64 bits")
        left += list(node.values()) if isinstance(node, dict) else list(node) if isinstance(node, list | set) else []


def safe_name(name: Any, where: str) -> str:
    """A name that came out of a file, if it can be the name of a file in whatever folder it is put.

    Args:
        where: it stands, for the message: the file, and the row or the key.

    Raises:
        ValueError: it is no text, is empty, `.` or `..`, too long, or has a separator or a control character in it.
    """
    fault = None
    if not isinstance(name, str) or name in ("", ".", ".."):
        fault = "it must be text that names a file"
    elif any(character in "/\\" or unicodedata.category(character) in ("Cc", "Cs") for character in name):
        fault = "a separator of folders, or a character that cannot be printed, is in it"
    elif len(name.encode()) > MOST_BYTES_OF_A_NAME:
        fault = f"it has more than {MOST_BYTES_OF_A_NAME} bytes"
    if fault is None:
        return name
    raise UserError(
        f"{where}: {reprlib.repr(name)} cannot be the name of a file: {fault}. Remedy: another name; where somebody "
        "sent you what says so, do not trust it."
    )


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
        OSError: whatever the disk says, of path where it names the temporary file or none; path is then as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as PIL choose their format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    temporary.unlink(missing_ok=True)  # which might be a link
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # or a power cut leaves an empty file under the final name
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or str(error.filename or temporary) != str(temporary):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


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


def write_csv(path: str | Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write a table of cells as CSV in UTF-8, atomically; see `harmless`."""

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            csv.writer(file, lineterminator="\n").writerows([harmless(cell) for cell in row] for row in rows)

    write_atomically(path, write)


def harmless(cell: Any) -> Any:
    """A cell of a table for people: text that a spreadsheet would run as a formula gets an apostrophe before it.

    It begins with `=`, `+`, `-`, `@`, a tab or an end of line, or has a sign behind a separator of cells or of lines.
    Numbers, also as text, stay as they are.
    """
    if not isinstance(cell, str) or NUMBER.fullmatch(cell):
        return cell
    return FORMULA.sub("'", cell)
