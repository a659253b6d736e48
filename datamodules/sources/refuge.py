"""REFUGE, the glaucoma challenge of 2018, as its organisers distribute it: glaucoma, optic disc and cup.

Each of training, validation and test has 400 photographs; the first are of another camera than the others. A re-pack
with other folders and masks of the opposite coding is read by refuge_repack.py.
"""

from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa

from datamodules.sources.excel import read_excel
from datamodules.sources.harmonise import FUNDUS, YES_NO, Levels
from datamodules.sources.optic_disc import LEVELS, decode, with_masks
from datamodules.sources.public import LayoutError, PublicSource

LABELS = ("label(glaucoma=1)", "glaucoma label", "label")  # what the column of labels is called, capitals aside
LETTERS = {"g": "1", "n": "0"}
COLUMNS = ["id", "path", "split", "mask", "glaucoma"]
CODING = {255: 0, 128: 1, 0: 2}


class REFUGE(PublicSource):
    """1200 photographs with masks; no patients. The validation images' glaucoma is known only if their table has it."""

    name = "refuge"
    title = "REFUGE"
    licence = "see the dataset's page"
    address = "https://refuge.grand-challenge.org"
    layout = (
        "REFUGE-Training400/Training400 (or Training400), Annotation-Training400, REFUGE-Validation400, "
        "REFUGE-Validation400-GT (Fovea_locations.xlsx), Test400 and REFUGE-Test-GT "
        "(Glaucoma_label_and_Fovea_location.xlsx); masks in the folder Disc_Cup_Masks of the annotations"
    )
    trap = "masks are 0 in the cup, 128 in the disc, 255 outside: the opposite of re-packs; the label's column varies"
    rules = (Levels("is_gc", "glaucoma", YES_NO), FUNDUS)
    published = {"images": 1200, "train": 400, "val": 400, "test": 400}
    mask_levels = LEVELS

    def _table(self) -> pa.Table:
        validation = self._listed(
            "val", "REFUGE-Validation400", "REFUGE-Validation400-GT", "Fovea_locations.xlsx", labelled=False
        )
        test = self._listed(
            "test", "Test400", "REFUGE-Test-GT", "Glaucoma_label_and_Fovea_location.xlsx", labelled=True
        )
        return pa.concat_tables([part.select(COLUMNS) for part in (self._training(), validation, test)])

    def _training(self) -> pa.Table:
        """The training images: their names begin with their class."""
        folder = self.find("training images", "REFUGE-Training400/Training400", "Training400")
        masks = self._masks("Annotation-Training400")
        rows = []
        for path in self.images_below(folder).values():
            name = PurePosixPath(path).stem
            if name[0].lower() not in LETTERS:
                raise self.lacks(f"class in the name {path!r}", "names that begin with g (glaucoma) or n", folder)
            rows.append({"path": path, "split": "train", "glaucoma": LETTERS[name[0].lower()]})
        return with_masks(pa.Table.from_pylist(rows), [PurePosixPath(row["path"]).name for row in rows], masks)

    def _listed(self, split: str, images: str, annotation: str, workbook: str, labelled: bool) -> pa.Table:
        """Images that a workbook lists, with the label that it may have, or must when `labelled`."""
        path = self.find(f"table of the {split} images", f"{annotation}/{workbook}")
        table = read_excel(path)
        columns = {name.lower(): name for name in table.column_names}
        label = next((columns[name] for name in LABELS if name in columns), None)
        if "imgname" not in columns or (labelled and label is None):
            wanted = f"ImgName{' and one of ' + ', '.join(LABELS) if labelled else ''}"
            raise LayoutError(f"{path} has no columns {wanted}. Its columns are: {', '.join(columns)}. {self.about}")
        names = table.column(columns["imgname"]).to_pylist()
        glaucoma = table.column(label) if label else pa.array([""] * len(names), pa.string())
        rows = pa.table({"split": pa.array([split] * len(names), pa.string()), "glaucoma": glaucoma})
        files = self.images_below(self.find(f"folder of the {split} images", images))
        return self.located(with_masks(rows, names, self._masks(annotation)), names, files, path)

    def _masks(self, annotation: str) -> dict[str, str]:
        """Mask file of each image, whether or not they lie in a folder for each class."""
        folder = self.find("folder of masks", f"{annotation}/Disc_Cup_Masks")
        return {key.rpartition("/")[2]: path for key, path in self.images_below(folder).items()}

    def mask_level(self, part: str, values: np.ndarray) -> np.ndarray:
        """0 is the cup, 128 the rest of the disc, 255 the background."""
        return decode(values, CODING, part, self.about)
