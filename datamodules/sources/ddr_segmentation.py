"""DDR (OIA-DDR), lesions: four lesions of diabetic retinopathy, outlined pixel by pixel.

Every photograph has a file for each lesion, black where there is none: a file that is not there tells nothing.
"""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS
from datamodules.sources.listing import stem
from datamodules.sources.public import LayoutError, PublicSource

log = logging.getLogger(__name__)

LESIONS = {"ex": 1, "he": 2, "ma": 3, "se": 4}  # drawn in this order: later ones cover earlier ones
PARTS = {"train": "train", "val": "valid", "test": "test"}  # split: name of folder


class DDRSegmentation(PublicSource):
    """757 photographs, masks of four lesions; no grades. An image is its own patient, called after its file as in DDR.

    With `partial`, a photograph that lacks one of the four files has no mask.
    """

    name = "ddr_segmentation"
    title = "DDR (lesions)"
    licence = "see the dataset's page"
    address = "https://github.com/nkicsl/DDR-dataset"
    layout = (
        "train, valid and test, each with image/ and label/{EX,HE,MA,SE}/, in valid 'segmentation label/' for label/; "
        "or the folder lesion_segmentation that holds them"
    )
    trap = (
        "the masks of the validation split lie in 'segmentation label', not in 'label'; the photographs are in the set "
        "of grades too"
    )
    rules = (FUNDUS,)
    published = {"images": 757, "masks": 757}
    patient_space = "ddr"
    mask_levels = ("background", "hard exudate", "haemorrhage", "microaneurysm", "soft exudate")

    def _table(self) -> pa.Table:
        rows, lacking = [], {}
        for split, part in PARTS.items():
            masks = self._masks(split, part)
            folder = self._find(f"images of the {split} split", f"{part}/image")
            for key, path in self.images_below(folder).items():
                parts = [files.get(key, "") for files in masks.values()]
                if not all(parts):
                    lacking[path] = [lesion.upper() for lesion, files in masks.items() if key not in files]
                row = {"id": f"{part}/{Path(path).stem}", "path": path, "patient": stem(Path(path).name)}
                rows.append({**row, "split": split, "mask": "|".join(parts) if all(parts) else ""})
        if lacking and not self.partial:
            path, lesions = next(iter(lacking.items()))
            raise LayoutError(
                f"{self.title}: {path!r} has no mask of {', '.join(lesions)} ({len(lacking)} of {len(rows)} images "
                "lack one of the four). Remedy: unpack the folders of masks anew, or go on with images that have no "
                f"mask: data.partial=true. {self.about}"
            )
        if lacking:
            log.warning("%s: %d of %d images lack one of the four masks: they have none", self.title, len(lacking),
                        len(rows))  # fmt: skip
        return pa.Table.from_pylist(rows)

    def _masks(self, split: str, part: str) -> dict[str, dict[str, str]]:
        """By lesion, in the order of LESIONS, the mask file of each image that has one."""
        folders = (f"{part}/segmentation label", f"{part}/label")
        found = {}
        for lesion in LESIONS:
            what = f"masks of {lesion.upper()} of the {split} split"
            found[lesion] = self.images_below(self._find(what, *(f"{folder}/{lesion}" for folder in folders)))
        return found

    def _find(self, what: str, *paths: str) -> Path:
        return self.find(what, *paths, *(f"lesion_segmentation/{path}" for path in paths))

    def mask_level(self, part: str, values: np.ndarray) -> np.ndarray:
        """The lesion that the file's folder tells, wherever the file is not black."""
        return np.where(values > 0, LESIONS[Path(part).parent.name.lower()], 0).astype(np.uint8)
