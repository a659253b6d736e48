"""DeepDRiD, regular fundus photographs: four a patient, two of each eye; a DR grade, and whether they can be judged.

The test split is the evaluation set of the online challenges 1 and 2.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from datamodules.sources.excel import read_excel
from datamodules.sources.harmonise import FUNDUS, ICDR, YES_NO, Levels
from datamodules.sources.public import LayoutError, PublicSource

PARTS = {"train": "regular-fundus-training", "val": "regular-fundus-validation"}
EVALUATION = "Online-Challenge1&2-Evaluation"
QUALITY, LEFT, RIGHT = "Overall quality", "left_eye_DR_Level", "right_eye_DR_Level"


class DeepDRiD(PublicSource):
    """2000 photographs of 500 patients. In the test split, quality and eye are unknown."""

    name = "deepdrid"
    title = "DeepDRiD"
    licence = "see the dataset's page"
    address = "https://github.com/deepdrdoc/DeepDRiD"
    layout = (
        "regular-fundus-training/ and regular-fundus-validation/, each with a table of its name and "
        f"Images/<patient>/<image_id>.jpg, and {EVALUATION}/ with Challenge1_labels.xlsx and Images/; or the folder "
        "regular_fundus_images that holds them"
    )
    trap = (
        "`image_path` names a folder that is not there; the letter in a name is not always the eye, which the grade "
        "column that is filled tells"
    )
    rules = (
        Levels("dr_grade", "grade", ICDR),
        FUNDUS,
        Levels("is_retinal_region_readable", QUALITY, YES_NO),
        Levels("eye_side", "eye", {"right": 0, "left": 1}),
    )
    published = {
        "images": 2000,
        "patients": 500,
        "train": 1200,
        "val": 400,
        "test": 400,
        "dr_grade=0": 914,
        "dr_grade=1": 222,
        "dr_grade=2": 398,
        "dr_grade=3": 354,
        "dr_grade=4": 112,
    }

    def _table(self) -> pa.Table:
        parts = [self._graded_by_eye(split, part) for split, part in PARTS.items()]
        return pa.concat_tables([*parts, self._evaluation()], promote_options="default")

    def _graded_by_eye(self, split: str, part: str) -> pa.Table:
        path = self._find(f"labels of the {split} split", f"{part}/{part}.csv")
        table = self.read_labels(path, "patient_id", "image_id", QUALITY, LEFT, RIGHT).to_pydict()
        eyes = list(zip(table[LEFT], table[RIGHT], strict=True))
        if both := [row for row, (left, right) in enumerate(eyes) if left and right]:
            raise LayoutError(f"{path}, row {both[0] + 2}: {LEFT} and {RIGHT} are both filled. {self.about}")
        columns = {
            "id": table["image_id"],
            "patient": table["patient_id"],
            "grade": [left or right for left, right in eyes],
            "eye": ["left" if left else "right" if right else "" for left, right in eyes],
            QUALITY: table[QUALITY],
        }
        return self._part(split, part, path, columns)

    def _evaluation(self) -> pa.Table:
        path = self._find("labels of the test split", f"{EVALUATION}/Challenge1_labels.xlsx")
        table = read_excel(path).to_pydict()
        if not {"image_id", "DR_Levels"} <= set(table):
            raise LayoutError(f"{path} has no column image_id or DR_Levels: {', '.join(table)}. {self.about}")
        names = table["image_id"]
        blank = [""] * len(names)
        patients = [name.partition("_")[0] for name in names]
        columns = {"id": names, "patient": patients, "grade": table["DR_Levels"], "eye": blank, QUALITY: blank}
        return self._part("test", EVALUATION, path, columns)

    def _part(self, split: str, part: str, path: Path, columns: Mapping[str, Sequence[str]]) -> pa.Table:
        names = [f"{patient}/{name}" for patient, name in zip(columns["patient"], columns["id"], strict=True)]
        images = self.images_below(self._find(f"images of the {split} split", f"{part}/Images"))
        return self.located(pa.table({**columns, "split": [split] * len(names)}), names, images, path)

    def _find(self, what: str, path: str) -> Path:
        return self.find(what, f"regular_fundus_images/{path}", path)
