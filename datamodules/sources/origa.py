"""ORIGA: glaucoma, the eye's side, optic disc and cup, as re-packed on Kaggle.

Cheng et al. 2013, "Superpixel classification based optic disc and optic cup segmentation for glaucoma screening", and
most papers since train on the photographs of set A and test on those of set B; the two eyes of a person are in the same
set.
"""

import numpy as np
import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS, YES_NO, Levels, row_name, tidy
from datamodules.sources.optic_disc import LEVELS, PLAIN, decode, with_masks
from datamodules.sources.public import LayoutError, PublicSource

SETS = {"A": "train", "B": "test", "": ""}


class ORIGA(PublicSource):
    """650 photographs with masks. Set A is for training and B for testing; whose the photographs are is not told."""

    name = "origa"
    title = "ORIGA"
    licence = "see the dataset's page"
    address = "https://www.kaggle.com/datasets/arnavjain1/glaucoma-datasets"
    layout = "OrigaList.csv (Eye, Filename, Set, Glaucoma), Images and Masks"
    trap = (
        "`Set` tells who is trained with (A) and who tested (B), both eyes of a person alike; masks are 0, 1 and 2: "
        "halved at 127 they are empty; crops of the same names lie beside Images and Masks"
    )
    rules = (Levels("is_gc", "Glaucoma", YES_NO), Levels("eye_side", "Eye", {"OD": 0, "OS": 1}), FUNDUS)
    published = {"images": 650, "train": 325, "test": 325, "is_gc=0": 482, "is_gc=1": 168, "masks": 650}
    mask_levels = LEVELS

    def _table(self) -> pa.Table:
        path = self.find("table of labels", "OrigaList.csv")
        table = self.read_labels(path, "Eye", "Filename", "Set", "Glaucoma")
        names = table.column("Filename").to_pylist()
        table = table.append_column("split", pa.array(self._splits(table), pa.string()))
        masks = self.images_below(self.find("folder of masks", "Masks"))
        images = self.images_below(self.find("folder of images", "Images"))
        return self.located(with_masks(self, table, names, masks), names, images, path)

    def _splits(self, table: pa.Table) -> list[str]:
        """Training, test or neither, of each row."""
        sets = [tidy(cell).upper() for cell in table.column("Set").to_pylist()]
        for row, name in enumerate(sets):
            if name not in SETS:
                raise LayoutError(
                    f"{row_name(table, row, self.title)}, column 'Set': {name!r} is no set of this dataset. Known: A, "
                    f"B, or blank. Remedy: take the table as it is published, or correct the cell. {self.about}"
                )
        return [SETS[name] for name in sets]

    def mask_level(self, part: str, values: np.ndarray) -> np.ndarray:
        """1 is the disc, 2 the cup."""
        return decode(values, PLAIN, part, self.about)
