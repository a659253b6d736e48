"""EyePACS (Kaggle, Diabetic Retinopathy Detection, 2015): screening photographs of both eyes, many cameras, DR grades.

The grades of the test images were published after the competition, in a file of their own.
"""

import logging
import re

import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS, ICDR, WHERE, Levels, row_name
from datamodules.sources.public import LayoutError, PublicSource

log = logging.getLogger(__name__)

TRAINING = ("trainLabels.csv",)
TESTING = ("retinopathy_solution.csv", "testLabels.csv")
NAME = re.compile(r"(.+)_(left|right)(\.\w+)?", re.IGNORECASE)  # 10_left


class EyePACS(PublicSource):
    """Two eyes a patient, each with a DR grade. Without the test images or their grades, the training images alone."""

    name = "eyepacs"
    title = "EyePACS"
    licence = "rules of the Kaggle competition diabetic-retinopathy-detection"
    address = "https://www.kaggle.com/c/diabetic-retinopathy-detection/data"
    layout = (
        "trainLabels.csv (image, level) and train/<patient>_<left or right>.jpeg, or train/images/…; likewise "
        "retinopathy_solution.csv or testLabels.csv, and test/"
    )
    trap = "both eyes of a patient are there, so images are split by the number in the name; EyeQ has the same images"
    rules = (
        Levels("dr_grade", "level", ICDR),
        FUNDUS,
        Levels("eye_side", "eye", {"right": 0, "left": 1}),
    )
    published = {"train": 35126, "test": 53576}
    patient_space = "eyepacs"

    def _table(self) -> pa.Table:
        parts = [self._part("train", TRAINING)]
        images = (self.root / "test").is_dir()
        grades = any((self.root / name).is_file() for name in TESTING)
        if images and grades:
            parts.append(self._part("test", TESTING))
        elif images or grades:
            lacking = " or ".join(TESTING) if images else "test/"
            log.warning("%s: the test split is left out: there is no %s", self.title, lacking)
        return pa.concat_tables(parts)

    def _part(self, split: str, tables: tuple[str, ...]) -> pa.Table:
        path = self.find(f"grades of the {split} split", *tables)
        table = self.read_labels(path, "image", "level")
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
        columns = {name: pa.array(column, pa.string()) for name, column in columns.items()}
        columns |= {name: table.column(name) for name in ("level", WHERE)}
        folder = self.find(f"images of the {split} split", f"{split}/images", split)
        return self.located(pa.table(columns), names, self.images_below(folder), path)
