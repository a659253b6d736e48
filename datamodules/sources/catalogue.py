"""All readers of public datasets, and what is written of them: where each comes from, and what its labels become."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Mapping

from datamodules import sources
from datamodules.findings import FINDINGS
from datamodules.sources.public import PublicSource


def public_sources() -> dict[str, type[PublicSource]]:
    """The readers, by the name of their option, in alphabetical order."""
    found = {}
    for module in pkgutil.iter_modules(sources.__path__):
        members = vars(importlib.import_module(f"{sources.__name__}.{module.name}")).values()
        for member in members:
            if inspect.isclass(member) and issubclass(member, PublicSource) and member.name:
                found[member.name] = member
    return dict(sorted(found.items()))


def provenance_table() -> str:
    """A Markdown table: option, dataset, images as published, masks, terms and address."""
    lines = ["| option | dataset | images | masks | terms | address |", "|---|---|---|---|---|---|"]
    for name, source in public_sources().items():
        images = f"{source.published['images']:,}" if "images" in source.published else ""
        masks = ", ".join(source.mask_levels[1:])
        address = re.sub(r"https?://\S*[^\s,.;)]", r"<\g<0>>", source.address)
        lines.append(f"| `{name}` | {source.title} | {images} | {masks} | {source.licence} | {address} |")
    return "\n".join(lines)


def layout_list() -> str:
    """Markdown: of each dataset what the root should hold, and what a careless reader gets wrong."""
    lines = []
    for name, source in public_sources().items():
        layout, trap = (text.replace("<", "&lt;") for text in (source.layout, source.trap))
        lines.append(f"- **`{name}`** holds {layout}. *Trap:* {trap}.")
    return "\n".join(lines)


def harmonisation_table() -> str:
    """A Markdown table: for each finding what says so in each dataset."""
    titles: Mapping[str, str] = {finding.name: finding.title for finding in FINDINGS}
    rows: dict[str, list[str]] = {name: [] for name in titles}
    for name, source in public_sources().items():
        for rule in source.rules:
            for label, level in rule.lines():
                rows[rule.finding].append(f"| `{rule.finding}` | `{name}` | {label} | {level} |")
    lines = ["| finding | dataset | the dataset's label | level |", "|---|---|---|---|"]
    return "\n".join([*lines, *(line for finding in rows.values() for line in finding)])
