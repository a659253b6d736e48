"""Reads the code blocks of a page, and as a script runs them all in the working folder, as a reader would."""

import contextlib
import io
import os
import re
import runpy
import shlex
import string
import sys
from pathlib import Path
from typing import NamedTuple

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"(?:# @package.*\n)?#\s+([\w./-]+\.(?:py|yaml))\b")  # a block whose first comment names its file
RUN = "python -m experiments.run"


class Block(NamedTuple):
    """A fenced code block: its language, its text, and the file that its first comment names ("" if none)."""

    language: str
    text: str
    file: str


def blocks(page: Path) -> list[Block]:
    """The code blocks of a Markdown page, in order."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    names = ((FILE.match(text) if language in ("python", "yaml") else None) for language, text in found)
    return [Block(*block, name[1] if name else "") for block, name in zip(found, names, strict=True)]


def commands(text: str) -> list[str]:
    """The commands of a bash block: lines, those that end in a backslash joined to the next, comments left out."""
    lines = (line.split("  #")[0].strip() for line in text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def run_page(page: Path) -> None:
    """Write the files of a page and run its commands and its Python, one after the other."""
    variables: dict[str, str] = {}
    for block in blocks(page):
        if block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, page.name, "exec"), {"__name__": "page"})
        elif block.language == "bash":
            for command in commands(block.text):
                run_command(command, variables)


def run_command(command: str, variables: dict[str, str]) -> None:
    """Carry out an assignment, or an experiment in this process."""
    if assignment := re.fullmatch(r'(\w+)="(.*)"', command):
        variables[assignment[1]] = assignment[2]
        return
    assert command.startswith(RUN), f"not a command that this script knows: {command}"
    words = shlex.split(string.Template(command[len(RUN) :]).safe_substitute(variables))
    for name in ("SYNFUNDUS_OUTPUT_DIR", "SYNFUNDUS_RESUME_FROM"):
        os.environ.pop(name, None)
    sys.argv = ["run.py", *words]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = runpy.run_module("experiments.run")["main"]()
        except SystemExit as leaving:
            status = leaving.code
    if status:
        sys.exit(f"{command}\n{said.getvalue()[-4000:]}\nstatus: {status}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    for argument in sys.argv[1:]:
        run_page(Path(argument))
        print(f"ran {Path(argument).name}", flush=True)
