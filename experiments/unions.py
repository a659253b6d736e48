"""What `data=union data.sources=[…]` is made of: the `source` of each option named, and the sets of one's own."""

from collections.abc import Mapping, Sequence
from importlib import resources

from omegaconf import DictConfig, OmegaConf

from datamodules.errors import UserError
from experiments.known_keys import suggestion

OPTIONS = "experiments.conf"
NO_MEMBERS = ("union", "phantom", "csv", "folder")  # drawn, or not to be told from others of their kind
OWN_KEYS = ("root", "table", "patient_pattern")
OWN = "'+data.own.NAME={root: FOLDER, table: CSV}', or without `table` for a folder of photographs"


def union_sources(
    names: Sequence[str],
    root: str | None,
    roots: Mapping[str, str],
    partial: bool = False,
    own: Mapping[str, Mapping[str, str | None]] | None = None,
) -> DictConfig:
    """The `source` of each dataset, by name, ready to be instantiated.

    Args:
        names: options of the group `data`.
        root: folder that holds a folder for each, of its name.
        roots: folders of those that lie elsewhere.
        partial: as `data.partial`.
        own: sets of one's own by a name that is free: their `root`, and `table` or `patient_pattern` as the options
            `csv` and `folder` have them.

    Raises:
        ValueError: an option that is not there or cannot be a member, one named twice, those without a folder.
    """
    folder = resources.files(OPTIONS) / "data"
    known = sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".yaml"))
    known = [name for name in known if not name.startswith("_") and name not in NO_MEMBERS]
    names = [names] if isinstance(names, str) else list(names)
    for name in (*names, *roots):
        if name not in known:
            hint = suggestion(name, known)
            hint += f" Tables and folders of your own join by {OWN}." if name in NO_MEMBERS else ""
            raise UserError(f"data.sources names {name!r}, which is no dataset{hint} Known: {', '.join(known)}.")
    if len(set(names)) < len(names):
        raise UserError(f"data.sources={names} names a dataset twice.")
    if strange := sorted(set(roots) - set(names)):
        raise UserError(f"data.roots names {strange[0]!r}, which data.sources={names} does not.")
    if homeless := [name for name in names if not root and not roots.get(name)]:
        remedy = " ".join(f"+data.roots.{name}=FOLDER" for name in homeless)
        raise UserError(f"data.sources names {', '.join(homeless)}: give data.root, or {remedy}.")
    found = {}
    for name in names:
        option = OmegaConf.create((folder / f"{name}.yaml").read_text("utf-8"))
        option = OmegaConf.merge(option, {"partial": partial, "root": roots.get(name) or f"{root}/{name}"})
        found[name] = OmegaConf.to_container(OmegaConf.create({"data": option}).data.source, resolve=True)
    return OmegaConf.create({**found, **{name: _own(name, given, known) for name, given in (own or {}).items()}})


def _own(name: str, given: Mapping[str, str | None], known: Sequence[str]) -> dict[str, str | None]:
    """The `source` of a set of one's own: a table where it names one, else a folder."""
    if name in (*known, *NO_MEMBERS) or not str(name).isidentifier():
        raise UserError(
            f"data.own.{name}: choose another name, of letters, digits and underscores and not that of an option."
        )
    if not isinstance(given, Mapping) or not given.get("root"):
        raise UserError(f"data.own.{name} is {given!r}: it needs a folder: {OWN}.")
    if strange := [key for key in given if key not in OWN_KEYS]:
        hint = suggestion(strange[0], OWN_KEYS)
        raise UserError(f"data.own.{name} has the key {strange[0]!r}{hint} Known: {', '.join(OWN_KEYS)}.")
    if given.get("table") and given.get("patient_pattern"):
        raise UserError(f"data.own.{name} has both table and patient_pattern: a table names patients in a column.")
    kind = "csv.CsvSource" if given.get("table") else "folder.FolderSource"
    return {"_target_": f"datamodules.sources.{kind}", **given, "name": name}
