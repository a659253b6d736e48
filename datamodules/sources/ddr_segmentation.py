"""DDR (OIA-DDR), lesions: four lesions of diabetic retinopathy, outlined pixel by pixel."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS
from datamodules.sources.public import PublicSource

LESIONS = {"ex": 1, "he": 2, "ma": 3, "se": 4}  # drawn in this order: later ones cover earlier ones
PARTS = {"train": "train", "val": "valid", "test": "test"}  # split: name of folder


class DDRSegmentation(PublicSource):
    """757 photographs, masks of four lesions; no patients, no grades."""

    name = "ddr_segmentation"
    title = "DDR (lesions)"
    licence = "see the dataset's page"
    address = "https://github.com/nkicsl/DDR-dataset"
    layout = (
        "train, valid and test, each with image/ and label/{EX,HE,MA,SE}/, in valid 'segmentation label/' for label/; "
        "or the folder lesion_segmentation that holds them"
    )
    trap = "the masks of the validation split lie in 'segmentation label', not in 'label'"
    rules = (FUNDUS,)
    published = {"images": 757}
    mask_levels = ("background", "hard exudate", "haemorrhage", "microaneurysm", "soft exudate")

    def _table(self) -> pa.Table:
        rows = []
        for split, part in PARTS.items():
            masks = self._masks(split, part)
            folder = self._find(f"images of the {split} split", f"{part}/image")
            for key, path in self.images_below(folder).items():
                parts = (files[key] for files in masks if key in files)
                rows.append({"id": f"{part}/{Path(path).stem}", "path": path, "split": split, "mask": "|".join(parts)})
        return pa.Table.from_pylist(rows)

    def _masks(self, split: str, part: str) -> list[dict[str, str]]:
        """For each lesion, in the order of LESIONS, the mask file of each image that has one."""
        folders = (f"{part}/segmentation label", f"{part}/label")
        found = []
        for lesion in LESIONS:
            what = f"masks of {lesion.upper()} of the {split} split"
            found.append(self.images_below(self._find(what, *(f"{folder}/{lesion}" for folder in folders))))
        return found

    def _find(self, what: str, *paths: str) -> Path:
        return self.find(what, *paths, *(f"lesion_segmentation/{path}" for path in paths))

    def mask_level(self, part: str, values: np.ndarray) -> np.ndarray:
        """The lesion that the file's folder tells, wherever the file is not black."""
        return np.where(values > 0, LESIONS[Path(part).parent.name.lower()], 0).astype(np.uint8)
