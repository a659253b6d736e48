"""README.md of an exported model, as Hugging Face reads it: every number is of the checkpoint, or of its run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from callbacks.metrics.estimate import from_json
from experiments.card.front_matter import OWN
from experiments.card.sections import gigabytes
from experiments.card.tables import facts_table, markdown
from experiments.model_export import samples, snippets, words
from experiments.model_export.agreement import Comparison
from experiments.model_export.code_licence import licence_of_code
from experiments.model_export.contents import files
from experiments.model_export.training import level_counts, only_phantoms, sources_of, training_facts

LIBRARIES = {"generator": "diffusers", "autoencoder": "diffusers", "classifier": "timm"}
TAGS = ("medical", "ophthalmology", "fundus", "retina")
OWN_TAGS = {"generator": ("diffusion", "synthetic"), "autoencoder": ("autoencoder",), "classifier": ("onnx",)}
PIPELINES = {"generator": "unconditional-image-generation", "classifier": "image-classification"}  # tags of the Hub


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
    drawn = only_phantoms(model.state)
    titles = words.PHANTOM_TITLES if drawn else words.TITLES
    parts = [
        f"# {title or titles[model.kind].format(size=model.image_size)}",
        " ".join([words.ONLY_PHANTOMS] * drawn + [words.INTRODUCTIONS[model.kind].format(size=model.image_size)]),
        f"**{words.PHANTOM_USE if drawn else words.USE}**",
        *samples.shown(folder, model.findings, level_counts(model.state)),
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
        *limits(model, licence, folder),
    ]
    return front_matter(model.kind, licence) + "\n" + "\n\n".join(parts) + "\n"


def front_matter(kind: str, licence: str | None) -> str:
    """The head, between its two lines of dashes."""
    head: dict[str, Any] = {}
    if licence is not None:
        own = licence.startswith(OWN)
        head |= {"license": "other", "license_name": licence[len(OWN) :].strip()} if own else {"license": licence}
    head["library_name"] = LIBRARIES[kind]
    if kind in PIPELINES:
        head["pipeline_tag"] = PIPELINES[kind]
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
    counts = level_counts(model.state)
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


def measured(evaluation: Mapping[str, Any]) -> list[str]:
    """AUROC of every finding on the run's own test split, or on the validation split where there is none."""
    split = next((name for name in ("test", "val") if evaluation.get(name)), None)
    if split is None:
        return []
    aurocs = {name: metrics.get("auroc") for name, metrics in from_json(evaluation[split]).items()}
    rows = [
        [f"`{name}`", f"{one.num_images:,}", f"{one.num_positive:,}", str(one)]
        for name, one in aurocs.items()
        if one is not None and one.num_positive is not None
    ]
    where = {"test": "the run's own test split", "val": "the validation split, which it was chosen by: too favourable"}[
        split
    ]
    explained = [text for name, text in words.ROWS.items() if name in evaluation[split]]
    return [
        "## How well it tells them",
        " ".join([words.EVALUATED.format(where=where), *explained]),
        markdown(["finding", "images", "with it", "AUROC"], rows, 3),
    ]


def origin(model: Model) -> dict[str, str]:
    """Code, architecture, training data and what was measured, as far as checkpoint and run tell."""
    return {**model.software, **model.facts, **training_facts(model.kind, model.state), **model.figures}


def agreement(comparisons: Sequence[Comparison]) -> list[str]:
    """How far the folder and the original differ."""
    rows = [[one.what, one.of, f"{one.largest_difference:.1e}", f"{one.tolerance:g}"] for one in comparisons]
    return [
        "## Is it the model that was trained?",
        "When this folder was written, a process that had nothing but it loaded it, and what came of it was compared "
        "with the original on the same input. The largest difference of any value, all of which lie in [0, 1]:",
        markdown(["", "compared", "largest difference", "bound"], rows, 2),
    ]


def limits(model: Model, licence: str | None, folder: Path) -> list[str]:
    """Licences, use, and what is not known."""
    drawn, code = only_phantoms(model.state), licence_of_code(folder)
    terms = sorted({source.licence for source in sources_of(model.state)} - {""})
    theirs = f" It learnt from data on these terms, which may bind the weights: {'; '.join(terms)}." if terms else ""
    points = [point.format(size=model.image_size) for point in words.LIMITS[model.kind]]
    return [
        "## Licence and intended use",
        f"Licence of the weights: {licence_words(licence)}.{theirs}",
        *([code] if code else []),
        f"{words.PHANTOM_PURPOSE if drawn else words.PURPOSE} Not for diagnosis, nor for any decision on a person's "
        "care.",
        "## Known limits",
        "\n".join(f"- {point}" for point in points),
    ]
