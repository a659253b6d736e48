"""A classifier as a folder: the backbone as timm loads it, the heads beside it, and all of it as ONNX."""

import importlib.util
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import Tensor, nn

from datamodules.errors import UserError
from experiments.model_export.generator import vocabulary
from lightning_modules.classifier import Classifier, ClassifierNetwork
from lightning_modules.networks.backbone import TimmBackbone
from lightning_modules.networks.heads import FindingHeads

BACKBONE, HEADS, ONNX, CONFIG = "model.safetensors", "heads.safetensors", "model.onnx", "config.json"
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18
OF_THE_PUBLISHED = ("tag", "license", "origin_url", "paper_ids", "test_input_size", "test_crop_pct", "label_names",
                    "label_descriptions")  # fmt: skip  # what timm says of weights that these are not


def check_classifier(module: Classifier, with_onnx: bool) -> None:
    """See that timm can load its backbone, and that there is what writes and runs ONNX, where that is wanted.

    Raises:
        ValueError: not so.
    """
    backbone = module.network.backbone
    if not isinstance(backbone, TimmBackbone):
        raise UserError(
            f"the backbone is a {type(backbone).__name__}, and export_model knows networks of timm alone. Remedy: a "
            "classifier trained with one of model/backbone's own options, or with any name of timm."
        )
    lacking = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None] if with_onnx else []
    if lacking:
        raise UserError(
            f"model.onnx needs {', '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} not installed. "
            "Remedy: pip install 'synfundus[export]', or job.onnx=false, which leaves model.onnx out."
        )


class Probabilities(nn.Module):
    """Images [B, 3, S, S] in [0, 1] to P(level) of each finding, without a step that depends on the data: for ONNX."""

    def __init__(self, network: ClassifierNetwork) -> None:
        super().__init__()
        backbone = network.backbone
        self.backbone, self.num_levels = backbone.network, tuple(network.heads.num_levels.values())
        weight, bias = plain_heads(network.heads).values()
        for name, tensor in (("mean", backbone.mean), ("std", backbone.std), ("weight", weight), ("bias", bias)):
            self.register_buffer(name, tensor)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """One tensor [B, K] a finding."""
        features = self.backbone((image - self.mean) / self.std)
        above = torch.sigmoid(features @ self.weight.T + self.bias)
        found = []
        for mine in above.split([levels - 1 for levels in self.num_levels], dim=1):
            bounds = torch.cat([torch.ones_like(mine[:, :1]), mine, torch.zeros_like(mine[:, :1])], dim=1)
            found.append(bounds[:, :-1] - bounds[:, 1:])
        return tuple(found)


def plain_heads(heads: FindingHeads) -> dict[str, Tensor]:
    """All heads as one linear layer, `weight` [T, D] and `bias` [T], a row a threshold."""
    with torch.no_grad():
        width = heads.directions.in_features
        bias = heads(torch.zeros(1, width))[0]
        return {"weight": heads.directions.weight[heads.finding].clone(), "bias": bias.clone()}


def write_classifier(network: ClassifierNetwork, folder: Path, with_onnx: bool) -> dict[str, nn.Module]:
    """Write the files; returns the networks by what they are.

    Args:
        network: in eval mode, the weights that are to be written.
    """
    backbone, size = network.backbone, network.backbone.input_size
    seen = {
        "input_size": (3, size, size),
        "mean": tuple(backbone.mean.flatten().tolist()),
        "std": tuple(backbone.std.flatten().tolist()),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "num_classes": 0,
    }
    arguments = {name: value for name, value in backbone.arguments.items() if name != "drop_path_rate"}
    save_for_hf(backbone.network, folder, {"pretrained_cfg": seen}, arguments, safe_serialization=True)
    save_file(plain_heads(network.heads), folder / HEADS)
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    for name in OF_THE_PUBLISHED:
        config["pretrained_cfg"].pop(name, None)
    config |= {"model_args": arguments, "num_classes": 0, "findings": findings_of(network)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    if with_onnx:
        write_onnx(network, folder / ONNX)
    return {"backbone": backbone, "heads": network.heads}


def findings_of(network: ClassifierNetwork) -> list[dict[str, Any]]:
    """Name, title and levels of each finding, and which rows of the heads are its thresholds."""
    first, found = 0, []
    for finding in vocabulary(network.heads.num_levels):
        last = first + len(finding["levels"]) - 1
        found.append(finding | {"thresholds": list(range(first, last))})
        first = last
    return found


def write_onnx(network: ClassifierNetwork, path: Path) -> None:
    """All of it in one file: `image` [batch, 3, S, S] in [0, 1] to a tensor [batch, levels] for each finding."""
    size = network.backbone.input_size
    with _silent():
        torch.onnx.export(
            Probabilities(network).eval(),
            (torch.rand(2, 3, size, size),),
            path,
            input_names=["image"],
            output_names=list(network.heads.num_levels),
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )


@contextmanager
def _silent() -> Iterator[None]:
    """Without what the exporter says to those who write exporters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
