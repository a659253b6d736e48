"""EyePACS-AIROGS-light V2: a balanced part of AIROGS, 512 pixels, with a split of its maker's."""

from pathlib import PurePosixPath

import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS, Levels
from datamodules.sources.public import PublicSource

FOLDER = "eyepac-light-v2-512-jpg"
SPLITS = {"train": "train", "validation": "val", "test": "test"}


class AirogsLight(PublicSource):
    """9540 photographs, half of them of referable glaucoma; no patients."""

    name = "airogs_light"
    title = "EyePACS-AIROGS-light V2"
    licence = "see the dataset's page"
    address = "https://www.kaggle.com/datasets/deathtrooper/glaucoma-dataset-eyepacs-airogs-light-v2"
    layout = f"train/, validation/ and test/, each with the folders NRG and RG, or the folder {FOLDER} that holds them"
    trap = "validation/ is our val; the pictures are of AIROGS, so that neither set tests a model trained on the other"
    rules = (
        Levels("is_gc", "class", {"NRG": 0, "RG": 1}),
        Levels("is_retinal_region_readable", "class", {"NRG": 1, "RG": 1}),
        FUNDUS,
    )
    published = {"images": 9540, "train": 8000, "val": 770, "test": 770, "is_gc=0": 4770, "is_gc=1": 4770}
    frame = "either"

    def _table(self) -> pa.Table:
        rows = []
        for part, split in SPLITS.items():
            for label in ("NRG", "RG"):
                folder = self.find(f"{part} images of class {label}", f"{part}/{label}", f"{FOLDER}/{part}/{label}")
                for path in self.images_below(folder).values():
                    name = f"{part}/{label}/{PurePosixPath(path).stem}"
                    rows.append({"id": name, "path": path, "split": split, "class": label})
        return pa.Table.from_pylist(rows)
