"""README.md of an exported model, as Hugging Face reads it: every number is of the checkpoint, or of its run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import nn

from datamodules.findings import NAMES
from experiments.card.front_matter import OWN
from experiments.card.origin import training_sources
from experiments.card.sections import gigabytes
from experiments.card.tables import facts_table, markdown
from experiments.model_export import snippets
from experiments.model_export.agreement import Comparison
from lightning_modules.checkpoint import CONFIG_KEY, TRAINED_ON_KEY

TITLES = {
    "generator": "Fundus photographs from findings, {size} px",
    "autoencoder": "Autoencoder of fundus photographs, {size} px",
    "classifier": "Findings of fundus photographs, {size} px",
}
LIBRARIES = {"generator": "diffusers", "autoencoder": "diffusers", "classifier": "timm"}
TAGS = ("medical", "ophthalmology", "fundus", "retina")
OWN_TAGS = {"generator": ("diffusion", "synthetic"), "autoencoder": ("autoencoder",), "classifier": ("onnx",)}
INTRODUCTIONS = {
    "generator": "A latent diffusion model that paints colour photographs of the fundus of the eye, {size} x {size} "
    "pixels, from findings: what is to be seen is asked for by name, and the rest is left to it.",
    "autoencoder": "An autoencoder of colour photographs of the fundus of the eye: images to latents, on which a "
    "diffusion model can be trained, and back. It was trained at {size} x {size} pixels.",
    "classifier": "A network that gives a probability to each level of findings on a colour photograph of the fundus "
    "of the eye, seen at {size} x {size} pixels.",
}
FILES = {
    "model_index.json": "what the pipeline consists of, and how it samples unless told otherwise",
    "pipeline.py": "the pipeline's code",
    "vae": "latents to images; its config has mean and deviation of each latent channel",
    "label_embedder": "findings to vectors; its config has their names and levels",
    "unet": "the denoiser, a `UNet2DModel` of diffusers",
    "transformer": "the denoiser, a diffusion transformer, with its code",
    "scheduler": "the sampler, one of diffusers'",
    "config.json": "the architecture",
    "diffusion_pytorch_model.safetensors": "the weights",
    "folded_autoencoder.py": "the network's code",
    "model.safetensors": "the backbone's weights, by timm's names",
    "heads.safetensors": "the heads: `weight` [thresholds, features] and `bias` [thresholds]",
    "model.onnx": "all of it: `image` [batch, 3, H, W] in [0, 1] to probabilities [batch, levels], an output a finding",
}


@dataclass(frozen=True)
class Model:
    """What a card is written from.

    `state` is the checkpoint; `weights` says which of it, and `fingerprint` is that of these; `findings` are name,
    title and levels, [] for an autoencoder; `facts` are architecture and settings, in Markdown; `evaluation` is what
    the run measured of a classifier with these weights, as evaluation.json has it.
    """

    kind: str
    state: Mapping[str, Any]
    weights: str
    fingerprint: str
    image_size: int
    findings: Sequence[Mapping[str, Any]]
    facts: Mapping[str, str]
    evaluation: Mapping[str, Any] = field(default_factory=dict)


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
    title = title or TITLES[model.kind].format(size=model.image_size)
    parts = [
        f"# {title}",
        INTRODUCTIONS[model.kind].format(size=model.image_size),
        "**For research. Not for diagnosis, nor for any decision on a person's care.**",
        facts_table(vital_facts(model, networks, folder, licence)),
        "## Use",
        *snippets.using(model.kind, model.findings, model.image_size, folder),
        *told(model),
        *measured(model.evaluation),
        "## How it was made",
        facts_table(origin(model)),
        *agreement(comparisons),
        "## Files",
        markdown(["", ""], files(folder)),
        *limits(model, licence),
    ]
    return front_matter(model.kind, licence) + "\n" + "\n\n".join(parts) + "\n"


def front_matter(kind: str, licence: str | None) -> str:
    """The head, between its two lines of dashes."""
    head: dict[str, Any] = {}
    if licence is not None:
        own = licence.startswith(OWN)
        head |= {"license": "other", "license_name": licence[len(OWN) :].strip()} if own else {"license": licence}
    head["library_name"] = LIBRARIES[kind]
    if kind == "classifier":
        head["pipeline_tag"] = "image-classification"
    head["tags"] = [*TAGS, *OWN_TAGS[kind]]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000)}---\n"


def vital_facts(model: Model, networks: Mapping[str, nn.Module], folder: Path, licence: str | None) -> dict[str, str]:
    """What one looks for first."""
    parts = {name: sum(tensor.numel() for tensor in part.parameters()) for name, part in networks.items()}
    sizes = ", ".join(f"{name.replace('_', ' ')} {number / 1e6:.3g} M" for name, number in parts.items())
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {
        "images": f"{model.image_size} x {model.image_size} pixels, RGB",
        "parameters": f"{sum(parts.values()) / 1e6:.3g} M ({sizes})" if len(parts) > 1 else sizes,
        "weights": f"{model.weights}, float32; fingerprint `{model.fingerprint}`",
        "size": f"{gigabytes(size)} in all",
        "licence": licence_words(licence),
    }


def licence_words(licence: str | None) -> str:
    """The licence, or that there is none."""
    if licence is None:
        return "none chosen yet; until there is one, nobody is permitted to use the weights"
    return licence.removeprefix(OWN).strip()


def told(model: Model) -> list[str]:
    """The findings, their levels, and how many training images show each."""
    if not model.findings:
        return []
    counts = level_counts(model.state.get(TRAINED_ON_KEY))
    rows = []
    for finding in model.findings:
        for level, name in enumerate(finding["levels"]):
            seen = counts.get(finding["name"], {})
            number = f"{seen.get(level, 0):,}" if counts else "not told"
            rows.append([f"`{finding['name']}`" if level == 0 else "", finding["title"] if level == 0 else "",
                         f"{level} {name}", number])  # fmt: skip
    head = {"generator": "## What can be asked for", "classifier": "## What it tells"}[model.kind]
    said = {
        "generator": "A finding is named by its first or its second column (`diabetic_retinopathy` for Diabetic "
        "retinopathy), a level by its number or its name. What is not named is unknown to the model, and not absent. "
        "**A level that no or few training images show means nothing**, though it can be asked for.",
        "classifier": "A probability for each level, of each finding by itself. What few training images show, it "
        "tells badly.",
    }[model.kind]
    return [head, said, markdown(["finding", "", "level", "training images"], rows, 1)]


def level_counts(trained_on: Mapping[str, Any] | None) -> dict[str, dict[int, int]]:
    """Training images by finding and level; {} where the checkpoint does not tell."""
    if not trained_on or "labels" not in trained_on or trained_on["labels"].shape[1] != len(NAMES):
        return {}
    labels, counts = trained_on["labels"].numpy(), trained_on["counts"].numpy()
    return {
        name: {int(level): int(counts[labels[:, column] == level].sum()) for level in np.unique(labels[:, column])}
        for column, name in enumerate(NAMES)
    }


def measured(evaluation: Mapping[str, Any]) -> list[str]:
    """AUROC of every finding on the run's own test split, or on the validation split where there is none."""
    split = next((name for name in ("test", "val") if evaluation.get(name)), None)
    if split is None:
        return []
    rows = []
    for name, found in evaluation[split].items():
        auroc = found.get("auroc")
        if auroc is None or "num_positive" not in found:
            continue
        numbers = [auroc[key] for key in ("value", "low", "high")]
        words = "–" if numbers[0] is None else f"{numbers[0]:.3f} ({said(numbers[1])} to {said(numbers[2])})"
        rows.append([f"`{name}`", f"{found['num_images']:,}", f"{found['num_positive']:,}", words])
    where = {"test": "the run's own test split", "val": "the validation split, which it was chosen by: too favourable"}[
        split
    ]
    return [
        "## How well it tells them",
        f"Area under the ROC curve on {where}, with 95 % intervals over patients; – where there are not both, images "
        "with the finding and images without.",
        markdown(["finding", "images", "with it", "AUROC"], rows, 3),
    ]


def said(number: float | None) -> str:
    """A bound of an interval; – where there is none."""
    return "–" if number is None else f"{number:.3f}"


def origin(model: Model) -> dict[str, str]:
    """Architecture, training data and what was measured, as far as the checkpoint tells."""
    trained, facts = model.state.get(TRAINED_ON_KEY) or {}, dict(model.facts)
    sources = training_sources(model.state[CONFIG_KEY])
    facts["trained on"] = "; ".join(source.markdown() for source in sources) or "not told"
    if "counts" in trained:
        patients = f" of {len(trained['patients']):,} patients" if "patients" in trained else ""
        facts["training images"] = f"{int(trained['counts'].sum()):,}{patients}"
    if trained.get("unknown"):
        facts["not known of its training"] = "; ".join(map(str, trained["unknown"]))
    if "global_step" in model.state:
        facts["trained for"] = f"{model.state['global_step']:,} steps of the optimiser"
    return facts | scores(model.state)


def scores(state: Mapping[str, Any]) -> dict[str, str]:
    """What the run had measured last when it wrote the checkpoint."""
    found = {}
    for callback in (state.get("callbacks") or {}).values():
        score = callback.get("current_score") if isinstance(callback, Mapping) else None
        if score is not None and callback.get("monitor"):
            found[f"`{callback['monitor']}` then"] = f"{float(score):.4g}, of the run's own validation split"
    return found


def agreement(comparisons: Sequence[Comparison]) -> list[str]:
    """How far the folder and the original differ."""
    rows = [[one.what, one.of, f"{one.largest_difference:.1e}", f"{one.tolerance:g}"] for one in comparisons]
    return [
        "## Is it the model that was trained?",
        "When this folder was written, a process that had nothing but it loaded it, and what came of it was compared "
        "with the original on the same input. The largest difference of any value, all of which lie in [0, 1]:",
        markdown(["", "compared", "largest difference", "bound"], rows, 2),
    ]


def files(folder: Path) -> list[list[str]]:
    """What lies in the folder, and what it is for."""
    return [[f"`{name}`", what] for name, what in FILES.items() if (folder / name).exists()]


def limits(model: Model, licence: str | None) -> list[str]:
    """Licence, use, and what is not known."""
    sources = training_sources(model.state[CONFIG_KEY])
    terms = sorted({source.licence for source in sources} - {""})
    theirs = f" It learnt from data on these terms, which may bind the weights: {'; '.join(terms)}." if terms else ""
    points = {
        "generator": [
            "What is asked for is not always what is painted: have images looked at, or annotated, before they stand "
            "for a finding. Guidance shows a finding more plainly than photographs do, and makes images more alike.",
            "What is not asked for occurs as often as in the training data, and not as in a population.",
            "A generator can reproduce photographs that it was trained on. Whether this one does was not examined: do "
            "not hand it on before that, where the photographs are of patients.",
            f"It paints {model.image_size} x {model.image_size} pixels. What is smaller than a pixel there is not in "
            "them.",
        ],
        "autoencoder": [
            "What its latents cannot hold, as small lesions and thin vessels may be, is smoothed away.",
            "Photographs can be recovered from their latents: treat the latents of patients as their photographs.",
        ],
        "classifier": [
            "Probabilities are what the network gives. On photographs of other cameras and other people they can be "
            "far from how often a finding is there.",
            "It was measured on photographs like those of its training alone. Test it on your own before anything is "
            "said of what it can do.",
            "It answers whatever it is shown, fundus or not.",
        ],
    }[model.kind]
    return [
        "## Licence and intended use",
        f"Licence: {licence_words(licence)}.{theirs}",
        "For research and teaching: software for fundus photographs, synthetic data, methods. It is no medical device. "
        "Not for diagnosis, nor for any decision on a person's care.",
        "## Known limits",
        "\n".join(f"- {point}" for point in points),
    ]
