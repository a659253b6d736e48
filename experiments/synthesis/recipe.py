"""The recipe of a synthetic set: everything that its images follow from, written down before the first."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from datamodules.errors import UserError
from datamodules.files import read_json
from datamodules.synthetic import SyntheticSet
from datamodules.synthetic.plan import Plan
from datamodules.synthetic.set import FORMAT, MOST_SHARDS
from experiments.runs import differing_keys
from lightning_modules.checkpoint import run_of, weights_fingerprint
from lightning_modules.gan import PairGAN
from lightning_modules.latent_diffusion import LatentDiffusion
from lightning_modules.synthesizer import UNKNOWN_PIXEL

Generator = LatentDiffusion | PairGAN
LEAST_SHARDS, MOST_IMAGES = 8, 2500  # by default: so that processes can share the work, and little is lost by a kill
LATER = {"guidance_rescale": 0.0}  # settings of sampling that came later, and the value by which nothing changes
FOR_PEOPLE = ("generator.checkpoint", "generator.fingerprints.")  # where it lies: its weights are what counts


def generator_facts(generator: Generator, checkpoint: str) -> dict[str, Any]:
    """What is written down of a generator; of paths only their last parts, for a set is given away."""
    return {
        "checkpoint": Path(checkpoint).name,
        "weights": weights_fingerprint(*sampling_networks(generator)),
        "fingerprints": _fingerprints(Path(checkpoint)),
        "image_size": image_size_of(generator),
        "config": without_paths(generator.config or {}),
        **({"masks": _mask_facts(generator)} if generator.mask_levels else {}),
    }


def _mask_facts(generator: Generator) -> dict[str, Any]:
    """How its masks come about, and the names of their levels; values in files are places in that list."""
    kind = "condition" if generator.takes_masks else "joint"
    code = getattr(generator, "mask_code", None)
    threshold = {} if code is None else {"threshold": code.threshold}
    return {"kind": kind, **threshold, "levels": list(generator.mask_levels), "unknown": UNKNOWN_PIXEL}


def image_size_of(generator: Generator) -> int:
    """Pixels along a side of what it makes."""
    return generator.image_size


def sampling_networks(generator: Generator) -> list[nn.Module]:
    """The networks that it samples with: their weights are what its images follow from."""
    averaged = generator.ema.network
    return [averaged] if isinstance(generator, PairGAN) else [averaged, generator.autoencoder.network]


def _fingerprints(checkpoint: Path) -> dict[str, str]:
    """Of the generator's training data and its split, where the record of its run lies by its checkpoint."""
    run = run_of(checkpoint)
    if run is None:
        return {}
    try:
        return read_json(run / "record.json", {"fingerprints?": {"*": str}}).get("fingerprints") or {}
    except (OSError, ValueError):
        return {}


def without_paths(tree: Any) -> Any:
    """A configuration with the last part of every path alone."""
    if isinstance(tree, Mapping):
        return {str(key): without_paths(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [without_paths(value) for value in tree]
    return Path(tree).name if isinstance(tree, str) and os.sep in tree else tree


def shards_of(num_images: int, images_per_shard: int | None, images_per_row_group: int) -> dict[str, int]:
    """How images are parted into shards.

    Raises:
        ValueError: fewer than one image in a shard or in a row group; more shards than their names have digits for.
    """
    for name, value in (("images_per_shard", images_per_shard), ("images_per_row_group", images_per_row_group)):
        if value is not None and value < 1:
            raise UserError(f"job.{name}={value} must be at least 1.")
    size = images_per_shard or max(1, min(MOST_IMAGES, -(-num_images // LEAST_SHARDS)))
    num_shards = -(-num_images // size)
    if num_shards > MOST_SHARDS:
        raise UserError(
            f"job.images_per_shard={size} parts {num_images:,} images into {num_shards:,} shards, and there may be "
            f"{MOST_SHARDS:,}. Give {-(-num_images // MOST_SHARDS)} or more."
        )
    return {
        "num_shards": num_shards,
        "images_per_shard": size,
        "images_per_row_group": images_per_row_group,
    }


def make_recipe(
    generator: Mapping[str, Any], plan: Plan, made_by: Mapping[str, Any], sampling: Mapping[str, Any],
    image: Mapping[str, Any], shards: Mapping[str, int], agreement: Mapping[str, Any] | None, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """The recipe, of plain containers; looks at every row of the plan."""
    recipe = {
        "format": FORMAT,
        "generator": dict(generator),
        "plan": {"fingerprint": plan.check(), "num_images": plan.num_images, "made_by": without_paths(made_by)},
        "sampling": dict(sampling),
        "image": dict(image),
        "shards": dict(shards),
        "filter": None if agreement is None else dict(agreement),
        "seed": seed,
    }
    return json.loads(json.dumps(recipe))


def keep_to(root: Path, recipe: Mapping[str, Any]) -> SyntheticSet:
    """The set in this folder, which is begun by this recipe, or was.

    Raises:
        ValueError: what is there was begun by another recipe; names what differs.
    """
    found = SyntheticSet.begin(root, recipe)
    later = {name: value for name, value in LATER.items() if name in recipe["sampling"]}
    begun = {**found.recipe, "sampling": later | dict(found.recipe["sampling"])}
    differing = [key for key in differing_keys(recipe, begun) if not key.startswith(FOR_PEOPLE)]
    if differing:
        there, here = begun, recipe
        said = [f"{key} is {_at(there, key)!r} there and {_at(here, key)!r} here" for key in differing[:6]]
        raise UserError(
            f"{str(root)!r} was begun by another recipe, and its shards are not of this one: {'; '.join(said)}. "
            "Remedy: give what it was begun with, or another output_dir."
        )
    return found


def _at(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree
