"""What `data=union data.sources=[…]` is made of: the `source` of each option named, with a root of its own."""

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources

from omegaconf import DictConfig, OmegaConf

OPTIONS = "experiments.conf"
NO_MEMBERS = ("union", "phantom", "csv", "folder")  # drawn, or not to be told from others of their kind


def union_sources(
    names: Sequence[str], root: str | None, roots: Mapping[str, str], partial: bool = False
) -> DictConfig:
    """The `source` of each dataset, by name, ready to be instantiated.

    Args:
        names: options of the group `data`.
        root: folder that holds a folder for each, of its name.
        roots: folders of those that lie elsewhere.
        partial: as `data.partial`.

    Raises:
        ValueError: an option that is not there or cannot be a member, one named twice, one without a folder.
    """
    folder = resources.files(OPTIONS) / "data"
    known = sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".yaml"))
    known = [name for name in known if not name.startswith("_") and name not in NO_MEMBERS]
    names = [names] if isinstance(names, str) else list(names)
    for name in (*names, *roots):
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f": did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"data.sources names {name!r}, which is no dataset{hint} Known: {', '.join(known)}.")
    if len(set(names)) < len(names):
        raise ValueError(f"data.sources={names} names a dataset twice.")
    if strange := sorted(set(roots) - set(names)):
        raise ValueError(f"data.roots names {strange[0]!r}, which data.sources={names} does not.")
    found = {}
    for name in names:
        where = roots.get(name) or (f"{root}/{name}" if root else None)
        if where is None:
            raise ValueError(f"data.sources names {name!r}: give data.root, or +data.roots.{name}=<folder>.")
        option = OmegaConf.create((folder / f"{name}.yaml").read_text("utf-8"))
        option = OmegaConf.merge(option, {"partial": partial, "root": where})
        found[name] = OmegaConf.to_container(OmegaConf.create({"data": option}).data.source, resolve=True)
    return OmegaConf.create(found)
