"""IDRiD, part A: lesions of diabetic retinopathy and the optic disc, outlined pixel by pixel.

Porwal et al. 2018, "Indian Diabetic Retinopathy Image Dataset (IDRiD)". 54 photographs for training, 27 for testing.
A mask file that is not there means that the lesion is not there; but in each split some photograph has each of them, or
else a folder is missing.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS
from datamodules.sources.listing import stem
from datamodules.sources.public import PublicSource

SUFFIXES = {"od": 1, "ex": 2, "se": 3, "ma": 4, "he": 5}  # drawn in this order: later ones cover earlier ones


class IDRiDSegmentation(PublicSource):
    """81 photographs, masks of the disc and four lesions; no patients, no grades."""

    name = "idrid_segmentation"
    title = "IDRiD (segmentation)"
    licence = "CC BY 4.0"
    address = "https://ieee-dataport.org/open-access/indian-diabetic-retinopathy-image-dataset-idrid"
    layout = (
        "'1. Original Images' and '2. All Segmentation Groundtruths', each with 'a. Training Set' and 'b. Testing "
        "Set', or the folder 'A. Segmentation' that holds them"
    )
    trap = (
        "a lesion without a mask file is absent, not unknown; masks are red on black, not grey; the photographs are 81 "
        "of the 516 graded ones under other numbers, which names cannot match: `data.duplicates=drop` in a union"
    )
    rules = (FUNDUS,)
    published = {"images": 81, "train": 54, "test": 27, "masks": 81}
    mask_levels = ("background", "optic disc", "hard exudate", "soft exudate", "microaneurysm", "haemorrhage")

    def _table(self) -> pa.Table:
        rows = []
        for split, part in (("train", "a. Training Set"), ("test", "b. Testing Set")):
            folder = self.find(f"images of the {split} split", f"1. Original Images/{part}",
                               f"A. Segmentation/1. Original Images/{part}")  # fmt: skip
            truth = self.find(f"masks of the {split} split", f"2. All Segmentation Groundtruths/{part}",
                              f"A. Segmentation/2. All Segmentation Groundtruths/{part}")  # fmt: skip
            masks = self._masks(truth, split)
            for key, path in self.images_below(folder).items():
                rows.append({"id": Path(path).stem, "path": path, "split": split, "mask": masks.get(key, "")})
        return pa.Table.from_pylist(rows)

    def _masks(self, folder: Path, split: str) -> dict[str, str]:
        """Mask files of each image, joined by `|` in the order of SUFFIXES.

        Raises LayoutError where one of these is nowhere: then a folder was not unpacked, and nothing is absent.
        """
        found: dict[str, dict[str, str]] = {}
        for path in self.images_below(folder).values():
            image, _, suffix = stem(Path(path).name).rpartition("_")
            if suffix not in SUFFIXES:
                raise self.lacks("mask that can be told", "names ending in _MA, _HE, _EX, _SE or _OD", folder)
            found.setdefault(image, {})[suffix] = path
        if lacking := [suffix for suffix in SUFFIXES if not any(suffix in parts for parts in found.values())]:
            names = " or ".join(f"_{suffix.upper()}" for suffix in lacking)
            what = f"masks ending in {names} of the {split} split (is a folder missing, or not unpacked?)"
            raise self.lacks(what, f"files ending in each of {', '.join(f'_{s.upper()}' for s in SUFFIXES)}", folder)
        return {image: "|".join(parts[s] for s in SUFFIXES if s in parts) for image, parts in found.items()}

    def mask_level(self, part: str, values: np.ndarray) -> np.ndarray:
        """The lesion that the file's name tells, wherever the file is not black."""
        return np.where(values > 0, SUFFIXES[stem(part).rpartition("_")[2]], 0).astype(np.uint8)
