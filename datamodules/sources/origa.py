"""ORIGA: glaucoma, the eye's side, optic disc and cup, as re-packed on Kaggle."""

import numpy as np
import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS, YES_NO, Levels
from datamodules.sources.optic_disc import LEVELS, PLAIN, decode, with_masks
from datamodules.sources.public import PublicSource


class ORIGA(PublicSource):
    """650 photographs with masks. Whose they are is not told, and `Set` (A or B) is no training or test set."""

    name = "origa"
    title = "ORIGA"
    licence = "see the dataset's page"
    address = "https://www.kaggle.com/datasets/arnavjain1/glaucoma-datasets"
    layout = "OrigaList.csv (Eye, Filename, Glaucoma), Images and Masks"
    trap = "masks are 0, 1 and 2: halved at 127 they are empty; crops of the same names lie beside Images and Masks"
    rules = (Levels("is_gc", "Glaucoma", YES_NO), Levels("eye_side", "Eye", {"OD": 0, "OS": 1}), FUNDUS)
    published = {"images": 650, "is_gc=0": 482, "is_gc=1": 168}
    mask_levels = LEVELS

    def _table(self) -> pa.Table:
        path = self.find("table of labels", "OrigaList.csv")
        table = self.read_labels(path, "Eye", "Filename", "Glaucoma")
        names = table.column("Filename").to_pylist()
        masks = self.images_below(self.find("folder of masks", "Masks"))
        images = self.images_below(self.find("folder of images", "Images"))
        return self.located(with_masks(table, names, masks), names, images, path)

    def mask_level(self, part: str, values: np.ndarray) -> np.ndarray:
        """1 is the disc, 2 the cup."""
        return decode(values, PLAIN, part, self.about)
