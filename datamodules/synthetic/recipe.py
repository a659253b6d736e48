"""The recipe of a synthetic set: the shape of recipe.json, what cannot be in it, and the ids that follow from it."""

import hashlib
import json
from typing import Any

from datamodules.files import misfit
from datamodules.findings import NAMES

FORMAT = 1
ID_DIGITS = 8  # of the recipe's hash, in front of an image's number
MOST_SHARDS = 99_999  # of five digits, by which their names are in order
MOST_PIXELS = 16_384  # along a side
IMAGE_FORMATS = ("png", "jpeg", "webp")
RECIPE_SHAPE = {
    "generator": {"checkpoint": str, "weights": str, "image_size?": int, "config?": dict, "fingerprints?": dict},
    "plan": {"fingerprint": str, "num_images": int},
    "sampling": dict,
    "image": {"format": str, "quality?": int, "size": int},
    "shards": {"num_shards": int, "images_per_shard": int, "images_per_row_group": int},
    "filter?": {"findings": [str], "annotators?": [str]},
    "seed": int,
}  # as misfit reads it; keys of one's own may stand beside these


def id_prefix(recipe: dict[str, Any]) -> str:
    """Eight hexadecimal digits of a hash of the recipe: what ids of two sets differ by."""
    text = json.dumps(recipe, sort_keys=True)
    return f"{hashlib.blake2b(text.encode(), digest_size=ID_DIGITS // 2).hexdigest()}-"


def recipe_fault(recipe: dict[str, Any]) -> str | None:
    """What a recipe lacks, or says that cannot be; None for nothing."""
    return misfit(recipe, RECIPE_SHAPE) or _contradiction(recipe)


def _contradiction(recipe: dict[str, Any]) -> str | None:
    """What a recipe of the right shape says that cannot be; None for nothing."""
    shards, image, num_images = recipe["shards"], recipe["image"], recipe["plan"]["num_images"]
    for name, value in {"plan.num_images": num_images, **{f"shards.{key}": shards[key] for key in
                        ("num_shards", "images_per_shard", "images_per_row_group")}}.items():  # fmt: skip
        if value < 1:
            return f"{name} is {value}, and must be at least 1"
    wanted = -(-num_images // shards["images_per_shard"])
    if shards["num_shards"] != wanted or wanted > MOST_SHARDS:
        return (
            f"shards.num_shards is {shards['num_shards']}, and {num_images:,} images, {shards['images_per_shard']:,} a "
            f"shard, are {wanted:,} shards, of which there may be {MOST_SHARDS:,}"
        )
    if image["format"] not in IMAGE_FORMATS:
        return f"image.format is {image['format']!r}, and must be one of: {', '.join(IMAGE_FORMATS)}"
    if not 1 <= image["size"] <= MOST_PIXELS:
        return f"image.size is {image['size']}, and must be 1 to {MOST_PIXELS:,} pixels"
    unknown = [name for name in (recipe.get("filter") or {}).get("findings", ()) if name not in NAMES]
    return f"filter.findings names {unknown[0]!r}, which is no finding" if unknown else None
