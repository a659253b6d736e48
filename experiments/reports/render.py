"""Templates to text: `*.html.j2` and `*.md.j2` in templates/. Numbers are computed elsewhere."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|])")


def cell(text: Any) -> str:
    """Markdown that is to stand in a cell of a table."""
    return str(text).replace("|", "\\|")


def escaped(text: Any) -> str:
    """Text from elsewhere in a line of Markdown, where none of it is markup."""
    return MARKDOWN.sub(r"\\\1", str(text)).replace("\n", " ")


def markdown_table(
    header: Sequence[str],
    rows: Iterable[Iterable[Any]],
    numbers: Collection[int] = (),
    escape: Callable[[Any], str] = cell,
) -> str:
    """A table in Markdown; the columns `numbers`, counted from 0, are aligned to the right."""
    rule = ["---:" if column in numbers else "---" for column in range(len(header))]
    lines = [header, rule, *(map(escape, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_environment = Environment(
    loader=PackageLoader("experiments.reports"),
    autoescape=lambda name: name is not None and name.endswith(".html.j2"),
    finalize=lambda value: UNPRINTABLE.sub("\ufffd", value) if type(value) is str else value,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_environment.globals["table"] = markdown_table
_environment.filters |= {
    "cell": cell,
    "code": lambda names: ", ".join(f"`{name}`" for name in names),
    "many": lambda number, noun: f"{number:,} {noun}{'' if number == 1 else 's'}",  # `2,000 pairs`
    "md": escaped,
    "number": lambda number: f"{number:,}",
    "size": lambda size: f"{size / 1e9:.3g} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB",  # bytes, for people
}


def render(template: str, /, **values: Any) -> str:
    """The page of a template.

    In HTML every value is escaped. In Markdown the filter `md` escapes a text that comes from elsewhere, and `cell`
    keeps what is Markdown already within its cell. Characters that HTML forbids, or that turn the reading direction,
    become U+FFFD.

    Raises:
        jinja2.UndefinedError: a value that the template needs and is not given.
    """
    return _environment.get_template(template).render(**values)
