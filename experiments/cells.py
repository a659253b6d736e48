"""The cells of a study: runs in processes of their own, checked before the first, resumed one by one."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from callbacks.files import open_own, own_folder
from datamodules.errors import UserError
from datamodules.files import read_json, read_yaml
from experiments.assembly import plain
from experiments.backbone_names import spelt_out
from experiments.composition import compose_config
from experiments.report import say
from experiments.runs import differing_keys
from experiments.typed_text import quoted

LOG = "terminal.txt"


@dataclass(frozen=True)
class Cell:
    """A run of a training job: its folder and the words of its command, without `output_dir` and `resume`."""

    folder: Path
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.name

    @property
    def status(self) -> str:
        """That of its record; `new` where there is none."""
        record = self.folder / "record.json"
        if not record.is_file():
            return "new"
        return read_json(record, {"status": str}, f"delete {self.folder}, and the cell is run again")["status"]

    @property
    def command(self) -> list[str]:
        """The words as Hydra reads them, with the folder."""
        return [*self.words, f"output_dir={quoted(self.folder)}"]


def check(cells: Sequence[Cell]) -> None:
    """Compose the command of every cell, so that a misspelt word is said before the first run and not after hours.

    Raises:
        CommandError: words that mean nothing.
        ValueError: a cell that is finished was run with other settings.
    """
    for cell in cells:
        config = plain(compose_config(spelt_out(cell.command)))
        if cell.status != "finished":
            continue
        remedy = f"delete {cell.folder}, and the cell is run again"
        before = read_yaml(cell.folder / "config.yaml", {"output_dir": str}, remedy)
        changed = differing_keys(_of_the_study(config), _of_the_study(before))
        if changed:
            raise UserError(
                f"{cell.folder} is finished, and was run with another {', '.join(changed[:4])}: its figures do not "
                "belong into this table. Remedy: the settings of before, or another output_dir."
            )


def _of_the_study(config: Mapping) -> dict:
    """A cell's configuration as one of the whole folder, which moves with the cells that others begin with."""
    return {**config, "output_dir": str(Path(config["output_dir"]).parent.parent)}


def run(cell: Cell, cache_dir: str) -> str:
    """Run a cell in a process of its own, going on where an earlier one stopped; returns its status.

    What it prints goes to `terminal.txt` in its folder.

    Raises:
        ValueError: it failed; says where its messages are, and the last of them.
    """
    if cell.status == "finished":
        return "finished"
    own_folder(cell.folder.parents[1], Path(cell.folder.parent.name, cell.name))
    words = [*cell.command, f"cache_dir={quoted(cache_dir)}", "resume=auto"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SYNFUNDUS_OUTPUT")}
    environment.pop("SYNFUNDUS_RESUME_FROM", None)
    with open_own(cell.folder / LOG, "a") as log:
        done = subprocess.run(
            [sys.executable, "-m", "experiments.run", *words], stdout=log, stderr=subprocess.STDOUT, env=environment,
            check=False,
        )  # fmt: skip
    if done.returncode or cell.status != "finished":
        lines = (cell.folder / LOG).read_text(encoding="utf-8").strip().splitlines()
        said = next((line for line in reversed(lines) if line.startswith("error")), lines[-1] if lines else "nothing")
        raise UserError(f"cell {cell.name} {cell.status} ({said}). All it said: {cell.folder / LOG}")
    return cell.status


def run_all(
    cells: Sequence[Cell], what: str, cache_dir: str, behind: Callable[[Cell], None] = lambda cell: None
) -> None:
    """Run the cells one after the other, saying which, and how long the others are going to take.

    Args:
        behind: what is done of each cell once it is finished.
    """
    took: list[float] = []
    for number, cell in enumerate(cells, 1):
        begin = time.monotonic()
        known = cell.status == "finished"
        say(f"{what} {number}/{len(cells)}: {cell.name}{' (done before)' if known else f', see {cell.folder}'}")
        run(cell, cache_dir)
        behind(cell)
        if not known:
            took.append((time.monotonic() - begin) / 60)
            left = sum(took) / len(took) * sum(other.status != "finished" for other in cells[number:])
            say(f"  finished in {took[-1]:.1f} minutes{f'; about {left:.0f} minutes are left' if left else ''}")
