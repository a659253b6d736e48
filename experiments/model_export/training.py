"""What trained an exported model, in words: images and patients of each part, as far as its checkpoint tells."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from datamodules.findings import NAMES
from experiments.card.origin import PHANTOM, TrainingSource, training_sources
from lightning_modules.checkpoint import CONFIG_KEY, TRAINED_ON_KEY

ELSEWHERE = "which was trained before this run; on what, its own card or checkpoint tells"


def sources_of(state: Mapping[str, Any]) -> list[TrainingSource]:
    """The datasets of the run that wrote a checkpoint."""
    return training_sources(state[CONFIG_KEY])


def only_phantoms(state: Mapping[str, Any]) -> bool:
    """Whether all images of the run were drawn by our code, and it began with no other model of photographs."""
    sources = sources_of(state)
    return bool(sources) and all(source == PHANTOM for source in sources) and not beginnings(state)


def beginnings(state: Mapping[str, Any]) -> list[str]:
    """The trained weights that the run began with, in words; published ones of ImageNet are not among them."""
    config = state[CONFIG_KEY]
    autoencoder = (config.get("autoencoder") or {}).get("pretrained")
    init = (config.get("model") or {}).get("init") or {}
    given = config.get("ckpt") or str(init.get("_target_", "")).endswith(".CheckpointInit")
    return [
        *([f"the weights of another checkpoint, {ELSEWHERE}"] if given else []),
        *([f"an autoencoder, {ELSEWHERE}"] if autoencoder else []),
    ]


def training_facts(kind: str, state: Mapping[str, Any]) -> dict[str, str]:
    """Data, images and patients of the run itself; apart from them whoever is known through other networks alone."""
    trained, begun, facts = state.get(TRAINED_ON_KEY) or {}, beginnings(state), {}
    what = "denoiser trained on" if kind == "generator" else "trained on"
    facts[what] = "; ".join(source.markdown() for source in sources_of(state)) or "not told"
    own, seen = trained.get("own_patients"), trained.get("patients")
    if "counts" in trained:
        name = "training images of the denoiser" if kind == "generator" else "training images"
        facts[name] = f"{int(trained['counts'].sum()):,}" + ("" if own is None else f" of {int(own):,} patients")
    if kind == "generator":
        facts["autoencoder trained on"] = "the data of the same run" if not begun else "not told here: see the next row"
    if begun:
        facts["began with"] = "; ".join(begun)
    if seen is not None and (own is None or len(seen) != int(own)):
        through = ", through the weights it began with too" if begun else ""
        facts["patients seen by any of its networks"] = f"{len(seen):,}{through}"
    if trained.get("unknown"):
        facts["not known of its training"] = "; ".join(without_folders(line) for line in trained["unknown"])
    if "global_step" in state:
        facts["trained for"] = f"{state['global_step']:,} steps of the optimiser"
    return facts


def without_folders(text: str) -> str:
    """A text whose quoted paths are names alone: a card says nothing of its maker's machine."""
    return re.sub(r"'[^']*/([^'/]+)'", r"'\1'", text)


def level_counts(state: Mapping[str, Any]) -> dict[str, dict[int, int]]:
    """Training images by finding and level; {} where the checkpoint does not tell."""
    trained_on = state.get(TRAINED_ON_KEY)
    if not trained_on or "labels" not in trained_on or trained_on["labels"].shape[1] != len(NAMES):
        return {}
    labels, counts = trained_on["labels"].numpy(), trained_on["counts"].numpy()
    return {
        name: {int(level): int(counts[labels[:, column] == level].sum()) for level in np.unique(labels[:, column])}
        for column, name in enumerate(NAMES)
    }
