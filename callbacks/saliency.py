"""Where a classifier looks: Grad-CAM (Selvaraju et al. 2017) by captum, on the last grid of cells of the backbone."""

from typing import Any, Protocol

import numpy as np
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torch.nn import functional


class Explained(Protocol):
    """What is needed of a classifier's network: a backbone of timm in two halves, and heads."""

    backbone: Any  # `normalised(images)`, and `network` with `forward_features` and `forward_head`
    heads: nn.Module  # features [B, D] -> logits [B, T]


def can_be_explained(network: nn.Module) -> bool:
    """Whether the backbone has the two halves that Grad-CAM is put between."""
    inner = getattr(network.backbone, "network", None)
    return hasattr(inner, "forward_features") and hasattr(inner, "forward_head")


def grad_cam(network: Explained, images: Tensor, thresholds: Tensor) -> np.ndarray | None:
    """Maps float32 [B, S, S] in [0, 1] of what speaks for being above a threshold, 1 the most in each image.

    0 in an image of which nothing speaks for it. None where the features are no grid of cells.

    Args:
        network: in eval mode; its gradients are not kept.
        images: float32 [B, 3, S, S] in [0, 1].
        thresholds: the logit of each image that is explained, int64 [B].
    """
    through = _OnGrid(network)
    try:
        with torch.enable_grad():
            maps = LayerGradCam(through, through.grid).attribute(images, target=thresholds, relu_attributions=True)
    except _NoGrid:
        return None
    maps = functional.interpolate(maps.detach().float(), images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    largest = maps.flatten(1).amax(dim=1).clamp_min(1e-12)
    return (maps / largest[:, None, None]).cpu().numpy()


class _NoGrid(Exception):
    """The features of a network are no grid of cells."""


class _OnGrid(nn.Module):
    """The network with its features laid out as [B, C, h, w] at one place, `grid`, whatever the backbone.

    Those are its last ones; but where the head reads the class token alone, what goes into the last block, which is
    the last place where the other tokens have a say.
    """

    def __init__(self, network: Explained) -> None:
        super().__init__()
        self.network = network
        self.grid = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, T]."""
        backbone, inner = self.network.backbone, self.network.backbone.network
        if getattr(inner, "global_pool", "") == "token" and hasattr(inner, "blocks"):
            hook = inner.blocks[-1].register_forward_pre_hook(lambda _, given: (self._tokens(given[0]), *given[1:]))
            try:
                features = inner.forward_features(backbone.normalised(images))
            finally:
                hook.remove()
            return self.network.heads(inner.forward_head(features, pre_logits=True))
        features = inner.forward_features(backbone.normalised(images))
        if features.ndim == 3:
            features = self._tokens(features)
        elif str(getattr(backbone.network, "output_fmt", "NCHW")).endswith("NHWC"):
            features = self.grid(_moving(features).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        else:
            features = self.grid(_moving(features))
        return self.network.heads(inner.forward_head(features, pre_logits=True))

    def _tokens(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, C] led through the grid, but for those of the whole image before them; raises _NoGrid."""
        num_prefix = getattr(self.network.backbone.network, "num_prefix_tokens", 0)
        prefix, cells = _moving(tokens).split([num_prefix, tokens.shape[1] - num_prefix], dim=1)
        side = round(cells.shape[1] ** 0.5)
        if side**2 != cells.shape[1]:
            raise _NoGrid
        cells = self.grid(cells.transpose(1, 2).unflatten(2, (side, side)))
        return torch.cat([prefix, cells.flatten(2).transpose(1, 2)], dim=1)


def _moving(features: Tensor) -> Tensor:
    """Features with a gradient, which those of a linear probe lack."""
    return features if features.requires_grad else features.requires_grad_(True)


def overlaid(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A photograph uint8 [S, S, 3] with its map [S, S] in [0, 1] in the colours of viridis, opaque where it is 1."""
    from matplotlib import colormaps

    colours = colormaps["viridis"](heat)[..., :3] * 255
    opacity = 0.6 * heat[..., None]
    return np.clip((1 - opacity) * image + opacity * colours + 0.5, 0, 255).astype(np.uint8)
