"""`model/backbone=<any network of timm>`: names that are no option file, turned into the option that takes a name."""

from collections.abc import Iterable
from importlib import resources

from experiments.composition import CONFIG_MODULE
from experiments.known_keys import suggestion
from experiments.option_folders import CommandError, option_names, own_folders

GROUP = "model/backbone"
GENERAL = "timm"  # the option whose key `name` is the network's


def spelt_out(words: Iterable[str]) -> list[str]:
    """The words of a command line, `model/backbone=X` replaced where X is a network of timm and no option.

    Raises:
        CommandError: X is neither; names the nearest of both.
    """
    found, words = [], list(words)
    if not any(word.startswith(f"{GROUP}=") for word in words):
        return words
    options = option_names([resources.files(CONFIG_MODULE), *own_folders(words)], GROUP)
    for word in words:
        group, equals, name = word.partition("=")
        if group != GROUP or not equals or "," in name or name in options:
            found.append(word)
            continue
        import timm  # slow to import, and seldom needed

        known = timm.list_models()
        if name.partition(".")[0] not in known:
            hint = suggestion(name, [*options, *known], num=3)
            raise CommandError(
                f"{GROUP} has no option {name!r}{hint} Options: {', '.join(options)}, or any of the "
                f"{len(known)} networks of timm {timm.__version__}."
            )
        found += [f"{GROUP}={GENERAL}", f"model.backbone.name={name}"]
    return found
