"""Glaucoma_fundus: crops around the optic disc of controls, early and advanced glaucoma, as re-packed for RETFound."""

from pathlib import PurePosixPath

import pyarrow as pa

from datamodules.manifest import SPLITS
from datamodules.sources.harmonise import FUNDUS, Levels
from datamodules.sources.public import PublicSource

CLASSES = ("anormal_control", "bearly_glaucoma", "cadvanced_glaucoma")


class GlaucomaFundus(PublicSource):
    """1544 crops; no patients. The split is the re-pack's, where it has one."""

    name = "glaucoma_fundus"
    title = "Glaucoma_fundus"
    licence = "see the dataset's page"
    address = "https://doi.org/10.7910/DVN/1YRRAC, re-packed at https://github.com/rmaphoh/RETFound_MAE"
    layout = f"the folders {', '.join(CLASSES)}, or train/, val/ and test/ that hold them"
    trap = "the letters a, b, c before the classes only order them; the same names are in several classes"
    rules = (Levels("is_gc", "class", dict(zip(CLASSES, (0, 1, 1), strict=True))), FUNDUS)
    published = {"images": 1544}
    frame = "either"

    def _table(self) -> pa.Table:
        splits = SPLITS if any((self.root / split).is_dir() for split in SPLITS) else ("",)
        rows = []
        for split in splits:
            for label in CLASSES:
                inner = f"{split}/{label}".lstrip("/")
                for path in self.images_below(self.find(f"folder of {label}", inner)).values():
                    name = f"{inner}/{PurePosixPath(path).stem}"
                    rows.append({"id": name, "path": path, "split": split, "class": label})
        return pa.Table.from_pylist(rows)
