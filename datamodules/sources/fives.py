"""FIVES: vessels traced by hand in 800 large photographs, 200 each of AMD, diabetic retinopathy, glaucoma and neither.

Jin et al. 2022, "FIVES: A fundus image dataset for artificial intelligence based vessel segmentation".

The letter in a name is the one disease that the photograph stands for: nothing says that it has no other, so that the
others are unknown. Diabetic retinopathy is not graded. `Quality Assessment.xlsx` scores illumination, blur and contrast
by 0 or 1; which of them is the good one is not certain enough, and readability stays unknown.
"""

import re
from pathlib import Path

import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS, Levels
from datamodules.sources.pairs import pairs
from datamodules.sources.public import PublicSource

NAME = re.compile(r"\d+_(?P<letter>[ADGN])", re.IGNORECASE)
TRUTH = ("Ground truth", "Groud truth")


class FIVES(PublicSource):
    """800 photographs with vessels and a disease, or none; no patients."""

    name = "fives"
    title = "FIVES"
    licence = "CC BY 4.0"
    address = (
        "https://figshare.com/articles/figure/FIVES_A_Fundus_Image_Dataset_for_AI-based_Vessel_Segmentation/19688169"
    )
    layout = "train/ and test/, each with 'Original' and 'Ground truth', of <n>_<A, D, G or N>.png"
    trap = "one copy spells 'Groud truth'; Thumbs.db; names may be there in both splits; D is not a grade"
    rules = (
        FUNDUS,
        Levels("is_amd", "letter", {"A": 1, "D": None, "G": None, "N": 0}),
        Levels("dr_grade", "letter", {"A": None, "D": None, "G": None, "N": 0}),
        Levels("is_gc", "letter", {"A": None, "D": None, "G": 1, "N": 0}),
    )
    published = {"images": 800, "train": 600, "test": 200, "is_amd=1": 200, "is_gc=1": 200, "dr_grade=0": 200}
    mask_levels = ("background", "vessel")

    def _table(self) -> pa.Table:
        rows = []
        for split in ("train", "test"):
            folder = self.find(f"photographs of the {split} split", f"{split}/Original")
            truth = self.find(f"vessels of the {split} split", *(f"{split}/{name}" for name in TRUTH))
            for row in pairs(self, self.images_below(folder), self.images_below(truth), truth):
                name = NAME.fullmatch(Path(row["path"]).stem)
                if name is None:
                    raise self.lacks("disease", f"<n>_<A, D, G or N>.png, but {row['path']!r} is there", folder)
                rows.append(row | {"id": f"{split}/{row['id']}", "split": split, "letter": name["letter"].upper()})
        return pa.Table.from_pylist(rows)
