"""Folders of option files of one's own, which mirror experiments/conf/: by `hydra.searchpath` or `--config-dir`."""

import os
import re
from argparse import Namespace
from collections.abc import Iterable, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException

from datamodules.errors import UserError
from experiments.typed_text import as_typed

SEARCH_WORD = re.compile(r"\+{0,2}hydra\.searchpath=")
HOW_TO_QUOTE = (
    "Remedy: where a value holds any of = , ~ ( ) { } [ ] # ' or the like, put it in quotes, and the whole word in "
    "quotes for the shell: \"key='value'\"; in a list each: \"key=['value','value']\"."
)


class CommandError(UserError):
    """The command line asks for something that is not there; the message says what is."""


def read_arguments(arguments: Iterable[str]) -> Namespace:
    """Hydra's flags, and the other words of a command line as `overrides`; in any order."""
    return get_args_parser().parse_intermixed_args(list(arguments))


def searched(arguments: Iterable[str]) -> list[str]:
    """What `hydra.searchpath` and `--config-dir` name, as Hydra writes it: `file://FOLDER` or `pkg://PACKAGE`."""
    parsed = read_arguments(arguments)
    found = []
    for word in as_typed(filter(SEARCH_WORD.match, parsed.overrides)):
        try:
            value = OverridesParser.create().parse_override(word).value()
        except HydraException as error:
            raise CommandError(f"cannot read {word!r}. {HOW_TO_QUOTE}") from error
        if not isinstance(value, list):
            raise CommandError(f"{word}: write hydra.searchpath=[file://FOLDER].")
        found += [str(place.text if isinstance(place, QuotedString) else place) for place in value]
    if parsed.config_dir:
        found.append(f"file://{os.path.abspath(parsed.config_dir)}")
    return found


def own_folders(arguments: Iterable[str]) -> list[Traversable]:
    """The folders of one's own that these words of a command line name.

    Raises:
        CommandError: one that is not there.
    """
    return [_folder(place) for place in searched(arguments)]


def _folder(place: str) -> Traversable:
    scheme, _, name = place.rpartition("://")
    try:
        folder = resources.files(name) if scheme == "pkg" else Path(name)
    except (ImportError, TypeError, ValueError) as error:
        raise CommandError(f"hydra.searchpath names {place}, which is no package ({error}).") from error
    if not folder.is_dir():
        raise CommandError(
            f"hydra.searchpath or --config-dir names {place}, and there is no such folder. Remedy: name one that holds "
            "option files as experiments/conf/ does, in folders called exp, data, model/denoiser …"
        )
    return folder


def option_names(folders: Sequence[Traversable], group: str) -> list[str]:
    """The options of a group in these folders, in alphabetical order, without those that others are made of."""
    return sorted({file.name[:-5] for file in option_files(folders, group) if not file.name.startswith("_")})


def option_files(folders: Sequence[Traversable], group: str) -> list[Traversable]:
    """The option files of a group in these folders."""
    found = [folder / group for folder in folders]
    return [file for folder in found if folder.is_dir() for file in folder.iterdir() if file.name.endswith(".yaml")]


def unreadable(folders: Sequence[Traversable]) -> str:
    """The first option file of these folders that is not UTF-8; "" where all are."""
    for folder in folders:
        for file in sorted(Path(str(folder)).rglob("*.yaml")):
            try:
                file.read_text("utf-8")
            except UnicodeDecodeError:
                return str(file)
    return ""
