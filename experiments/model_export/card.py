"""README.md of an exported model, as Hugging Face reads it: every number is of the checkpoint, or of its run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import nn

from callbacks.metrics.estimate import from_json
from experiments.card.origin import terms_of
from experiments.model_export import code_licence, samples
from experiments.model_export.agreement import Comparison
from experiments.model_export.shipped.label_embedder import slug
from experiments.model_export.training import level_counts, only_phantoms, training_facts
from experiments.reports import cards
from lightning_modules.checkpoint import CONFIG_KEY

LIBRARIES = {"generator": "diffusers", "autoencoder": "diffusers", "classifier": "timm"}
TAGS = ("medical", "ophthalmology", "fundus", "retina")
OWN_TAGS = {"generator": ("diffusion", "synthetic"), "autoencoder": ("autoencoder",), "classifier": ("onnx",)}
PIPELINES = {"generator": "unconditional-image-generation", "classifier": "image-classification"}  # tags of the Hub
SHOWN = {"dr_grade": "severe", "is_gc": "present"}  # in examples, where the model knows them
PARTS = {
    "vae": "the autoencoder, latents to images",
    "label_embedder": "findings to vectors",
    "unet": "the denoiser, a `UNet2DModel` of diffusers",
    "transformer": "the denoiser, a diffusion transformer",
    "guide": "a classifier of noised latents, by which images are led to their findings",
    "scheduler": "the sampler, one of diffusers'",
}
FILES = {
    "README.md": "this card",
    code_licence.FILE: "the licence of the code in this folder",
    samples.FILE: "images that this folder has painted",
    "model_index.json": "what the pipeline consists of, and how it samples unless told otherwise",
    "pipeline.py": "the pipeline's code",
    "spacing.py": "the pipeline's code: at which timesteps it calls the denoiser",
    "vae/config.json": "its architecture, with mean and deviation of each latent channel",
    "label_embedder/config.json": "its sizes, and the findings with their names and levels",
    "config.json": "the architecture",
    "model.safetensors": "the backbone's weights, by timm's names",
    "heads.safetensors": "the heads: `weight` [thresholds, features] and `bias` [thresholds]",
    "model.onnx": "all of it: `image` [batch, 3, H, W] in [0, 1] to probabilities [batch, levels], an output a finding",
}
ENDINGS = {
    ".index.json": "which of its weights lie in which file",
    ".safetensors": "its weights",
    ".py": "its code",
    ".json": "its architecture or settings",
}


@dataclass(frozen=True)
class Model:
    """What a card is written from.

    `state` is the checkpoint; `weights` says which of it, and `fingerprint` is that of these; `findings` are name,
    title and levels, [] for an autoencoder; `facts` are architecture and settings, in Markdown; `evaluation` is what
    the run measured of a classifier with these weights, as evaluation.json has it; `figures` is what was measured of
    them at the checkpoint's own step, and `software` by which code they were trained and exported, in Markdown.
    """

    kind: str
    state: Mapping[str, Any]
    weights: str
    fingerprint: str
    image_size: int
    findings: Sequence[Mapping[str, Any]]
    facts: Mapping[str, str]
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)


def card(
    model: Model,
    networks: Mapping[str, nn.Module],
    comparisons: Sequence[Comparison],
    folder: Path,
    licence: str | None,
    title: str | None,
) -> str:
    """The whole text.

    Args:
        networks: what was written, by name.
        folder: where all else lies already.
    """
    kind, state, counts = model.kind, model.state, level_counts(model.state)
    head = {"library_name": LIBRARIES[kind], "pipeline_tag": PIPELINES.get(kind), "tags": [*TAGS, *OWN_TAGS[kind]]}
    sampled = (folder / samples.FILE).is_file()
    split = next((name for name in ("test", "val") if model.evaluation.get(name)), None)
    values = {
        "model": model, "kind": kind, "title": title, "size": model.image_size, "drawn": only_phantoms(state),
        "sampling": json.loads((folder / "model_index.json").read_text("utf-8")) if sampled else None,
        "captions": samples.captions(model.findings, samples.conditions(model.findings, counts)) if sampled else [],
        "parameters": parameters(networks),
        "num_bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "asked": json.dumps(example(model.findings), ensure_ascii=False) if kind == "generator" else "",
        "levels": level_rows(model.findings, counts), "split": split, "measured": model.evaluation.get(split, {}),
        "aurocs": auroc_rows(model.evaluation.get(split, {})),
        "origin": {**model.software, **model.facts, **training_facts(kind, state), **model.figures},
        "comparisons": [[c.what, c.of, f"{c.largest_difference:.1e}", f"{c.tolerance:g}"] for c in comparisons],
        "files": files(folder), "has_onnx": (folder / "model.onnx").is_file(), "terms": terms_of(state[CONFIG_KEY]),
        "code": code_licence.code_of(folder), "has_licence": (folder / code_licence.FILE).is_file(),
    }  # fmt: skip
    return cards.card("model_card.md.j2", licence, head, **values, SEEDS=samples.SEEDS, version=metadata.version)


def parameters(networks: Mapping[str, nn.Module]) -> str:
    """Numbers of parameters, in all and of each network."""
    parts = {name: sum(tensor.numel() for tensor in part.parameters()) for name, part in networks.items()}
    sizes = ", ".join(f"{name.replace('_', ' ')} {number / 1e6:.3g} M" for name, number in parts.items())
    return f"{sum(parts.values()) / 1e6:.3g} M ({sizes})" if len(parts) > 1 else sizes


def example(findings: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A condition that this model knows: by title and name of the level."""
    known = {finding["name"]: finding for finding in findings}
    shown = {name: level for name, level in SHOWN.items() if level in known.get(name, {}).get("levels", ())}
    shown = shown or {findings[0]["name"]: findings[0]["levels"][-1]}
    return {slug(known[name]["title"]): level for name, level in shown.items()}


def level_rows(findings: Sequence[Mapping[str, Any]], counts: Mapping[str, Mapping[int, int]]) -> list[list[str]]:
    """The findings, their levels, and how many training images show each."""
    return [
        [f"`{finding['name']}`" if level == 0 else "", finding["title"] if level == 0 else "", f"{level} {name}",
         f"{counts.get(finding['name'], {}).get(level, 0):,}" if counts else "not told"]
        for finding in findings for level, name in enumerate(finding["levels"])
    ]  # fmt: skip


def auroc_rows(measured: Mapping[str, Any]) -> list[list[str]]:
    """AUROC of every finding that has one, of a split of evaluation.json."""
    aurocs = {name: metrics.get("auroc") for name, metrics in from_json(measured).items()}
    return [
        [f"`{name}`", f"{one.num_images:,}", f"{one.num_positive:,}", str(one)]
        for name, one in aurocs.items()
        if one is not None and one.num_positive is not None
    ]


def files(folder: Path) -> list[list[str]]:
    """Rows of a table: path and use of every file, the card that is yet to be written among them."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} | {"README.md"}
    return [[f"`{name}`", _use(name)] for name in sorted(found, key=lambda name: ("/" in name, name))]


def _use(name: str) -> str:
    part = PARTS.get(name.partition("/")[0]) if "/" in name else None
    use = FILES.get(name) or next((use for ending, use in ENDINGS.items() if name.endswith(ending)), "")
    return f"{part}: {use}" if part else use
