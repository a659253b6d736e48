"""Retina (Kaggle, cataract dataset): normal, cataract, glaucoma and other diseases, of unknown origin."""

from pathlib import Path

import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS, Levels
from datamodules.sources.public import PublicSource

CLASSES = {"normal": 0, "cataract": None, "glaucoma": 1, "retina_disease": None}  # is_gc


class RetinaKaggle(PublicSource):
    """601 photographs in four folders, one a class; no patients. Only glaucoma is one of our findings."""

    name = "retina_kaggle"
    title = "Retina (Kaggle)"
    licence = "see the dataset's page"
    address = "https://www.kaggle.com/datasets/jr2ngb/cataractdataset"
    layout = (
        "four folders ending in _normal, _cataract, _glaucoma and _retina_disease, or the folder dataset that has them"
    )
    trap = "the numbers before the names differ between copies: glaucoma is 2_glaucoma or 3_glaucoma"
    rules = (Levels("is_gc", "class", CLASSES), FUNDUS)
    published = {"images": 601, "is_gc=0": 300, "is_gc=1": 101}

    def _table(self) -> pa.Table:
        rows = []
        for name in CLASSES:
            folder = self.find(f"folder of the class {name}", f"dataset/?_{name}", f"?_{name}")
            for path in self.images_below(folder).values():
                rows.append({"id": f"{name}/{Path(path).stem}", "path": path, "class": name})
        return pa.Table.from_pylist(rows)
