"""Objects out of a checkpoint's configuration: somebody else may have written it, so little of it may be called.

What builds, refuses: there is no check of a configuration that something else builds from.
"""

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pydoc import locate
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from datamodules.errors import UserError
from experiments.memory import refused_memory
from lightning_modules.checkpoint_contents import check_config

OURS = "lightning_modules"
DECLARED = (  # what is built besides networks
    "lightning_modules.networks.kl.kl_autoencoder",
    "lightning_modules.diffusion.objective.Objective",
    "lightning_modules.diffusion.schedule.Schedule",
)
TARGET, ARGUMENTS, PARTIAL, RECURSIVE, CONVERT = "_target_", "_args_", "_partial_", "_recursive_", "_convert_"


class Rebuilder:
    """Builds parts of a checkpoint's configuration; stands where `hydra.utils.instantiate` does for the command line's.

    A mapping with `_target_`, wherever it stands, is a call of what that names. It may name a network (a class of
    lightning_modules that is an nn.Module), what DECLARED lists, or a class or function of a module that the caller
    trusts by name; under the name of the module that defines it, and no other. Everything else remains data, which
    constructors get as plain lists and dicts. Nothing is interpolated.

    Args:
        config: of the checkpoint, in plain containers.
        parts: dotted names of what is going to be built, which have to be there.
        trusted: modules besides ours whose classes may be named, with all below them.
        origin: the checkpoint, for messages.

    Attributes:
        cfg: the configuration, whose nodes are what is built from.

    Raises:
        ValueError: a configuration that is not plain (checkpoint_contents.py), or a part that is not there.
    """

    def __init__(self, config: Any, parts: Sequence[str], trusted: Sequence[str], origin: str) -> None:
        check_config(config, origin)
        self._trusted = tuple(f"{module}." for module in trusted)
        self._origin = origin
        self.cfg: DictConfig = OmegaConf.create(config)
        for part in parts:
            node = OmegaConf.select(self.cfg, part)
            if not isinstance(node, DictConfig):
                raise UserError(f"{origin}: its configuration has no mapping {part!r}: nothing can be built from it.")

    def __call__(self, node: DictConfig, **given: Any) -> Any:
        """What `node` of `cfg` describes; `given` are arguments in the place of, or besides, those that it names.

        Raises:
            ValueError: something in it may not be called.
        """
        tree = OmegaConf.to_container(node, resolve=False)
        named = {key: value for key, value in tree.items() if key not in given}
        return self._built(named, node._get_full_key(None), given)

    def _built(self, tree: Any, place: str, given: Mapping[str, Any]) -> Any:
        if isinstance(tree, list | tuple):
            return [self._built(value, f"{place}.{index}", {}) for index, value in enumerate(tree)]
        if not isinstance(tree, Mapping):
            return tree
        parts = {key: self._built(value, f"{place}.{key}", {}) for key, value in tree.items() if key != TARGET}
        if TARGET not in tree:
            return {**parts, **given}
        called = self._allowed(tree[TARGET], place)
        for key, whole in ((PARTIAL, False), (RECURSIVE, True)):
            if parts.pop(key, whole) is not whole:
                raise UserError(
                    f"{self._origin}: its configuration leaves {place} to be built later ({key}), which no run writes. "
                    "Remedy: do not use that file."
                )
        parts.pop(CONVERT, None)  # arguments are plain in any case
        arguments = parts.pop(ARGUMENTS, ())
        return called(*arguments, **parts, **given)

    def _allowed(self, target: Any, place: str) -> Any:
        """The class or function of this name, if it may be called."""
        named = isinstance(target, str) and all(part.isidentifier() for part in target.split("."))
        if named and target.startswith(f"{OURS}.") and (found := _of_ours(target)) is not None:
            return found
        if named and target.startswith(self._trusted) and _defined_below(found := locate(target), self._trusted):
            return found
        remedy = "Remedy: do not use that file, or write its networks' own names there."
        if not str(target).startswith(f"{OURS}."):
            module = str(target).partition(".")[0]
            remedy = f"Remedy: if you trust that file and that module, name the module: trusted=[{module!r}]."
        raise UserError(
            f"{self._origin}: its configuration names {target!r} ({place}.{TARGET}), which is not of this package's "
            f"networks, and would be called. {remedy}"
        )


@contextmanager
def rebuilding(origin: str) -> Iterator[None]:
    """Name the checkpoint where what its configuration describes cannot be built, whatever the reason is.

    Raises:
        ValueError: with the reason.
    """
    try:
        yield
    except Exception as error:  # of what kind depends on which setting means nothing to which network
        is_told = isinstance(error, ValueError) and origin in str(error)
        if is_told or isinstance(error, OSError) or refused_memory(error):
            raise
        reason = str(error).strip().partition("\n    full_key")[0] or type(error).__name__
        raise UserError(f"{origin}: what its configuration describes cannot be built: {reason}") from error


def _of_ours(target: str) -> Any:
    """A network of lightning_modules, or what DECLARED lists, by the name of the module that defines it; else None."""
    module, _, name = target.rpartition(".")
    try:
        found = vars(importlib.import_module(module)).get(name)
    except ImportError:
        return None
    is_network = inspect.isclass(found) and issubclass(found, nn.Module)
    return found if (is_network or target in DECLARED) and found.__module__ == module else None


def _defined_below(found: Any, modules: tuple[str, ...]) -> bool:
    """Whether it is a class or a function that one of these modules defines, and not one that they import."""
    return (inspect.isclass(found) or inspect.isfunction(found)) and f"{found.__module__}.".startswith(modules)
