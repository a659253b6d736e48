"""Reads a page of HTML: its text, its elements, its pictures; and sees that it fetches and runs nothing."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

VOID = {"meta", "img", "br", "hr"}


class Page(HTMLParser):
    """Reads a page; every element must be closed in its turn."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.markup, self.text, self.open = path.read_text(encoding="utf-8"), "", []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(self.markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag == self.open.pop()

    def handle_data(self, data):
        self.text += data

    def images(self) -> list[Image.Image]:
        addresses = [given["src"] for tag, given in self.elements if tag == "img"]
        return [Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1]))) for address in addresses]


def check_self_contained(page: Page) -> None:
    """Nothing is fetched, nothing is run."""
    for tag, given in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "base", "form", "svg", "b"), tag
        assert not [name for name in given if name.startswith("on") or name in ("srcset", "background")]
        assert given.get("src", "data:image/").startswith("data:image/")
        assert re.match(r"#|https?://", given.get("href", "#"))
        assert tag != "img" or given["alt"]
    assert "url(" not in page.markup and "@import" not in page.markup
    named = [given["id"] for _, given in page.elements if "id" in given]
    assert len(set(named)) == len(named)
    assert {given["href"][1:] for _, given in page.elements if given.get("href", "").startswith("#")} == set(named)
    for image in page.images():
        image.load()
