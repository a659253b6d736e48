"""Code of a model card: each block runs as it is in the exported folder."""

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.card.snippets import block
from experiments.model_export.shipped.label_embedder import slug

GENERATOR = """
from diffusers import DiffusionPipeline

folder = "."  # where this card lies; of a model on the Hugging Face Hub its name there, as owner/name
pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
images = pipeline([{asked}, {{}}], seeds=[0, 1]).images
for place, image in enumerate(images):
    image.save(f"fundus_{{place}}.png")
"""
SETTINGS = """
condition = {asked}
many = pipeline(condition, seeds=range(4), guidance_scale=2.0, num_inference_steps=20, output_type="np").images
print(many.shape, many.min(), many.max())
for finding in pipeline.findings:
    print(finding["name"], finding["title"], finding["levels"])
"""
AUTOENCODER = """
import torch
from diffusers import {name}

folder = "."  # where this card lies; of a model on the Hugging Face Hub its name there, as owner/name
autoencoder = {name}.from_pretrained(folder{trust})
images = torch.rand(1, 3, {size}, {size})  # in [0, 1]; sides that the downsampling divides
with torch.no_grad():
    latents = autoencoder.encode(2 * images - 1).latent_dist.mean
    again = (autoencoder.decode(latents).sample / 2 + 0.5).clamp(0, 1)
print(latents.shape, (again - images).abs().mean())
"""
TIMM = """
import json
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file

folder = Path(".")  # where this card lies
config, heads = json.loads((folder / "config.json").read_text("utf-8")), load_file(folder / "heads.safetensors")
backbone = timm.create_model(
    config["architecture"], num_classes=0, checkpoint_path=str(folder / "model.safetensors"), **config["model_args"]
).eval()
mean, std = (torch.tensor(config["pretrained_cfg"][name]).view(3, 1, 1) for name in ("mean", "std"))

images = torch.rand(2, 3, {size}, {size})  # in [0, 1], resized to this size by antialiased bilinear interpolation
with torch.no_grad():
    above = torch.sigmoid(backbone((images - mean) / std) @ heads["weight"].T + heads["bias"])
for finding in config["findings"]:
    p = above[:, finding["thresholds"]]  # P(level > 0), P(level > 1), …
    one, zero = torch.ones(len(images), 1), torch.zeros(len(images), 1)
    levels = torch.cat([one, p], 1) - torch.cat([p, zero], 1)  # P(level 0), P(level 1), …
    print(finding["name"], dict(zip(finding["levels"], levels[0].tolist())))
"""
ONNX = """
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
images = np.random.default_rng(0).random((2, 3, {size}, {size}), dtype=np.float32)  # in [0, 1]
names = [output.name for output in session.get_outputs()]
print(dict(zip(names, session.run(None, {{"image": images}}))))
"""
SHOWN = {"dr_grade": "severe", "is_gc": "present"}  # in examples, where the model knows them
INPUT = (
    "Give photographs as those of the training were: cropped to the disc of the fundus, square, RGB in [0, 1]. Mean "
    "and deviation are taken off by the code of the first block, and inside `model.onnx`."
)
CODE = "`trust_remote_code` lets diffusers run code that lies in this folder: {files}. Read it before you give it."


def using(kind: str, findings: Sequence[Mapping[str, Any]], size: int, folder: Path) -> list[str]:
    """The section on using it, paragraph by paragraph."""
    if kind == "generator":
        asked = repr(example(findings)).replace("'", '"')
        return [
            needs("diffusers", "torch"),
            block(GENERATOR.format(asked=asked)),
            CODE.format(files="`pipeline.py`, `spacing.py`, and a file each beside some of the weights"),
            "Image *i* follows from its findings and its seed alone, whatever else is painted with it. More:",
            block(SETTINGS.format(asked=asked)),
            '`pipeline.scheduler` can be exchanged for another; `pipeline.to("cuda")` moves all of it.',
        ]
    if kind == "autoencoder":
        own = (folder / "folded_autoencoder.py").is_file()
        words = {"name": "AutoModel", "trust": ", trust_remote_code=True"}
        words = words if own else {"name": "AutoencoderKL", "trust": ""}
        why = (
            [f"{CODE.format(files='`folded_autoencoder.py`')} `AutoModel` does so from diffusers 0.36 on."]
            if own
            else []
        )
        return [
            needs("diffusers", "torch"),
            block(AUTOENCODER.format(size=size, **words)),
            *why,
        ]
    parts = [INPUT, needs("timm", "torch", "safetensors"), block(TIMM.format(size=size))]
    if (folder / "model.onnx").is_file():
        parts += [needs("onnxruntime"), block(ONNX.format(size=size))]
    return parts


def needs(*packages: str) -> str:
    """Which packages, and the versions that it was tried with."""
    tried = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return f"Needs `pip install {' '.join(packages)}` (tried with {tried}):"


def example(findings: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A condition that this model knows: by title and name of the level."""
    known = {finding["name"]: finding for finding in findings}
    shown = {name: level for name, level in SHOWN.items() if level in known.get(name, {}).get("levels", ())}
    shown = shown or {findings[0]["name"]: findings[0]["levels"][-1]}
    return {slug(known[name]["title"]): level for name, level in shown.items()}
