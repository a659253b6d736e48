"""Where the images, the masks and the labels of a set lie in other layouts, and under which names."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from datamodules.errors import UserError, did_you_mean
from datamodules.sources.synfundus1m import LAST_PART, PART_SIZE

PER_FOLDER = 10_000  # images
AS_PNG = {"png": ".png", "jpeg": ".png", "webp": ".png"}
NNUNET = "nnunet"  # the format that nnunet.py writes, with a layout for each set


class Layout(Protocol):
    """One way to lay out images and their labels.

    Attributes:
        name: of `job.format`.
        tables: the files of what the generator was told (`condition`) and of what annotators saw (`annotation`).
        endings: of an image's file, by the format that it has in the shards; another ending's format is PNG.
        owned: patterns of what it writes, below the root.
        carried: columns of the shards that the tables have too.
    """

    name: str
    tables: Mapping[str, str]
    endings: Mapping[str, str]
    owned: Sequence[str]
    carried: Sequence[str]

    def place(self, index: int, id: str) -> str:
        """Path of an image below the root, without its ending."""

    def mask_place(self, index: int, id: str) -> str | None:
        """Path of an image's mask below the root, without `.png`; None for a layout without masks."""

    def keys(self, indices: Sequence[int], ids: Sequence[str], paths: Sequence[str]) -> dict[str, Sequence[Any]]:
        """The columns of a table that say which image a row is of."""


class SynFundusLayout:
    """SynFundus-1M's: `Part{N}/{i}.png`, of which `idx` is i; N = min(19, i // 50000). WebP becomes PNG."""

    name = "synfundus1m"
    tables = {"condition": "SynFundus-1M_gen_cond.csv", "annotation": "SynFundus-1M_annotation.csv"}
    endings = {"png": ".png", "jpeg": ".jpg", "webp": ".png"}
    owned = ("Part*", "SynFundus-1M_*.csv")
    carried = ()

    def place(self, index: int, id: str) -> str:
        """As a Layout."""
        return f"Part{min(LAST_PART, index // PART_SIZE)}/{index}"

    def mask_place(self, index: int, id: str) -> None:
        """As a Layout: SynFundus-1M has no masks."""

    def keys(self, indices: Sequence[int], ids: Sequence[str], paths: Sequence[str]) -> dict[str, Sequence[Any]]:
        """As a Layout."""
        return {"idx": indices}


class FolderLayout:
    """`images/00000/<id>.png`, 10 000 a folder, with labels.csv as `data=csv` reads it."""

    name = "folder"
    tables = {"condition": "labels.csv", "annotation": "annotations.csv"}
    endings = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
    owned = ("images", "labels.csv", "annotations.csv")
    carried = ()

    def place(self, index: int, id: str) -> str:
        """As a Layout."""
        return f"images/{index // PER_FOLDER:05d}/{id}"

    def mask_place(self, index: int, id: str) -> None:
        """As a Layout: the images alone are written."""

    def keys(self, indices: Sequence[int], ids: Sequence[str], paths: Sequence[str]) -> dict[str, Sequence[Any]]:
        """As a Layout."""
        return {"path": paths, "id": ids}


class PairsLayout:
    """`images/<id>.png` and `masks/<id>.png`, with labels.csv, which has the seeds too, and levels.json."""

    name = "pairs"
    tables = {"condition": "labels.csv", "annotation": "annotations.csv"}
    endings = AS_PNG
    owned = ("images", "masks", "labels.csv", "annotations.csv", "levels.json")
    carried = ("seed",)

    def place(self, index: int, id: str) -> str:
        """As a Layout."""
        return f"images/{id}"

    def mask_place(self, index: int, id: str) -> str:
        """As a Layout."""
        return f"masks/{id}"

    def keys(self, indices: Sequence[int], ids: Sequence[str], paths: Sequence[str]) -> dict[str, Sequence[Any]]:
        """As a Layout."""
        return {"path": paths, "mask": [f"{self.mask_place(0, name)}.png" for name in ids], "id": ids}


LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (SynFundusLayout(), FolderLayout(), PairsLayout())}


def layout_named(name: str | None) -> Layout:
    """The layout of that name.

    Raises:
        ValueError: there is none; lists the formats that there are, and names the nearest.
    """
    if name in LAYOUTS:
        return LAYOUTS[name]
    known = [*LAYOUTS, NNUNET]
    raise UserError(f"job.format={name} is no format.{did_you_mean(name, known)} Formats: {', '.join(known)}.")
