"""JSIEC: 1000 photographs of the Joint Shantou International Eye Center in 39 folders, one a disease or condition.

Cen et al. 2021, "Automatic detection of 39 fundus diseases and conditions in retinal photographs using deep neural
networks", of whose data these are a part.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.findings import UNKNOWN
from datamodules.sources.harmonise import FIRST_ROW, FUNDUS
from datamodules.sources.public import PublicSource

FOLDER = re.compile(r"\d+(\.\d+)?\.[^\d.].*")  # 0.0.Normal, 7.ERM
NORMAL = "0.0.Normal"


@dataclass(frozen=True)
class ShownIn:
    """`finding` is 1 in these folders, 0 in that of normal eyes, and unknown in every other, which does not tell."""

    finding: str
    folders: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The folder's name."""
        return ("folder",)

    def apply(self, table: pa.Table, origin: str, first_row: int = FIRST_ROW) -> np.ndarray:
        """Levels int8 [N]."""
        levels = {NORMAL: 0, **dict.fromkeys(self.folders, 1)}
        cells = table.column("folder").to_pylist()
        return np.array([levels.get(cell, UNKNOWN) for cell in cells], dtype=np.int8)

    def lines(self) -> Iterable[tuple[str, str]]:
        """One a folder that tells something."""
        yield f"folder `{NORMAL}`", "0"
        for folder in self.folders:
            yield f"folder `{folder}`", "1"


class JSIEC(PublicSource):
    """1000 photographs, one label each; no patients.

    DR1 to DR3 are not said to be grades of the ICDR scale, and possible glaucoma is not glaucoma: both stay unknown, as
    does every condition that is not one of our findings.
    """

    name = "jsiec"
    title = "JSIEC"
    licence = "see the dataset's page"
    address = "https://www.kaggle.com/datasets/linchundan/fundusimage1000"
    layout = "39 folders named <number>.<name>, as '0.0.Normal' and '2.0.BRVO'"
    trap = "a folder tells one finding and says nothing of the others, but for that of normal eyes"
    rules = (
        ShownIn("dr_grade"),
        ShownIn("is_amd"),
        ShownIn("is_aon", ("10.1.Optic atrophy", "14.Congenital disc abnormality")),
        ShownIn("is_crp"),
        ShownIn("is_dm"),
        ShownIn("is_dme"),
        ShownIn("is_em", ("7.ERM",)),
        ShownIn("is_gc"),
        ShownIn("is_htr", ("11.Severe hypertensive retinopathy",)),
        ShownIn("is_pm", ("9.Pathological myopia",)),
        ShownIn("is_rvo", ("2.0.BRVO", "2.1.CRVO")),
        FUNDUS,
    )
    published = {"images": 1000}

    def _table(self) -> pa.Table:
        rows = []
        for folder in sorted(entry for entry in self.root.iterdir() if entry.is_dir() and FOLDER.fullmatch(entry.name)):
            for path in self.images_below(folder).values():
                rows.append({"id": Path(path).with_suffix("").as_posix(), "path": path, "folder": folder.name})
        if not rows:
            raise self.lacks("folders of classes", "folders named <number>.<name>, as '0.0.Normal'")
        return pa.Table.from_pylist(rows)
