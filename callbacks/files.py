"""What somebody else may have written: read when it is what it should be; never written through a link; harmless where
it is shown.

What datamodules/files.py has under the same name is the same, as a test sees to: the rooms do not import each other.
Writing whole or not at all is atomic.py's.
"""

import errno
import json
import os
import re
import reprlib
import stat
from pathlib import Path
from typing import IO, Any

import yaml

WHOLE_COPY = "take it from a whole copy"
MOST_VALUES = 10  # of a YAML file for each of its characters: aliases of aliases can stand for more than memory holds
SAID = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", float: "a finite number",
        int: "a whole number from 0 to 2**63 - 1"}  # fmt: skip
NO_YAML = (yaml.YAMLError, ValueError, RecursionError, AttributeError, LookupError, TypeError)  # what PyYAML raises
UNSEEN = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ud800-\\udfff\\ufeff]"
)  # control characters, marks without a width, halves of characters


def read_json(
    path: str | Path, shape: Any = dict, remedy: str = WHOLE_COPY, error: type[Exception] = ValueError
) -> Any:
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


def read_yaml(
    path: str | Path, shape: Any = dict, remedy: str = WHOLE_COPY, error: type[Exception] = ValueError
) -> Any:
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
        raise ValueError(" ".join(str(fault).split())) from fault
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


def read_text(path: str | Path, remedy: str = WHOLE_COPY, error: type[Exception] = ValueError) -> str:
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
            raise ValueError(f"with its aliases written out it holds more than {most:,} values")
        if isinstance(node, int) and node.bit_length() > 64:
            raise ValueError("a number in it has more than 64 bits")
        left += list(node.values()) if isinstance(node, dict) else list(node) if isinstance(node, list | set) else []


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
        raise ValueError(
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
        raise ValueError(f"{path} is no file. Remedy: delete it, or give another folder.") from fault


def printable(text: str) -> str:
    """Text for a terminal: what would move its cursor, ring, colour or turn the writing about is written as `\\x1b`.

    Ends of lines and tabs stay.
    """
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
