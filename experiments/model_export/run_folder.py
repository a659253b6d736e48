"""What the folder of a run tells of its checkpoint: what was measured of it, and by which code it was trained."""

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from callbacks.csv_table import NUMBERS, CsvTable
from callbacks.metrics.estimate import SHAPE
from callbacks.run_record import code_revision, package_versions
from callbacks.stamp_metric import MEASURED_KEY
from datamodules.errors import UserError
from datamodules.files import misfit, read_json
from lightning_modules.checkpoint import run_of

BEST = "best.ckpt"  # what evaluation.json of a run is of
DISTANCES = ("val/fd_", "val/kd_", "val/fid", "val/kid")
PROJECT = "SynFundus"
SHAPES = {
    "record.json": {"versions?": {"synfundus?": str}, "code?": {"commit": str}},
    "evaluation.json": {"*": {"*": {"num_images": int, "num_positive?": int, "auroc?": SHAPE}}},
}  # as misfit reads them
DISTANCE = {"figure": str, "fd": float, "num_images": int, "num_steps": int, "scheduler": str, "guidance": float,
            "num_real": int, "reference_split": str}  # cells of frechet.csv that the card needs  # fmt: skip


def evaluation(path: Path) -> Mapping[str, Any]:
    """What the run measured of a classifier's best checkpoint; {} for another one."""
    return _read(path, "evaluation.json") if path.name == BEST else {}


def software(path: Path) -> dict[str, str]:
    """Version and revision of the project's code that trained a checkpoint, by its run's record, and that exports it.

    Where there is no record, it is said that it is not known.
    """
    record = _read(path, "record.json")
    trained = _named((record.get("versions") or {}).get("synfundus"), record.get("code"))
    here = _named(package_versions()["synfundus"], code_revision())
    return {
        "trained with": trained if record else f"{PROJECT}; the record of the run is not beside the checkpoint",
        "exported with": here,
    }


def _named(version: str | None, code: Mapping[str, Any] | None) -> str:
    words = f"{PROJECT} {version}" if version else PROJECT
    if not code:
        return f"{words}, not from a checkout of its code"
    return f"{words}, revision `{code['commit']}`{' with changes' if code.get('changed') else ''}"


def figures(path: Path, state: Mapping[str, Any]) -> dict[str, str]:
    """What was measured at the checkpoint's own step, in words, by name; {} where none is known to be of it.

    A distance is told only with what it was measured on, which the run's frechet.csv holds.
    """
    name, value = measured(path, state) or ("", math.nan)
    found = {}
    if name and not name.startswith(DISTANCES):
        found[f"`{name}` of this checkpoint"] = f"{value:.4g}, on the run's own validation split"
    for row in _distances(path, state):
        if name == row["figure"] and not math.isclose(value, float(row["fd"]), rel_tol=1e-4):
            continue  # the file is of another run
        found[f"`{row['figure']}` of this checkpoint"] = _distance_words(row)
    return found


def _distance_words(row: Mapping[str, str]) -> str:
    return (
        f"{float(row['fd']):.4g}, of {int(row['num_images']):,} painted images, {row['num_steps']} steps of "
        f"`{row['scheduler']}`, guidance {float(row['guidance']):g}, against {int(row['num_real']):,} images of the "
        f"{row['reference_split']} split"
    )


def measured(path: Path, state: Mapping[str, Any]) -> tuple[str, float] | None:
    """The monitored figure at the checkpoint's own step: log key and value; None where nothing was measured there."""
    found = state.get(MEASURED_KEY)
    if found is None:
        return None
    if misfit(found, {"monitor": str, "value": float}):
        raise UserError(
            f"{path}: its {MEASURED_KEY} is {found!r:.100}, and must be a figure (monitor) and its value. Remedy: "
            "another checkpoint of the run."
        )
    return found["monitor"], float(found["value"])


def _distances(path: Path, state: Mapping[str, Any]) -> list[dict[str, str]]:
    """Rows of frechet.csv at the checkpoint's step that tell all of DISTANCE: those of earlier versions may not."""
    folder = run_of(path)
    if folder is None or not (folder / "frechet.csv").is_file():
        return []
    rows = CsvTable(folder / "frechet.csv").read()
    return [row for row in rows if row.get("global_step") == str(state.get("global_step")) and _tells_all(row)]


def _tells_all(row: Mapping[str, str]) -> bool:
    cells = ((kind, row.get(name, "")) for name, kind in DISTANCE.items())
    return all(NUMBERS[kind].fullmatch(cell) if kind in NUMBERS else cell for kind, cell in cells)


def _read(path: Path, name: str) -> Mapping[str, Any]:
    """A file of JSON of the run's folder; {} where there is none that can be read."""
    folder = run_of(path)
    if folder is not None:
        with suppress(OSError, ValueError):
            return read_json(folder / name, SHAPES[name])
    return {}
