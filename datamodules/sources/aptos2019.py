"""APTOS 2019 blindness detection: DR grades of Aravind Eye Hospital, many cameras, one photograph a patient known.

Layout and counts as listed by public readers of the set; the labels of the competition's test images are not public.
"""

import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS, ICDR, Levels
from datamodules.sources.public import PublicSource


class Aptos2019(PublicSource):
    """3662 photographs with a DR grade. Patients are not given: every image is its own."""

    name = "aptos2019"
    title = "APTOS 2019"
    licence = "rules of the Kaggle competition aptos2019-blindness-detection"
    address = "https://www.kaggle.com/c/aptos2019-blindness-detection/data"
    layout = "train.csv (id_code, diagnosis) and train_images/<id_code>.png"
    trap = (
        "`id_code` has no extension; re-packs are .jpg; the training set repeats photographs under other names, some "
        "of them with another grade (`data.duplicates=report` lists them, `data.duplicates=drop` leaves one of each)"
    )
    rules = (Levels("dr_grade", "diagnosis", ICDR), FUNDUS)
    published = {
        "images": 3662,
        "dr_grade=0": 1805,
        "dr_grade=1": 370,
        "dr_grade=2": 999,
        "dr_grade=3": 193,
        "dr_grade=4": 295,
    }

    def _table(self) -> pa.Table:
        path = self.find("table of grades", "train.csv")
        table = self.read_labels(path, "id_code", "diagnosis")
        names = table.column("id_code").to_pylist()
        table = table.append_column("id", pa.array(names))
        return self.located(table, names, self.images_below(self.find("folder of images", "train_images")), path)
