"""The card of a synthetic set and its contact sheet, written into the folder of the set."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub.repocard import REGEX_YAML_BLOCK
from markupsafe import Markup
from PIL import Image

from callbacks.files import own_folder, write_atomically, write_text
from datamodules.errors import UserError
from datamodules.files import parsed_yaml, read_text
from datamodules.findings import FINDINGS, describe_levels
from datamodules.synthetic import SyntheticSet
from datamodules.synthetic.layout import CARD, CONTACT_SHEET
from experiments.annotation.page import COLUMNS
from experiments.annotation.real_reference import named
from experiments.card.facts import Facts, gather
from experiments.card.origin import terms_of
from experiments.card.remake import command
from experiments.card.sheet import sheet
from experiments.card.tables import acceptance_rows, agreement_rows, counts_rows, share, untold
from experiments.reports.cards import OWN, card, check_licence

VERSION = "1.0.0"
NUM_COLUMNS = 6
MOVE = "move it away; what you want to keep of it goes between the two marked lines of the new one"
OWN_BEGIN = "<!-- Words of your own from here: they stay when the card is written again. -->"
OWN_END = "<!-- Words of your own to here. -->"
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
TAGS = ("synthetic", "medical", "ophthalmology", "fundus", "retina", "diffusion", "diabetic-retinopathy", "glaucoma")


def write_card(
    root: str | Path,
    license: str | None = None,
    title: str | None = None,
    version: str | None = None,
    num_columns: int = NUM_COLUMNS,
) -> Path:
    """Write README.md and samples/contact_sheet.png of a whole set; returns the path of README.md.

    What is None stays as the card that is there has it. Written twice from the same files it is the same.

    Args:
        root: the set's folder.
        license: as the Hugging Face Hub calls it, or `other: <words>`; None and no card: none chosen yet.
        title: None and no card: `Synthetic fundus photographs, 512 px`.
        version: None and no card: 1.0.0.
        num_columns: images a row of the contact sheet.

    Raises:
        ValueError: a licence that is none; a set that is not complete; a README.md of another hand.
        FileNotFoundError: no set at `root`.
    """
    return written(SyntheticSet(root), license, title, version, num_columns)[0]


def written(
    dataset: SyntheticSet, license: str | None, title: str | None, version: str | None, num_columns: int
) -> tuple[Path, Facts]:
    """Write both; returns the path of README.md and what the card says."""
    path = dataset.root / CARD
    if num_columns < 1:
        raise UserError(f"job.num_columns={num_columns}: a row of images needs at least 1.")
    before, own = read_card(path)
    license = check_licence(license if license is not None else licence_of(before))
    facts = gather(dataset)
    title = title or before.get("pretty_name") or f"Synthetic fundus photographs, {facts.image_size} px"
    version = str(version or before.get("version") or VERSION)
    picture = Image.fromarray(sheet(dataset, dataset.plan, num_columns))
    own_folder(dataset.root, Path(CONTACT_SHEET).parent)
    write_atomically(dataset.root / CONTACT_SHEET, picture.save)
    write_text(path, card_of(facts, title, version, license, own))
    return path, facts


def read_card(path: Path) -> tuple[dict[str, Any], str]:
    """Of a card that is there: its head, {} where none can be read, and what a person wrote between the two lines.

    Raises:
        ValueError: a README.md without the two lines, which is none of ours.
    """
    if not path.is_file():
        return {}, ""
    text = read_text(path, MOVE)
    own = re.search(f"{re.escape(OWN_BEGIN)}\n(.*?){re.escape(OWN_END)}", text, re.DOTALL)
    if own is None:
        raise UserError(
            f"{path} is there, and is no card of this job: the lines {OWN_BEGIN!r} and {OWN_END!r} are not in it. "
            "Remedy: move it away; what you want to keep of it goes between these lines of the new one."
        )
    try:
        head = parsed_yaml(REGEX_YAML_BLOCK.search(text)[2])  # our own reader: it limits what a few lines expand to
    except (TypeError, ValueError):
        head = {}
    return head if isinstance(head, dict) else {}, own[1]


def licence_of(head: Mapping[str, Any]) -> str | None:
    """The licence that a head names, as `check_licence` takes it; None for none."""
    licence = head.get("license")
    return f"{OWN} {head['license_name']}" if licence == "other" and head.get("license_name") else licence


def size_category(num_images: int) -> str:
    """As the Hub calls it: `1K<n<10K` from a thousand images on."""
    return SIZES[min(max(0, (len(str(num_images)) - 3)), len(SIZES) - 1)]


def head_of(title: str, version: str, num_images: int, annotated: bool) -> dict[str, Any]:
    """What the YAML of a card says besides the licence."""
    folders = {"default": "data"} | ({"annotations": "annotations"} if annotated else {})
    configs = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{folder}/*.parquet"}]}
        | ({"default": True} if name == "default" else {})
        for name, folder in folders.items()
    ]
    return {
        "pretty_name": title,
        "version": version,
        "task_categories": ["image-classification"],
        "size_categories": [size_category(num_images)],
        "annotations_creators": ["machine-generated"],
        "tags": list(TAGS),
        "configs": configs,
    }


def card_of(facts: Facts, title: str, version: str, licence: str | None, own: str) -> str:
    """The whole text of README.md."""
    annotated, recipe, consistency = facts.annotations is not None, facts.recipe, facts.consistency or {}
    values = {
        "facts": facts, "annotated": annotated, "title": title, "version": version, "own": Markup(own),
        "image": recipe["image"], "filter": recipe.get("filter"), "command": command(recipe),
        "counts": counts_rows(facts.conditions, facts.annotated, facts.num_images), "untold": untold(facts.conditions),
        "acceptance": facts.acceptance, "agreed": (recipe.get("filter") or {}).get("findings") or (),
        "accepted": acceptance_rows(facts.acceptance.levels) if facts.acceptance else [],
        "annotators": annotators(facts.annotations.told) if annotated else [],
        "agreement": agreement_rows(consistency),
        "tested_on": named((consistency.get("real") or {}).get("sources") or ()),
        "terms": terms_of(recipe["generator"].get("config") or {}),
    }  # fmt: skip
    words = {"OWN_BEGIN": OWN_BEGIN, "OWN_END": OWN_END, "COLUMNS": tuple(COLUMNS.values()), "share": share,
             "findings": [(one.name, one.title, describe_levels(one.name)) for one in FINDINGS]}  # fmt: skip
    head = head_of(title, version, facts.num_images, annotated)
    return card("dataset_card.md.j2", licence, head, **values, **words)


def annotators(told: Mapping[str, Any]) -> list[str]:
    """Who annotated, as far as annotation.json tells."""
    found = []
    for one in told.get("annotators") or ():
        one = one if isinstance(one, Mapping) else {"run": one}
        weights = f" (weights `{one['weights']}`)" if one.get("weights") else ""
        found.append(f"{PurePath(str(one.get('run') or 'a classifier')).name}{weights}")
    return found
