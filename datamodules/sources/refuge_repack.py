"""REFUGE as it is re-packed on Kaggle: the same photographs as refuge.py reads, in other folders, with other masks."""

import json

import numpy as np
import pyarrow as pa

from datamodules.manifest import SPLITS
from datamodules.sources.harmonise import FUNDUS, WHERE, YES_NO, Levels
from datamodules.sources.listing import stem
from datamodules.sources.optic_disc import LEVELS, PLAIN, decode, with_masks
from datamodules.sources.public import LayoutError, PublicSource


class RefugeRepack(PublicSource):
    """1200 photographs with masks; glaucoma is told of the training images. A patient is called after the file."""

    name = "refuge_repack"
    title = "REFUGE (Kaggle re-pack)"
    licence = "see the dataset's page"
    address = "https://www.kaggle.com/datasets/arnavjain1/glaucoma-datasets"
    layout = "train/, val/ and test/, each with index.json (ImgName, perhaps Label), Images and Masks"
    trap = "Masks are 0 outside, 1 in the disc, 2 in the cup; the folder gts codes the same the other way round"
    rules = (Levels("is_gc", "Label", YES_NO), FUNDUS)
    published = {"images": 1200, "train": 400, "val": 400, "test": 400, "is_gc=0": 360, "is_gc=1": 40, "masks": 1200}
    mask_levels = LEVELS
    patient_space = "refuge"

    def _table(self) -> pa.Table:
        return pa.concat_tables(self._split(split) for split in SPLITS)

    def _split(self, split: str) -> pa.Table:
        path = self.find(f"table of the {split} images", f"{split}/index.json")
        try:
            index = json.loads(path.read_text(encoding="utf-8-sig"))
            records = list(index.values()) if isinstance(index, dict) else index
            names = [record["ImgName"].strip() for record in records]
            labels = ["" if record.get("Label") is None else str(record["Label"]) for record in records]
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise LayoutError(f"{path} is no list of records with 'ImgName' ({error!r}). {self.about}") from None
        images = self.images_below(self.find(f"folder of the {split} images", f"{split}/Images"))
        masks = self.images_below(self.find(f"folder of the {split} masks", f"{split}/Masks"))
        columns = {
            "patient": [stem(name) for name in names],
            "split": [split] * len(names),
            "Label": labels,
            WHERE: [f"{self.below(path)}, record {number}" for number in range(1, len(names) + 1)],
        }
        table = pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()})
        return self.located(with_masks(self, table, names, masks), names, images, path)

    def mask_level(self, part: str, values: np.ndarray) -> np.ndarray:
        """1 is the disc, 2 the cup."""
        return decode(values, PLAIN, part, self.about)
