"""The command that makes a set again, out of its recipe."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

HARMLESS = re.compile(r"[\w.,:/=+\[\]-]*", re.ASCII)  # text that no shell reads as anything else
RUN = "python -m experiments.run"
LAWS = ("training", "balanced")  # which follow from the checkpoint and the seed alone
SAMPLING = ("scheduler", "num_steps", "spacing", "guidance", "guidance_interval", "guidance_rescale",
            "classifier_scale", "classifier_interval", "classifier_findings", "precision")  # fmt: skip
FILTER = ("findings", "threshold", "tolerance", "max_attempts")


def command(recipe: Mapping[str, Any]) -> str:
    """A line of the shell; <folder>, <set> and <runs> are where the reader has the checkpoint, this set, annotators."""
    words = [RUN, "+exp=synthesize", f"ckpt=<folder>/{_quoted(recipe['generator']['checkpoint'])}", *_plan(recipe)]
    sampling, image, shards = recipe["sampling"], recipe["image"], recipe["shards"]
    words += [f"job.{name}={_value(sampling[name])}" for name in SAMPLING if sampling.get(name) is not None]
    words.append(f"job.image_format={image['format']}")
    if image.get("quality") is not None:
        words.append(f"job.image_quality={image['quality']}")
    if image["size"] != recipe["generator"].get("image_size"):
        words.append(f"job.image_size={image['size']}")
    words += [f"job.{name}={shards[name]}" for name in ("images_per_shard", "images_per_row_group")]
    agreement = recipe.get("filter")
    if agreement:
        words.append("job.filter.annotators=[<runs>]")
        words += [f"job.filter.{name}={_value(agreement[name])}" for name in FILTER if name in agreement]
    return " \\\n  ".join([" ".join(words[:3]), " ".join(words[3:])])


def _plan(recipe: Mapping[str, Any]) -> list[str]:
    """The law of the plan; one that needs files of the maker's is replaced by the plan that came of it."""
    made_by = recipe["plan"].get("made_by")
    law = made_by.get("law") if isinstance(made_by, Mapping) else None
    if law in LAWS:
        return [f"plan={law}", f"num_images={recipe['plan']['num_images']}", f"seed={recipe['seed']}"]
    return ["plan=table", "plan.path=<set>/plan.parquet", f"seed={recipe['seed']}"]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return _quoted("{" + ",".join(f"{name}:{number}" for name, number in value.items()) + "}")
    return _quoted(f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value))


def _quoted(text: str) -> str:
    """Text of a recipe as a part of a command that a reader pastes: a recipe is not to run anything else by it."""
    return text if HARMLESS.fullmatch(text) else shlex.quote(" ".join(text.split()))
