"""G1020: glaucoma, optic disc and cup, as re-packed on Kaggle."""

import numpy as np
import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS, YES_NO, Levels
from datamodules.sources.optic_disc import LEVELS, PLAIN, decode, with_masks
from datamodules.sources.public import PublicSource


class G1020(PublicSource):
    """1020 photographs with masks; no patients, no split."""

    name = "g1020"
    title = "G1020"
    licence = "see the dataset's page"
    address = "https://www.kaggle.com/datasets/arnavjain1/glaucoma-datasets"
    layout = "G1020.csv (imageID, binaryLabels), Images and Masks"
    trap = "masks are 0, 1 and 2: halved at 127 they are empty; squares of the same names lie beside Images and Masks"
    rules = (Levels("is_gc", "binaryLabels", YES_NO), FUNDUS)
    published = {"images": 1020, "is_gc=0": 724, "is_gc=1": 296}
    mask_levels = LEVELS

    def _table(self) -> pa.Table:
        path = self.find("table of labels", "G1020.csv")
        table = self.read_labels(path, "imageID", "binaryLabels")
        names = table.column("imageID").to_pylist()
        masks = self.images_below(self.find("folder of masks", "Masks"))
        images = self.images_below(self.find("folder of images", "Images"))
        return self.located(with_masks(self, table, names, masks), names, images, path)

    def mask_level(self, part: str, values: np.ndarray) -> np.ndarray:
        """1 is the disc, 2 the cup."""
        return decode(values, PLAIN, part, self.about)
