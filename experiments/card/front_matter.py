"""The YAML at the head of a card, which the Hugging Face Hub and `datasets.load_dataset` read."""

from pathlib import Path
from typing import Any

import yaml

from datamodules.errors import UserError
from datamodules.files import parsed_yaml, read_text
from datamodules.findings import nearest

LICENCES = (
    "apache-2.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "mit",
    "odbl", "odc-by", "pddl",
)  # fmt: skip
MOVE = "move it away; what you want to keep of it goes between the two marked lines of the new one"
OWN = "other:"  # what a licence that the Hub does not know begins with
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
TAGS = ("synthetic", "medical", "ophthalmology", "fundus", "retina", "diffusion", "diabetic-retinopathy", "glaucoma")


def check_licence(licence: str | None) -> str | None:
    """A licence as the Hub calls it, `other: <words>` for another, or None for none.

    Raises:
        ValueError: anything else; lists the known ones, and names the nearest.
    """
    text = "" if licence is None else str(licence)
    if licence is None or text in LICENCES or (text.startswith(OWN) and text[len(OWN) :].strip()):
        return licence
    near = nearest(text, LICENCES)
    raise UserError(
        f"job.license={licence!r} is no licence of the Hugging Face Hub.{f' Did you mean {near!r}?' if near else ''} "
        f"Known: {', '.join(LICENCES)}. One of your own: 'job.license={OWN} its name'."
    )


def size_category(num_images: int) -> str:
    """As the Hub calls it: `1K<n<10K` from a thousand images on."""
    return SIZES[min(max(0, (len(str(num_images)) - 3)), len(SIZES) - 1)]


def front_matter(
    title: str, version: str, licence: str | None, num_images: int, annotated: bool, tags: tuple[str, ...] = TAGS
) -> str:
    """The head of a card, between its two lines of dashes."""
    head: dict[str, Any] = {}
    if licence is not None:
        own = licence.startswith(OWN)
        head |= {"license": "other", "license_name": licence[len(OWN) :].strip()} if own else {"license": licence}
    head |= {
        "pretty_name": title,
        "version": version,
        "task_categories": ["image-classification"],
        "size_categories": [size_category(num_images)],
        "annotations_creators": ["machine-generated"],
        "tags": list(tags),
        "configs": [_config("default", "data/*.parquet", True)],
    }
    if annotated:
        head["configs"].append(_config("annotations", "annotations/*.parquet", False))
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000)}---\n"


def _config(name: str, path: str, default: bool) -> dict[str, Any]:
    files = [{"split": "train", "path": path}]
    return {"config_name": name, "data_files": files} | ({"default": True} if default else {})


def head_of(path: Path) -> dict[str, Any]:
    """The head of a card that is there; {} where there is none, or none that can be read."""
    if not path.is_file():
        return {}
    parts = read_text(path, MOVE).split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        head = parsed_yaml(parts[1])
    except ValueError:
        return {}
    return head if isinstance(head, dict) else {}


def licence_of(head: dict[str, Any]) -> str | None:
    """The licence that a head names, as `check_licence` takes it; None for none."""
    licence = head.get("license")
    return f"{OWN} {head['license_name']}" if licence == "other" and head.get("license_name") else licence
