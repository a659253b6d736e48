"""Files of weights, whoever wrote them: their tensors by name. Nothing that such a file names is called.

The same file is in callbacks/ and in lightning_modules/, which do not import each other; a test compares the two.
"""

import errno
import re
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.errors import UserError

REMEDY = "Remedy: a whole file of weights: .safetensors, or what torch.save writes of a state_dict."
KEYS = ("model", "state_dict", "teacher", "model_state_dict", "net", "network", "module", "model_ema", "state_dict_ema",
        "ema", "params_ema", "params", "weights")  # fmt: skip  # under which weights lie, the first one first
PLAIN = "dense, with values, and of real numbers"  # what tensors have to be
DEEPEST = 4  # such keys one below the other
SHOWN = 4


class _Object:
    """Takes whatever is said of it, and keeps nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _Mapping:
    """As a mapping, which the unpickler fills if it is one of its own kinds."""

    def __new__(cls, *_: Any, **__: Any) -> OrderedDict:
        return OrderedDict()


class _Sequence(list):
    """As a sequence."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()


# What is saved beside weights, by the names that pickles have for it. An empty object stands for each: none of them is
# made, and no module of theirs is imported.
HARMLESS = {
    _Object: (
        "argparse.Namespace", "types.SimpleNamespace", "uuid.UUID", "decimal.Decimal", "fractions.Fraction",
        *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
        *(f"{module}.{name}" for module in ("pathlib", "pathlib._local")
          for name in ("Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
        "numpy.dtype", "numpy.ndarray", "typing.Any",
        *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("list", "dict", "int", "float")),
        *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata",
                                           "base.Metadata", "nodes.AnyNode")),
    ),
    _Mapping: (
        "collections.defaultdict", "easydict.EasyDict", "yacs.config.CfgNode", "addict.addict.Dict",
        "lightning.fabric.utilities.data.AttributeDict", "lightning_fabric.utilities.data.AttributeDict",
        "lightning.pytorch.utilities.parsing.AttributeDict", "pytorch_lightning.utilities.parsing.AttributeDict",
    ),
    _Sequence: ("collections.deque",),
}  # fmt: skip


def read_weights(path: str | Path, what: str, keys: Sequence[str] = KEYS) -> dict[str, Tensor]:
    """The tensors of a file by name, without what a training script puts around them.

    Args:
        what: the setting that names the file, for messages.
        keys: under which the weights may lie, the one to be preferred first.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not whole, would call something, or holds no weights; with the reason and the remedy.
    """
    return _tensors_of(read_plain(path, what), f"{what}={str(path)!r}", keys)


def read_plain(path: str | Path, what: str) -> Any:
    """What a file of weights holds: tensors and plain containers.

    Raises:
        FileNotFoundError, ValueError: see `read_weights`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{what}={str(path)!r} does not exist, or is no file. {REMEDY}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals([(kind, name) for kind, names in HARMLESS.items() for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of what kind depends on where the file is cut, or on what it is instead
        if not_of_the_file(error):
            raise
        raise UserError(
            f"{what}={str(path)!r} is no whole file of tensors and plain containers: {reason_of(error)}. {REMEDY}"
        ) from error


def _tensors_of(found: Any, origin: str, keys: Sequence[str]) -> dict[str, Tensor]:
    for _ in range(DEEPEST):
        inner = [found[key] for key in keys if key in found] if isinstance(found, Mapping) else []
        inner = [value for value in inner if isinstance(value, Mapping) and value]
        if not inner:
            break
        found = inner[0]
    named = found.items() if isinstance(found, Mapping) else ()
    tensors = {name: value for name, value in named if isinstance(name, str) and torch.is_tensor(value)}
    if not tensors:
        raise UserError(
            f"{origin} holds no tensors by name, as they are or under {', '.join(keys)}: it is no file of weights. "
            f"{REMEDY}"
        )
    for name, tensor in tensors.items():
        if not is_plain(tensor):
            raise UserError(f"{origin}: its tensor {name!r:.100} is not {PLAIN}. {REMEDY}")
    return tensors


def is_plain(value: Any) -> bool:
    """Whether this is a tensor of PLAIN numbers: others cannot be compared, copied or computed with as these can."""
    return (
        torch.is_tensor(value)
        and value.layout is torch.strided
        and not (value.is_meta or value.is_quantized or value.is_nested or value.is_complex())
    )


def without_prefix(
    weights: Mapping[str, Tensor], ours: Collection[str], first: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Weights by the names that a network has for them: without what a wrapper or two put before each.

    Of all beginnings of names the one that leaves most that are the network's; those that begin otherwise are left out.

    Args:
        ours: the network's names.
        first: beginnings that are preferred where others leave as many.
    """
    found: Counter[str] = Counter()
    for name in weights:
        for cut in (0, *(place + 1 for place, letter in enumerate(name) if letter == ".")):
            found[name[:cut]] += name[cut:] in ours
    prefix = max(("", *first, *found), key=lambda beginning: found[beginning])
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def check_finite(tensors: Mapping[str, Tensor], origin: str) -> None:
    """See that weights are numbers.

    Raises:
        ValueError: some are NaN or infinite; names the first.
    """
    wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not _is_finite(tensor)]
    if wrong:
        more = f", … ({len(wrong)} in all)" if len(wrong) > SHOWN else ""
        raise UserError(
            f"{origin}: weights are NaN or infinite: {', '.join(wrong[:SHOWN])}{more}. Nothing that is computed with "
            "them means anything. Remedy: another checkpoint of the run, or another file."
        )


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.float() if tensor.element_size() == 1 else tensor).all())


def not_of_the_file(error: Exception) -> bool:
    """Whether reading failed for a reason that passes or can be mended, and says nothing of what the file holds."""
    return isinstance(error, MemoryError) or getattr(error, "errno", None) not in (None, errno.EINVAL)  # of mmap: cut


def reason_of(error: Exception) -> str:
    """What torch found wrong with a file, in a line and without its advice to trust the file."""
    text = re.sub(r"\s*Check the documentation of torch\.load.*", "", str(error), flags=re.DOTALL)
    for told in ("WeightsUnpickler error:", "from a trusted source.", "you got the file from"):
        text = text.rpartition(told)[2]
    line = text.strip().partition("\n")[0].partition(" Please use")[0].strip().rstrip(".")
    return line if "GLOBAL" in line or "header" in line else "it was cut short, or is something else"
