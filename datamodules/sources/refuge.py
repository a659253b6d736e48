"""REFUGE, the glaucoma challenge of 2018, as its organisers distribute it: glaucoma, optic disc and cup.

Each of training, validation and test has 400 photographs; the first are of another camera than the others. A re-pack
with other folders and masks of the opposite coding is read by refuge_repack.py.
"""

from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS, WHERE, YES_NO, Levels
from datamodules.sources.listing import stem
from datamodules.sources.optic_disc import LEVELS, decode, with_masks
from datamodules.sources.public import LayoutError, PublicSource

LABELS = ("label(glaucoma=1)", "glaucoma label", "label")  # what the column of labels is called, capitals aside
LETTERS = {"g": "1", "n": "0"}
COLUMNS = ["id", "path", "patient", "split", "mask", "glaucoma", WHERE]
CODING = {255: 0, 128: 1, 0: 2}


class REFUGE(PublicSource):
    """1200 photographs with masks. The validation images' glaucoma is known only if their table has it.

    Whose they are is not told. A patient is called after the file, as in refuge_repack, so that a union of the two
    keeps the same photograph on one side.
    """

    name = "refuge"
    title = "REFUGE"
    licence = "see the dataset's page"
    address = "https://refuge.grand-challenge.org"
    layout = (
        "REFUGE-Training400/Training400 (or Training400), Annotation-Training400, REFUGE-Validation400, "
        "REFUGE-Validation400-GT (Fovea_locations.xlsx), Test400 and REFUGE-Test-GT "
        "(Glaucoma_label_and_Fovea_location.xlsx); masks in the folder Disc_Cup_Masks of the annotations; each of "
        "these folders may hold one of its own name that has its contents"
    )
    trap = (
        "masks are 0 in the cup, 128 in the disc, 255 outside: the opposite of re-packs; the label's column varies; "
        "refuge_repack has the same photographs"
    )
    rules = (Levels("is_gc", "glaucoma", YES_NO), FUNDUS)
    published = {"images": 1200, "train": 400, "val": 400, "test": 400, "is_gc=0": 1080, "is_gc=1": 120, "masks": 1200}
    mask_levels = LEVELS
    patient_space = "refuge"

    def _table(self) -> pa.Table:
        folder = self._folder("folder of the val images", "REFUGE-Validation400")
        validation = self._listed("val", folder, "REFUGE-Validation400-GT", "Fovea_locations.xlsx", labelled=False)
        folder = self._folder("folder of the test images", "REFUGE-Test400/Test400", "Test400", "REFUGE-Test400")
        test = self._listed("test", folder, "REFUGE-Test-GT", "Glaucoma_label_and_Fovea_location.xlsx", labelled=True)
        return pa.concat_tables([part.select(COLUMNS) for part in (self._training(), validation, test)])

    def _folder(self, what: str, *names: str, inner: str = "") -> Path:
        """A folder, or that of the same name within it: an archive may be unpacked into a folder of its own name."""
        paths = (path for name in names for path in (f"{name}/{name.rpartition('/')[2]}", name))
        return self.find(what, *(path + inner for path in paths))

    def _training(self) -> pa.Table:
        """The training images: their names begin with their class."""
        folder = self.find("training images", "REFUGE-Training400/Training400", "Training400")
        masks = self._masks("Annotation-Training400")
        rows = []
        for path in self.images_below(folder).values():
            name = PurePosixPath(path).stem
            if name[0].lower() not in LETTERS:
                raise self.lacks(f"class in the name {path!r}", "names that begin with g (glaucoma) or n", folder)
            row = {"path": path, "patient": name.lower(), "split": "train", WHERE: path}
            rows.append({**row, "glaucoma": LETTERS[name[0].lower()]})
        names = [PurePosixPath(row["path"]).name for row in rows]
        return with_masks(self, pa.Table.from_pylist(rows), names, masks)

    def _listed(self, split: str, images: Path, annotation: str, workbook: str, labelled: bool) -> pa.Table:
        """Images of a folder that a workbook lists, with the label that it may have, or must when `labelled`."""
        path = self._folder(f"table of the {split} images", annotation, inner=f"/{workbook}")
        table = self.read_labels(path)
        columns = {name.lower(): name for name in table.column_names if name != WHERE}
        label = next((columns[name] for name in LABELS if name in columns), None)
        if "imgname" not in columns or (labelled and label is None):
            wanted = f"ImgName{' and one of ' + ', '.join(LABELS) if labelled else ''}"
            raise LayoutError(f"{path} has no columns {wanted}. Its columns are: {', '.join(columns)}. {self.about}")
        names = table.column(columns["imgname"]).to_pylist()
        glaucoma = table.column(label) if label else pa.array([""] * len(names), pa.string())
        texts = {"split": [split] * len(names), "patient": [stem(name) for name in names]}
        rows = {name: pa.array(column, pa.string()) for name, column in texts.items()}
        table = pa.table({**rows, "glaucoma": glaucoma, WHERE: table.column(WHERE)})
        masked = with_masks(self, table, names, self._masks(annotation))
        return self.located(masked, names, self.images_below(images), path)

    def _masks(self, annotation: str) -> dict[str, str]:
        """Mask file of each image, whether or not they lie in a folder for each class."""
        folder = self._folder("folder of masks", annotation, inner="/Disc_Cup_Masks")
        return {key.rpartition("/")[2]: path for key, path in self.images_below(folder).items()}

    def mask_level(self, part: str, values: np.ndarray) -> np.ndarray:
        """0 is the cup, 128 the rest of the disc, 255 the background."""
        return decode(values, CODING, part, self.about)
