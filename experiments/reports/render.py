"""Templates to text: `*.html.j2` and `*.md.j2` in templates/. Numbers are computed elsewhere."""

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|])")

_environment = Environment(
    loader=PackageLoader("experiments.reports"),
    autoescape=lambda name: name is not None and name.endswith(".html.j2"),
    finalize=lambda value: UNPRINTABLE.sub("\ufffd", value) if type(value) is str else value,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_environment.filters["md"] = lambda text: MARKDOWN.sub(r"\\\1", str(text)).replace("\n", " ")


def render(template: str, /, **values: Any) -> str:
    """The page of a template.

    In HTML every value is escaped. In Markdown the filter `md` escapes a text that comes from elsewhere. Characters
    that HTML forbids, or that turn the reading direction, become U+FFFD.

    Raises:
        jinja2.UndefinedError: a value that the template needs and is not given.
    """
    return _environment.get_template(template).render(**values)
