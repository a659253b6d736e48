"""README.md of a set: head, sections, and the words of its own that a person has put into it."""

import re
from pathlib import Path

from datamodules.errors import UserError
from datamodules.files import read_text
from experiments.card import sections
from experiments.card.facts import Facts
from experiments.card.front_matter import MOVE, front_matter

OWN_BEGIN = "<!-- Words of your own from here: they stay when the card is written again. -->"
OWN_END = "<!-- Words of your own to here. -->"


def card(facts: Facts, title: str, version: str, licence: str | None, own: str = "") -> str:
    """The whole text.

    Args:
        own: words of a person's own, Markdown.
    """
    head = front_matter(title, version, licence, facts.num_images, facts.annotations is not None)
    parts = [
        *sections.opening(facts, title, version, licence),
        f"{OWN_BEGIN}\n{own}{OWN_END}",
        *sections.making(facts),
        *sections.contents(facts),
        *sections.consistency(facts),
        *sections.columns(facts),
        *sections.use(licence, facts),
        *sections.limits(facts),
        *sections.privacy(facts),
        *sections.verification(facts),
    ]
    return head + "\n" + "\n\n".join(parts) + "\n"


def own_words(path: Path) -> str:
    """What a person has written between the two lines of a card that is there; "" where there is no card.

    Raises:
        ValueError: a README.md without the two lines, which is none of ours.
    """
    if not path.is_file():
        return ""
    found = re.search(f"{re.escape(OWN_BEGIN)}\n(.*?){re.escape(OWN_END)}", read_text(path, MOVE), re.DOTALL)
    if found is None:
        raise UserError(
            f"{path} is there, and is no card of this job: the lines {OWN_BEGIN!r} and {OWN_END!r} are not in it. "
            "Remedy: move it away; what you want to keep of it goes between these lines of the new one."
        )
    return found[1]
