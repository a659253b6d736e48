"""RFMiD, Retinal Fundus Multi-disease Image Dataset: 45 diseases and signs, three official splits.

Pachade et al. 2021. Where one of its labels says less than our finding, only what cannot be that finding is absent:
drusen without macular degeneration, another anomaly of the disc without pallor, a haemorrhagic retinopathy without a
named occlusion leave it unknown. Nor are two of its labels the findings that they resemble: TSLN, a tessellated fundus,
is seen in eyes that are merely old or pale as well as in long ones, and MYA, myopia, need not be pathologic. Their
absence excludes degenerative and pathologic myopia; their presence leaves these unknown.
"""

import pyarrow as pa

from datamodules.sources.cautious import Narrower, columns_of
from datamodules.sources.harmonise import FUNDUS, WHERE, YES_NO, Levels
from datamodules.sources.public import PublicSource

EXCLUDED = {"0": 0, "1": None}  # the label takes in more than our finding, so that only its absence decides
DISC = ("ODPM", "ODC", "ODE", "ST", "AION", "CB", "MNF", "TD")
SPLITS = (
    ("train", "a. Training Set", "a. RFMiD_Training_Labels.csv", ("Training_Set",), "Training"),
    ("val", "b. Validation Set", "b. RFMiD_Validation_Labels.csv", ("Validation_Set", "Evaluation_Set"), "Validation"),
    ("test", "c. Testing Set", "c. RFMiD_Testing_Labels.csv", ("Test_Set",), "Test"),
)


class RFMiD(PublicSource):
    """3200 photographs; no patients. DR is only present or absent, so that a grade is 0 or unknown."""

    name = "rfmid"
    title = "RFMiD"
    licence = "CC BY 4.0"
    address = "https://ieee-dataport.org/open-access/retinal-fundus-multi-disease-image-dataset-rfmid"
    layout = (
        "'1. Original Images' and '2. Groundtruths', or the folders Training_Set, Validation_Set (or Evaluation_Set) "
        "and Test_Set, each with RFMiD_…_Labels.csv and its images in Training, Validation or Test"
    )
    trap = "`ID` begins anew in every split; `MH` is media haze and `MHL` the macular hole; `TD` is a tilted disc"
    rules = (
        Levels("dr_grade", "DR", {"0": 0, "1": None}),
        Narrower("is_amd", ("ARMD",), ("DN",)),
        Narrower("is_aon", ("ODP",), DISC),
        Levels("is_crp", "CRS", {"0": None, "1": 1}),
        Levels("is_dm", "TSLN", EXCLUDED),
        Levels("is_em", "ERM", YES_NO),
        Levels("is_pm", "MYA", EXCLUDED),
        Narrower("is_rvo", ("BRVO", "CRVO"), ("HR",)),
        FUNDUS,
    )
    published = {"images": 3200, "train": 1920, "val": 640, "test": 640}

    def _table(self) -> pa.Table:
        columns = columns_of(self.rules)
        parts = []
        for split, images, labels, homes, inner in SPLITS:
            homes = [home for name in homes for home in (name, f"{name}/{name}")]
            path = self.find(f"labels of the {split} split", f"2. Groundtruths/{labels}",
                             *(f"{home}/{labels[3:]}" for home in homes))  # fmt: skip
            folder = self.find(f"images of the {split} split", f"1. Original Images/{images}",
                               *(f"{home}/{inner}" for home in homes))  # fmt: skip
            table = self.read_labels(path, "ID", *columns)
            names = table.column("ID").to_pylist()
            ids = pa.array([f"{split}_{name}" for name in names], pa.string())
            table = table.select([*columns, WHERE]).append_column("id", ids)
            table = table.append_column("split", pa.array([split] * len(names), pa.string()))
            parts.append(self.located(table, names, self.images_below(folder), path))
        return pa.concat_tables(parts)
