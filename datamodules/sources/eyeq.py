"""EyeQ: how good 28,792 photographs of EyePACS are. The tables come from EyeQ, the images from EyePACS.

Fu et al. 2019, "Evaluation of Retinal Image Quality Assessment Networks in Different Color-spaces". Counts as in the
published tables, a few off those in the authors' text; those of the grades leave out what was rejected.
"""

import logging

import pyarrow as pa

from datamodules.sources.cautious import Unless
from datamodules.sources.eyepacs import NAME
from datamodules.sources.harmonise import FUNDUS, ICDR, WHERE, Levels, row_name
from datamodules.sources.public import LayoutError, PublicSource

log = logging.getLogger(__name__)


class EyeQ(PublicSource):
    """Both eyes of many patients, with quality and DR grade. Without the test images, the training images alone."""

    name = "eyeq"
    title = "EyeQ"
    licence = "CC BY-NC-SA 4.0 for the labels; the images under the rules of EyePACS"
    address = (
        "https://github.com/HzFu/EyeQ, its images from https://www.kaggle.com/c/diabetic-retinopathy-detection/data"
    )
    layout = (
        "Label_EyeQ_train.csv and Label_EyeQ_test.csv (image, quality, DR_grade), or data/ that holds them, and "
        "EyePACS's images, train/<image> and test/<image>, or train/images/… and test/images/…"
    )
    trap = "rejected images have grades, which are not used; the same images and patients as in EyePACS"
    rules = (
        Unless(Levels("dr_grade", "DR_grade", ICDR), "quality", "2"),
        FUNDUS,
        Levels("is_retinal_region_readable", "quality", {"0": 1, "1": None, "2": 0}),
        Levels("eye_side", "eye", {"right": 0, "left": 1}),
    )
    published = {
        "images": 28792,
        "train": 12543,
        "test": 16249,
        "is_retinal_region_readable=1": 16818,
        "is_retinal_region_readable=0": 5540,
        "dr_grade=0": 16862,
        "dr_grade=1": 2047,
        "dr_grade=2": 3458,
        "dr_grade=3": 590,
        "dr_grade=4": 295,
    }
    patient_space = "eyepacs"

    def _table(self) -> pa.Table:
        parts = [self._part("train")]
        if (self.root / "test").is_dir():
            parts.append(self._part("test"))
        else:
            log.warning("%s: the test split is left out: there is no test/", self.title)
        return pa.concat_tables(parts)

    def _part(self, split: str) -> pa.Table:
        path = self.find(f"labels of the {split} split", f"Label_EyeQ_{split}.csv", f"data/Label_EyeQ_{split}.csv")
        table = self.read_labels(path, "image", "quality", "DR_grade").select(["image", "quality", "DR_grade", WHERE])
        names = table.column("image").to_pylist()
        parts = [NAME.fullmatch(name) for name in names]
        if None in parts:
            row = parts.index(None)
            raise LayoutError(
                f"{row_name(table, row, self.title)}: image {names[row]!r} is not named <patient>_left or "
                f"<patient>_right. {self.about}"
            )
        columns = {
            "id": [f"{part[1]}_{part[2].lower()}" for part in parts],
            "patient": [part[1] for part in parts],
            "eye": [part[2].lower() for part in parts],
            "split": [split] * len(names),
        }
        for name, column in columns.items():
            table = table.append_column(name, pa.array(column, pa.string()))
        folder = self.find(f"images of the {split} split", f"{split}/images", split)
        return self.located(table, names, self.images_below(folder), path)
