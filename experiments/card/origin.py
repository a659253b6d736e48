"""What made a set, out of its recipe: the generator, what that was trained on, the sampling; as words of a table."""

import importlib
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from datamodules.synthetic.layout import TRAINED_ON
from datamodules.synthetic.lineage import read_trained_on, unknown_of

ROOM = "datamodules."  # only classes of here are looked at: a recipe may name any
DRAWN = "datamodules.sources.phantom.PhantomSource"
PARTS = ("denoiser", "autoencoder")


class TrainingSource(NamedTuple):
    """A dataset that trained the generator: its name here, and its title, terms and address, "" where not known."""

    name: str
    title: str
    licence: str
    address: str

    def markdown(self) -> str:
        """For a card."""
        known = [self.licence and f"terms: {self.licence}", self.address]
        more = f" ({'; '.join(text for text in known if text)})" if any(known) else ""
        return f"`{self.name}`{f': {self.title}' if self.title else ''}{more}"


PHANTOM = TrainingSource("phantom", "procedural images drawn by this project's code; no person's", "", "")


def training_sources(config: Mapping[str, Any]) -> list[TrainingSource]:
    """The datasets of a resolved configuration, those of a union one by one; [] where it names none."""
    return _sources(_mapping(_mapping(config).get("data")).get("source"), None)


def terms_of(config: Mapping[str, Any]) -> list[str]:
    """The terms of these datasets, as far as they are known."""
    return sorted({source.licence for source in training_sources(config)} - {""})


def _sources(node: Any, name: str | None) -> list[TrainingSource]:
    node = _mapping(node)
    if isinstance(node.get("sources"), Mapping):
        return [source for key, member in node["sources"].items() for source in _sources(member, str(key))]
    target = str(node.get("_target_", ""))
    if not target:
        return []
    if target == DRAWN:
        return [PHANTOM]
    known = _class(target)
    name = name or str(node.get("name") or getattr(known, "name", "") or target.rpartition(".")[2])
    return [TrainingSource(name, *(str(getattr(known, key, "") or "") for key in ("title", "licence", "address")))]


def _class(target: str) -> Any:
    """A class of ours, or None."""
    module, _, name = target.rpartition(".")
    if not module.startswith(ROOM):
        return None
    try:
        return getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return None


def generator_facts(recipe: Mapping[str, Any], root: Path) -> dict[str, str]:
    """Architecture, size, fingerprints and training data of the generator, in Markdown."""
    generator = _mapping(recipe.get("generator"))
    config = _mapping(generator.get("config"))
    model, fingerprints = _mapping(config.get("model")), _mapping(generator.get("fingerprints"))
    facts = {part: architecture(model[part]) for part in PARTS if isinstance(model.get(part), Mapping)}
    objective = _mapping(model.get("objective"))
    if "prediction" in objective:
        facts["objective"] = f"predicts {objective['prediction']}, weighted {objective.get('weighting')}"
    if generator.get("image_size"):
        facts["trained at"] = f"{generator['image_size']} x {generator['image_size']} pixels"
    if generator.get("weights"):
        facts["fingerprint of the weights"] = f"`{generator['weights']}`"
    facts["trained on"] = "; ".join(source.markdown() for source in training_sources(config)) or "not told"
    patients = read_trained_on(root)
    if patients is not None:
        facts["patients in its training"] = f"{len(patients):,} (hashes in [{TRAINED_ON}]({TRAINED_ON}))"
    unknown = unknown_of(root)
    if unknown:
        facts["not known of its training"] = "; ".join(unknown)
    for name, value in fingerprints.items():
        facts[f"fingerprint of the {name}"] = f"`{value}`"
    return facts


def architecture(node: Mapping[str, Any]) -> str:
    """The class of a network, and its sizes: `UNet (channels [48, 96, 192], layers_per_block 1)`."""
    sizes = [f"{key} {value}" for key, value in node.items() if not str(key).startswith("_") and value is not None]
    return f"`{str(node.get('_target_', 'unknown')).rpartition('.')[2]}` ({', '.join(sizes)})"


def sampling_facts(recipe: Mapping[str, Any]) -> dict[str, str]:
    """How the images were drawn, and from which plan."""
    plan = _mapping(recipe.get("plan"))
    facts = {str(key).replace("_", " "): _words(value) for key, value in _mapping(recipe.get("sampling")).items()}
    facts["plan"] = _words(plan.get("made_by"))
    if plan.get("fingerprint"):
        facts["fingerprint of the plan"] = f"`{plan['fingerprint']}`"
    facts["seed"] = _words(recipe.get("seed"))
    facts["filter"] = _words(recipe.get("filter"))
    return facts


def _words(value: Any) -> str:
    """Plain containers on a line; of a path on the maker's machine the last part alone."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return "; ".join(f"{str(key).replace('_', ' ')} {_words(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_words, value)) + "]"
    text = str(value)
    return PurePath(text).name if "/" in text else text


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
