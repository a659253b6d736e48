"""`model/backbone=<any network of timm>`: names that are no option file, turned into the option that takes a name."""

import difflib
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path

from experiments.composition import CONFIG_MODULE, CommandError

GROUP = "model/backbone"
GENERAL = "timm"  # the option whose key `name` is the network's


def spelt_out(words: Iterable[str]) -> list[str]:
    """The words of a command line, `model/backbone=X` replaced where X is a network of timm and no option.

    Raises:
        CommandError: X is neither; names the nearest of both.
    """
    found, words = [], list(words)
    for word in words:
        group, equals, name = word.partition("=")
        if group != GROUP or not equals or "," in name or name in _options() or _is_elsewhere(name, words):
            found.append(word)
            continue
        import timm  # slow to import, and seldom needed

        known = timm.list_models()
        if name.partition(".")[0] not in known:
            near = difflib.get_close_matches(name, [*_options(), *known], n=3, cutoff=0.5)
            hint = f": did you mean {' or '.join(near)}?" if near else "."
            raise CommandError(
                f"{GROUP} has no option {name!r}{hint} Options: {', '.join(_options())}, or any of the "
                f"{len(known)} networks of timm {timm.__version__}."
            )
        found += [f"{GROUP}={GENERAL}", f"model.backbone.name={name}"]
    return found


def _is_elsewhere(name: str, words: Sequence[str]) -> bool:
    """Whether a folder of one's own, by hydra.searchpath or --config-dir, has an option file of that name."""
    folders = [folder for word in words for folder in re.findall(r"file://([^,\]'\"]+)", word)]
    folders += [after for word, after in pairwise(words) if word in ("--config-dir", "-cd")]
    folders += [word.partition("=")[2] for word in words if word.startswith("--config-dir=")]
    return any((Path(folder) / GROUP / f"{name}.yaml").is_file() for folder in folders)


def _options() -> list[str]:
    folder = resources.files(CONFIG_MODULE) / GROUP
    names = sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".yaml"))
    return [name for name in names if not name.startswith("_")]
