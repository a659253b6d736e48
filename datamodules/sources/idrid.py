"""IDRiD, part B: grades of diabetic retinopathy and of the risk of macular oedema.

Porwal et al. 2018, "Indian Diabetic Retinopathy Image Dataset (IDRiD)". The risk of macular oedema is graded 0 to 2: no
hard exudates, exudates farther than a disc diameter from the centre of the macula, exudates nearer. Those that are
farther are no maculopathy yet, and do not exclude it: 1 is unknown.
"""

from pathlib import Path

import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS, ICDR, WHERE, Levels
from datamodules.sources.public import PublicSource

NAME, GRADE, DME = "Image name", "Retinopathy grade", "Risk of macular edema"
PARTS = (
    ("train", "a. Training Set", "a. IDRiD_Disease Grading_Training Labels.csv"),
    ("test", "b. Testing Set", "b. IDRiD_Disease Grading_Testing Labels.csv"),
)


class IDRiD(PublicSource):
    """516 photographs with grades of DR and of the risk of DME; no patients."""

    name = "idrid"
    title = "IDRiD (grading)"
    licence = "CC BY 4.0"
    address = "https://ieee-dataport.org/open-access/indian-diabetic-retinopathy-image-dataset-idrid"
    layout = (
        "'1. Original Images' with 'a. Training Set' and 'b. Testing Set', and '2. Groundtruths' with the tables of "
        "labels, or the folder 'B. Disease Grading' that holds them"
    )
    trap = (
        "the name of the DME column ends in a space; nameless columns follow it; names begin anew in the test split; "
        "81 of the photographs are those of the segmentation set under other numbers, which names cannot match: "
        "`data.duplicates=drop` in a union"
    )
    rules = (
        Levels("dr_grade", GRADE, ICDR),
        Levels("is_dme", DME, {"0": 0, "1": None, "2": 1}),
        FUNDUS,
    )
    published = {"images": 516, "train": 413, "test": 103}

    def _table(self) -> pa.Table:
        return pa.concat_tables([self._part(*part) for part in PARTS])

    def _part(self, split: str, folder: str, labels: str) -> pa.Table:
        path = self._find(f"grades of the {split} split", f"2. Groundtruths/{labels}")
        images = self.images_below(self._find(f"images of the {split} split", f"1. Original Images/{folder}"))
        table = self.read_labels(path, NAME, GRADE, DME).select([NAME, GRADE, DME, WHERE])
        names = table.column(NAME).to_pylist()
        table = table.append_column("id", pa.array([f"{split}/{name}" for name in names], pa.string()))
        table = table.append_column("split", pa.array([split] * len(names), pa.string()))
        return self.located(table, names, images, path)

    def _find(self, what: str, path: str) -> Path:
        return self.find(what, path, f"B. Disease Grading/{path}")
