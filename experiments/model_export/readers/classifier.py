"""`python classifier.py FOLDER REQUEST ANSWER`: load an exported classifier with timm, and as ONNX, and predict."""

import json
import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file


def with_timm(folder: Path, batches: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """P(level) of each finding, of batches of images in [0, 1]."""
    config, heads = json.loads((folder / "config.json").read_text("utf-8")), load_file(folder / "heads.safetensors")
    backbone = timm.create_model(
        config["architecture"], num_classes=0, checkpoint_path=str(folder / "model.safetensors"), **config["model_args"]
    ).eval()
    mean, std = (torch.tensor(config["pretrained_cfg"][name]).view(3, 1, 1) for name in ("mean", "std"))
    found = []
    for images in batches:
        with torch.no_grad():
            above = torch.sigmoid(backbone((images - mean) / std) @ heads["weight"].T + heads["bias"])
        mine = {finding["name"]: above[:, finding["thresholds"]] for finding in config["findings"]}
        one, zero = torch.ones(len(images), 1), torch.zeros(len(images), 1)
        found.append({name: torch.cat([one, p], 1) - torch.cat([p, zero], 1) for name, p in mine.items()})
    return found


def with_onnx(path: Path, batches: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The same by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    runs = [session.run(None, {"image": images.numpy()}) for images in batches]
    return [dict(zip(names, map(torch.from_numpy, values), strict=True)) for values in runs]


if __name__ == "__main__":
    place, request, answer = map(Path, sys.argv[1:])
    asked = torch.load(request)
    answers = {"timm": with_timm(place, asked)}
    if (place / "model.onnx").is_file():
        answers["onnx"] = with_onnx(place / "model.onnx", asked)
    torch.save(answers, answer)
