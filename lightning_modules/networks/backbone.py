"""Backbones: images to features. Any network of timm by its name, without its head."""

import inspect
from collections.abc import Sequence

import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn import functional

from datamodules.errors import UserError, did_you_mean


class TimmBackbone(nn.Module):
    """Images float [B, 3, H, W] in [0, 1] -> features float [B, num_features], by a network of timm, weights at random.

    Images are resized to `input_size` by antialiased bilinear interpolation where they differ, and normalised to the
    mean and deviation that the network's published weights were trained with.

    Args:
        name: as timm knows it, with a tag or without: `convnext_tiny`, `vit_small_patch16_224.augreg_in21k`.
        input_size: pixels of the square that the network sees.
        drop_path: chance that a residual branch is left out in training (Huang et al. 2016), growing with depth.
        global_pool: how tokens or cells become one vector; None is the network's own.
        mean, std: of red, green and blue, which images are normalised by; None takes those of the published weights of
            that name and tag. Weights of another training, as of MAE or RETFound, may need others.

    Raises:
        ValueError: a name that timm does not know (the nearest are named), a size that the network cannot take.
    """

    def __init__(
        self,
        name: str,
        input_size: int,
        drop_path: float = 0.0,
        global_pool: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_timm_name(name)
        published = timm.get_pretrained_cfg(name)
        given = {"drop_path_rate": drop_path or None, "global_pool": global_pool}
        if published is not None and published.fixed_input_size:
            given["img_size"] = input_size
        patch = _patch_size(name) if "img_size" in given else 1
        if input_size % patch:
            lower = max(input_size // patch, 1) * patch
            raise UserError(
                f"model.backbone {name!r} cuts images into patches of {patch} pixels, which do not divide "
                f"input_size={input_size}. Nearest sizes: {lower} and {lower + patch}, by data.image_size or "
                "model.backbone.input_size."
            )
        try:
            self.network = timm.create_model(name, pretrained=False, num_classes=0, **given)
            self.num_features = _num_features(self.network, input_size)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            settings = ", ".join(
                f"{key}={value}" for key, value in {"input_size": input_size, **given}.items() if value
            )
            raise UserError(
                f"model.backbone {name!r} cannot be built with {settings}: {error}. Remedy: a size that its patches "
                f"and windows fit, such as {_usual_size(published)}, by data.image_size or model.backbone.input_size."
            ) from error
        self.name, self.input_size = name, input_size
        self.arguments = {key: value for key, value in given.items() if value is not None}  # that timm built it with
        usual = (published.mean, published.std) if published is not None else ((0.5,) * 3, (0.5,) * 3)
        mean, std = (own if given is None else given for given, own in zip((mean, std), usual, strict=True))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise UserError(f"mean={list(mean)} and std={list(std)} must be three numbers each, std above 0.")
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def normalised(self, images: Tensor) -> Tensor:
        """What the network sees of images float [B, 3, H, W] in [0, 1]: [B, 3, input_size, input_size]."""
        if images.shape[-2:] != (self.input_size, self.input_size):
            size = (self.input_size, self.input_size)
            images = functional.interpolate(images, size, mode="bilinear", antialias=True).clamp(0, 1)
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Features float [B, num_features]."""
        return self.network(self.normalised(images))

    def layers(self) -> dict[str, int]:
        """The layer of each parameter by its name, 0 the one nearest to the image, as timm groups them."""
        groups = group_parameters(self.network, self.network.group_matcher(coarse=False), reverse=True)
        return {f"network.{name}": layer for name, layer in groups.items()}


def check_timm_name(name: str, key: str = "model.backbone") -> None:
    """Raise ValueError for a network that timm does not have; names the nearest, and the setting `key`."""
    architecture = name.partition(".")[0]
    known = timm.list_models()
    if architecture not in known:
        raise UserError(
            f"{key} {name!r} is no network of timm {timm.__version__}, which has {len(known)}."
            f"{did_you_mean(architecture, known, num=3)} timm.list_models() lists them."
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    tag = name.partition(".")[2]
    if tag and tag not in tags:
        raise UserError(f"{key} {name!r}: timm knows no {tag!r} of {architecture}, but {', '.join(tags)}.")


def layers_of(backbone: nn.Module) -> dict[str, int]:
    """The layer of each parameter of any backbone: by its own `layers`, or by its children, one after the other."""
    if inspect.ismethod(getattr(backbone, "layers", None)):  # and no module that is called so
        return backbone.layers()
    order = {name: place for place, (name, _) in enumerate(backbone.named_children())}
    return {name: order.get(name.partition(".")[0], 0) for name, _ in backbone.named_parameters()}


def _patch_size(name: str) -> int:
    """Pixels of a patch's side; 1 where the network says nothing of patches."""
    with torch.device("meta"):
        patch = getattr(getattr(timm.create_model(name), "patch_embed", None), "patch_size", 1)
    return patch[0] if isinstance(patch, tuple) else patch


@torch.no_grad()
def _num_features(network: nn.Module, input_size: int) -> int:
    """By a trial, since what networks say of themselves does not always hold for what their pooling gives."""
    features = network.eval()(torch.zeros(1, 3, input_size, input_size))
    network.train()
    if features.ndim != 2:
        raise UserError(f"it gives features of shape {list(features.shape)}, and must give one vector an image")
    return features.shape[1]


def _usual_size(published) -> int:
    return 224 if published is None else published.input_size[-1]
