"""HTML elements of text that comes from anywhere: whatever is not markup made here is escaped."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

VOID = ("meta", "img", "br", "hr")
UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


class Html(str):
    """Markup; any other text is escaped when it becomes part of an element."""

    __slots__ = ()


def text(content: Any) -> Html:
    """Text as markup, escaped; characters that HTML forbids, or that turn the reading direction, become U+FFFD."""
    return content if isinstance(content, Html) else Html(escape(UNPRINTABLE.sub("\ufffd", str(content))))


def element(name: str, /, *children: Any, **attributes: Any) -> Html:
    """`<name attribute="…">children</name>`; `class_` stands for class, `http_equiv` for http-equiv."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    start = f"<{name}" + "".join(f' {key}="{text(value)}"' for key, value in given.items()) + ">"
    return Html(start if name in VOID else f"{start}{join(children)}</{name}>")


def join(parts: Iterable[Any]) -> Html:
    """The parts one after the other."""
    return Html("".join(text(part) for part in parts))


def many(number: int, noun: str) -> str:
    """`1 pair`, `2,000 pairs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def table(
    caption: str, header: Sequence[Any], rows: Iterable[Sequence[Any]], num_heads: int = 1, class_: str | None = None
) -> Html:
    """A table of rows of equal length; the first `num_heads` cells of a row are its heads, numbers are at the right."""
    rows = [list(row) for row in rows]
    first = rows[0] if rows else header
    head = element("tr", *(element("th", c, scope="col", class_=_kind(f)) for c, f in zip(header, first, strict=True)))
    body = [
        element("tr", *(element("th", cell, scope="row") for cell in row[:num_heads]), *map(_cell, row[num_heads:]))
        for row in rows
    ]
    parts = (element("caption", caption), element("thead", head), element("tbody", *body))
    return element("table", *parts, class_=class_)


def _cell(content: Any) -> Html:
    return element("td", f"{content:,}" if _kind(content) else content, class_=_kind(content))


def _kind(content: Any) -> str | None:
    return "number" if isinstance(content, int) else None


def link(address: str) -> Html:
    """A link where the text is the address of a page, else the text."""
    return element("a", address, href=address, rel="noreferrer") if re.match(r"https?://", address) else text(address)
