"""Paths and names stay what was typed: a folder `2024_01` is no number, `null` no absence, and `a,b` no sweep."""

import os
import re
from collections.abc import Callable, Iterable
from importlib import resources

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from datamodules.errors import UserError

# Last parts of keys, wherever they stand in the configuration. A test sees that every key of conf/ whose value there
# does not tell what it is (null, ???, [] or {}) is either here or takes something else than text.
PATHS = ("root", "table", "output_dir", "cache_dir", "ckpt", "resume", "pretrained", "dataset", "path", "file",
         "filename", "weights", "segmenter", "preprocessed")  # fmt: skip
NAMES = ("name", "license", "title", "version", "metric", "mode", "monitor", "curve", "scheduler", "patient_pattern",
         "spacing", "split", "other_split", "pretrain_init", "job.precision", "sampling_precision")  # fmt: skip
PATH_LISTS = ("annotators", "runs", "hydra.searchpath", "more_datasets")
NAME_LISTS = (
    "trusted",
    "findings",
    "levels",
    "balance",
    "masks",
    "mask_levels",
    "thin",
    "sources",
    "backbones",
    "inits",
    "pretrain",
    "finetune",
    "common",
    "other",
    "real",
    "gated",
    "architectures",
)
# A user chooses their keys, each for a path or several, or for words that name some data.
PATH_MAPPINGS = ("roots", "own", "groups", "init_paths", "sets", "tests")
NEVER_NULL = ("root", "output_dir", "cache_dir", "dataset", "file", "name", "curve")

OPTIONS = "experiments.conf"
WORD = re.compile(r"(\+{0,2}([\w./@:-]+))=(.*)", re.DOTALL)
SWEEP = re.compile(r"\b(choice|range|interval|glob)\(.*\)", re.DOTALL)
QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)


def quoted(text: object) -> str:
    """A text or a path as a value of Hydra's command line, whatever is in it."""
    return QuotedString(str(text), Quote.single).with_quotes()


def as_typed(words: Iterable[str], is_sweep: bool = False) -> list[str]:
    """The words of a command line, those for paths and names quoted where Hydra would read something else.

    Args:
        words: `key=value`, and others, which stay as they are. What is in quotes stays as well.
        is_sweep: whether commas outside of quotes and brackets part the values of a sweep.
    """
    found = []
    for word in words:
        match = WORD.fullmatch(word)
        last = match[2].split("@")[0].rpartition(".")[2] if match else ""
        if match and (takes_text(match[2]) or _is_group(match[2])):
            word = f"{match[1]}={_value(match[2], last, match[3], is_sweep)}"
        found.append(word)
    return found


def takes_text(key: str) -> bool:
    """Whether the value of this dotted key is a path or a name, or a list or a mapping of such."""
    *above, last = key.split(".")
    known = {*PATHS, *NAMES, *PATH_LISTS, *NAME_LISTS, *PATH_MAPPINGS}
    return not known.isdisjoint((last, key)) or not set(above).isdisjoint(PATH_MAPPINGS)


def _is_group(key: str) -> bool:
    group = key.split("@")[0]
    return "." not in group and (resources.files(OPTIONS) / group).is_dir()


def _value(key: str, last: str, value: str, is_sweep: bool) -> str:
    """The value as Hydra is to be given it."""
    is_path = not (_is_group(key) or {last, key} & {*NAMES, *NAME_LISTS})

    def text(part: str) -> str:
        return _text(part, is_path, may_be_null=last not in NEVER_NULL)

    has_parts = last not in PATHS and not {last, key} & set(NAMES)
    if is_sweep:
        return _swept(key, value, lambda part: _nested(part, text) if has_parts else text(part))
    if has_parts and len(_parts(value)) == 1:
        return _nested(value, text)
    return value if has_parts else text(value)  # a,b for a list: Hydra sees a sweep, and the user is told


def _swept(key: str, value: str, one: Callable[[str], str]) -> str:
    """Each value of a sweep as text: of `a,b`, `choice(a,b)` and of what else gives several, as `range(2020,2024)`."""
    function = re.fullmatch(r"(\w+)\((.*)\)", value, re.DOTALL)
    if function is None and SWEEP.search(QUOTED.sub("", value)):
        return value  # a sweep within a sweep, which check_command refuses
    if function is None or function[1] == "choice":
        return ",".join(one(part) for part in _parts(function[2] if function else value))
    try:
        override = OverridesParser.create().parse_override(f"{key}={value}")
        return (
            ",".join(one(part) for part in override.sweep_string_iterator()) if override.is_sweep_override() else value
        )
    except HydraException:
        return one(value)


def _nested(value: str, text: Callable[[str], str]) -> str:
    """A list or a mapping with text for every value in it; a single text where it is neither."""
    value = value.strip()
    inner = value[1:-1]
    if value[:1] == "[" and value[-1:] == "]":
        return f"[{','.join(_nested(part, text) for part in _parts(inner))}]"
    if value[:1] == "{" and value[-1:] == "}":
        return "{" + ",".join(_pair(part, text) for part in _parts(inner)) + "}"
    return text(value)


def _pair(part: str, text: Callable[[str], str]) -> str:
    """One of a mapping; without a colon it is none, which Hydra says."""
    key, colon, value = part.partition(":")
    return f"{key.strip()}:{_nested(value, text)}" if colon else part


def _text(value: str, is_path: bool, may_be_null: bool) -> str:
    """One value, quoted unless Hydra reads it as the text that it is; the home folder for `~`."""
    if QUOTED.fullmatch(value) or (may_be_null and value.lower() == "null"):
        return value
    text = os.path.expanduser(value) if is_path else value
    if is_path and text.startswith("~/"):
        raise UserError(f"{value}: there is no home folder (HOME is not set). Remedy: the whole path, or ./{value}.")
    try:
        override = OverridesParser.create().parse_override(f"key={text}")
        read = None if override.is_sweep_override() else override.value()
    except HydraException:
        read = None
    is_escaped = isinstance(read, str) and "\\" in text and "\\\\" not in text  # a\,b: the user knows Hydra's escapes
    stays = (read == text or is_escaped) and not text.endswith("\\")  # which would escape a comma behind it
    return text if stays else quoted(text)


def _parts(text: str) -> list[str]:
    """What stands between the commas that are outside of quotes and brackets."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote and not parts[-1].endswith("\\") else quote
        elif char in "'\"" and parts[-1].rstrip()[-1:] in ("", "[", "{", ",", ":"):  # not the apostrophe within a name
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth = max(0, depth - 1)
        if char == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts] if text.strip() else []
