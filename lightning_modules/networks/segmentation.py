"""Segmentation networks: images to the logits of each pixel's level, by segmentation-models-pytorch.

Weights are drawn at random. Nothing is ever downloaded: `encoder_weights` of that library is always None.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.encoders import encoders
from torch import Tensor, nn

from datamodules.errors import UserError
from lightning_modules.names import check_name
from lightning_modules.networks.backbone import check_timm_name

TIMM = "tu-"  # before the name of a timm network
STRIDE = 32  # images are padded to multiples of it: what the deepest features of every encoder are shrunk by, at most
OURS = ("self", "encoder_name", "encoder_weights", "encoder_depth", "in_channels", "classes", "activation",
        "aux_params", "kwargs")  # fmt: skip
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class SegmentationNetwork(nn.Module):
    """Images float [B, 3, H, W] in [0, 1] -> logits float [B, K, H, W] of the levels, for any H and W.

    Images are normalised to the mean and deviation of the encoder's published weights. They are padded at the right
    and the bottom by their last pixels to multiples of 32, and the logits are cut to the images' size.

    Args:
        num_levels: K, background included.
        architecture: of segmentation-models-pytorch: Unet, UnetPlusPlus, FPN, DeepLabV3Plus, Segformer and others.
        encoder: `tu-<name of a timm network>`, or one of that library's own.
        encoder_depth: stages of the encoder that are used, 3 to 5.
        options: further arguments of the architecture, such as `decoder_channels`.
        image_size: pixels of a square that it is tried with when it is built.

    Raises:
        UserError: an unknown name or option (the nearest are named), or parts that do not fit one another.
    """

    def __init__(
        self,
        num_levels: int,
        architecture: str = "Unet",
        encoder: str = "tu-tf_efficientnet_lite0",
        encoder_depth: int = 5,
        options: Mapping[str, Any] | None = None,
        image_size: int = 64,
    ) -> None:
        super().__init__()
        if num_levels < 2:
            raise UserError(f"a mask of {num_levels} levels has nothing to find: 2 are needed, background included.")
        known = smp.MODEL_ARCHITECTURES_MAPPING
        build = known[check_name("model.network.architecture", str(architecture).lower(), known)]
        options = dict(options or {})
        _check_options(build, options)
        _check_encoder(encoder)
        settings = {"encoder_name": encoder, "encoder_depth": encoder_depth, **options}
        try:
            self.network = build(encoder_weights=None, in_channels=3, classes=num_levels, **settings)
            self._try(image_size, num_levels)
        except (TypeError, ValueError, KeyError, AssertionError, RuntimeError) as error:
            said = ", ".join(f"{name}={value}" for name, value in settings.items())
            raise UserError(
                f"model.network: {architecture} cannot be built with {said} for {image_size} pixels: {error}. "
                "Remedy: another encoder or encoder_depth, options that fit (decoder_channels has one number a stage), "
                "or a larger data.image_size."
            ) from error
        mean, std = _normalisation(encoder)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def encoder(self) -> nn.Module:
        """The part whose weights may come from elsewhere; the library's own, which has `name`."""
        return self.network.encoder

    def forward(self, images: Tensor) -> Tensor:
        """Logits float [B, K, H, W]."""
        height, width = images.shape[-2:]
        padding = (0, -width % STRIDE, 0, -height % STRIDE)
        normalised = F.pad((images - self.mean) / self.std, padding, mode="replicate")
        return self.network(normalised)[..., :height, :width]

    @torch.no_grad()
    def _try(self, image_size: int, num_levels: int) -> None:
        """See that it gives logits of the right shape; leaves no trace in its running statistics."""
        side = image_size + -image_size % STRIDE
        found = self.network.eval()(torch.zeros(1, 3, side, side))
        self.network.train()
        if tuple(found.shape) != (1, num_levels, side, side):
            raise ValueError(f"it gives {list(found.shape)} of {[1, 3, side, side]}")


def _check_options(build: type[nn.Module], options: Mapping[str, Any]) -> None:
    """Refuse what the architecture does not name: the rest would go to the encoder, which may read files."""
    known = [name for name in inspect.signature(build.__init__).parameters if name not in OURS]
    for name in options:
        check_name("a name in model.network.options", name, known)


def _check_encoder(encoder: str) -> None:
    if encoder.startswith(TIMM):
        check_timm_name(encoder.removeprefix(TIMM), "model.network.encoder")
    else:
        check_name("model.network.encoder", encoder, [f"{TIMM}<name of a network of timm>", *encoders])


def _normalisation(encoder: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of red, green and blue that the encoder's published weights were trained with."""
    published = timm.get_pretrained_cfg(encoder.removeprefix(TIMM)) if encoder.startswith(TIMM) else None
    return IMAGENET if published is None else (published.mean, published.std)
