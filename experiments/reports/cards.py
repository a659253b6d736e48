"""Cards, as the Hugging Face Hub reads them: licence, and the YAML at the head."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import CardData

from datamodules.errors import UserError, did_you_mean
from experiments.reports.render import render

LICENCES = (
    "apache-2.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "mit",
    "odbl", "odc-by", "pddl",
)  # fmt: skip
OWN = "other:"  # what a licence that the Hub does not know begins with


def check_licence(licence: str | None) -> str | None:
    """A licence as the Hub calls it, `other: <words>` for another, or None for none.

    Raises:
        ValueError: anything else; lists the known ones, and names the nearest.
    """
    text = "" if licence is None else str(licence)
    if licence is None or text in LICENCES or (text.startswith(OWN) and text[len(OWN) :].strip()):
        return licence
    raise UserError(
        f"job.license={licence!r} is no licence of the Hugging Face Hub.{did_you_mean(text, LICENCES)} "
        f"Known: {', '.join(LICENCES)}. One of your own: 'job.license={OWN} its name'."
    )


def card(template: str, licence: str | None, head: Mapping[str, Any], **values: Any) -> str:
    """The text of a card: its licence and `head` as YAML, and the page of a template, which is given `licence` too."""
    name = None if licence is None else licence.removeprefix(OWN).strip()
    own = licence is not None and licence.startswith(OWN)
    data = CardData(license="other" if own else name, license_name=name if own else None, **head)
    return f"---\n{data.to_yaml()}\n---\n\n" + render(template, licence=name, **values)
