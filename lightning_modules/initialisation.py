"""Where a backbone's weights start from: at random, from ImageNet, from a run of ours, or from somebody's file.

A file may be of timm, of MAE or RETFound (under `model`), of a Trainer (under `state_dict`), or safetensors. Only
tensors and plain containers are read from it (weights_file.py). Position embeddings of another size are resampled.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import timm
from segmentation_models_pytorch.encoders.timm_universal import TimmUniversalEncoder
from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table
from timm.models._features import FeatureGetterNet, FeatureListNet
from torch import Tensor, nn

from datamodules.errors import UserError
from lightning_modules.checkpoint import best_of_run, load_state
from lightning_modules.losses.perceptual import load_efficientnet_lite0
from lightning_modules.networks.backbone import TimmBackbone
from lightning_modules.weights_file import check_finite, read_weights, without_prefix

LEAST_LOADED = 0.5  # of a backbone's weights: a file that gives fewer is of something else
SHOWN = 6
BUNDLED = "tf_efficientnet_lite0"  # the network whose ImageNet weights come with a package, so that no hub is needed
AVERAGED = ("ema.network.backbone.network.", "ema.network.backbone.")  # in checkpoints of ours, which have both


@dataclass(frozen=True)
class LoadReport:
    """What became of the weights of a file: names that were taken, resampled, lacking in it, and not used."""

    source: str
    loaded: tuple[str, ...] = ()
    resampled: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A line, and one each for what is not as one would think."""
        lines = [f"weights of the backbone: {self.source}"]
        if self.loaded:
            lines[0] += f", {len(self.loaded)} tensors loaded"
        for title, names in (
            ("position embeddings resampled", self.resampled),
            ("not in the file, at random", self.missing),
            ("in the file, not used", self.skipped),
        ):
            if names:
                more = f", … ({len(names)} in all)" if len(names) > SHOWN else ""
                lines.append(f"  {title}: {', '.join(names[:SHOWN])}{more}")
        return "\n".join(lines)


class RandomInit:
    """The weights that the backbone was made with."""

    def __call__(self, backbone: nn.Module) -> LoadReport:
        """Change nothing."""
        return LoadReport("at random")


class ImageNetInit:
    """Weights trained on ImageNet: from `path`, else bundled (tf_efficientnet_lite0), else from timm's hub."""

    def __init__(self, path: str | None = None) -> None:
        self.path = path

    def __call__(self, backbone: nn.Module) -> LoadReport:
        """Load them.

        Raises:
            ValueError: a backbone that is not timm's and no path; weights that cannot be had, with where to put them.
        """
        if self.path is not None:
            return CheckpointInit(self.path)(backbone)
        name = getattr(backbone, "name", None)
        if name is None:
            raise UserError(
                f"model/init=imagenet: {type(backbone).__name__} is no network of timm. Give its weights by "
                "model.init.path=<file>, or start with model/init=random."
            )
        if name.partition(".")[0] == BUNDLED:
            return load_backbone(backbone, load_efficientnet_lite0().state_dict(), f"ImageNet, bundled for {BUNDLED}")
        try:
            published = timm.create_model(name, pretrained=True, num_classes=0)
        except Exception as error:  # of what kind depends on the hub and on the network
            raise UserError(
                f"model/init=imagenet: the weights of {name!r} cannot be had from the hub "
                f"({str(error).splitlines()[0][:120]}). Remedy: on a machine that reaches it, save them with "
                f"`timm.create_model({name!r}, pretrained=True)` and torch.save(model.state_dict(), 'file.pth'), and "
                f"give that as model.init.path=<file>; model/backbone=efficientnet_lite0 needs no hub."
            ) from error
        return load_backbone(backbone, published.state_dict(), f"ImageNet, {name} of timm")


class CheckpointInit:
    """Weights of a file, or of the best checkpoint in the folder of a run of `classifier_train`."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, backbone: nn.Module) -> LoadReport:
        """Load them.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is not whole, or of another network; says what does not fit.
        """
        path = best_of_run(self.path)
        if path.suffix == ".ckpt" and not path.is_file():  # in shares, or not there, which says what lies beside it
            return load_backbone(backbone, load_state(path)["state_dict"], str(path))
        return load_backbone(backbone, read_weights(path, "model.init.path"), str(path))


def load_backbone(backbone: nn.Module, weights: Mapping[str, Tensor], source: str) -> LoadReport:
    """Load the weights that fit into a backbone, and say what became of the others.

    Raises:
        ValueError: shapes that differ, weights that are NaN, or less than half of the backbone's weights in the file.
    """
    network = _network_of(backbone)
    own = {_whole_name(network, name): name for name in network.state_dict()}
    ours = {name: network.state_dict()[place] for name, place in own.items()}
    theirs = without_prefix(weights, ours, AVERAGED)
    taken, resampled, wrong = {}, [], []
    for name, tensor in theirs.items():
        if name not in ours:
            continue
        if tensor.shape != ours[name].shape and "pos_embed" in name and tensor.ndim == ours[name].ndim == 3:
            tensor = _resampled(tensor, ours[name], _num_embedded_prefixes(network))
            resampled.append(name)
        if tensor.shape != ours[name].shape and name.endswith("relative_position_bias_table"):
            module = network.get_submodule(own[name].rpartition(".")[0])
            tensor = resize_rel_pos_bias_table(tensor, module.window_size, tuple(ours[name].shape))
            resampled.append(name)
        if tensor.shape != ours[name].shape:
            wrong.append(f"{name} is {list(ours[name].shape)} here, {list(tensor.shape)} there")
        taken[name] = tensor
    kind = f"{type(network).__name__} {getattr(backbone, 'name', '')}".strip()
    if wrong:
        more = f", … ({len(wrong)} in all)" if len(wrong) > SHOWN else ""
        raise UserError(
            f"{source} holds weights of another network than {kind}: {'; '.join(wrong[:SHOWN])}{more}. Give the "
            "model/backbone that they were trained with."
        )
    needed = {name: tensor.numel() for name, tensor in ours.items() if tensor.is_floating_point()}
    share = sum(needed[name] for name in taken if name in needed) / max(1, sum(needed.values()))
    if share < LEAST_LOADED:
        raise UserError(
            f"{source} has {share:.0%} of the weights of {kind}: it is of another network. Its first tensors are "
            f"{', '.join(list(weights)[:SHOWN])}; wanted are {', '.join(list(ours)[:SHOWN])}. Give the model/backbone "
            "that they were trained with."
        )
    check_finite(taken, source)
    network.load_state_dict({own[name]: tensor for name, tensor in taken.items()}, strict=False)
    return LoadReport(
        source, tuple(taken), tuple(resampled),
        tuple(name for name in ours if name not in taken), tuple(name for name in theirs if name not in ours),
    )  # fmt: skip


def _network_of(backbone: nn.Module) -> nn.Module:
    """The network that files of weights are of: without what this package or a segmentation network puts around it."""
    if isinstance(backbone, TimmUniversalEncoder):
        return backbone.model
    return backbone.network if isinstance(backbone, TimmBackbone) else backbone


def _whole_name(network: nn.Module, name: str) -> str:
    """The name of a weight in the whole network of timm, where this one gives the features of each stage alone."""
    if isinstance(network, FeatureListNet):
        return re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", name)
    return name.removeprefix("model.") if isinstance(network, FeatureGetterNet) else name


def _num_embedded_prefixes(network: nn.Module) -> int:
    """Tokens of the whole image that have a position embedding of their own."""
    return 0 if getattr(network, "no_embed_class", False) else getattr(network, "num_prefix_tokens", 1)


def _resampled(tensor: Tensor, like: Tensor, num_prefix: int) -> Tensor:
    """Position embeddings [1, N, D] at another grid."""
    side = round((like.shape[1] - num_prefix) ** 0.5)
    return resample_abs_pos_embed(tensor, new_size=[side, side], num_prefix_tokens=num_prefix)
