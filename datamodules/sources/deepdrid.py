"""DeepDRiD, regular fundus photographs: four a patient, two of each eye; a DR grade, and scores of quality.

The test split is the evaluation set of the online challenges 1 and 2.

The grade and `Overall quality` are of the eye: its two photographs share them, though one may show what the other does
not. `Clarity` (10 is best) and `Artifact` (0 is best) are of the photograph. So these two say whether it is readable,
and the grade of one that is not readable is unknown.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from datamodules.sources.cautious import IfReadable, Score, Scored
from datamodules.sources.harmonise import FUNDUS, ICDR, WHERE, Levels, row_name
from datamodules.sources.public import LayoutError, PublicSource

PARTS = {"train": "regular-fundus-training", "val": "regular-fundus-validation"}
EVALUATION = "Online-Challenge1&2-Evaluation"
CLARITY, ARTIFACT, LEFT, RIGHT = "Clarity", "Artifact", "left_eye_DR_Level", "right_eye_DR_Level"
READABLE = Scored("is_retinal_region_readable", (Score(CLARITY, good=6, bad=4), Score(ARTIFACT, good=6, bad=8)))


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
        "the grade and `Overall quality` are the eye's, whose two photographs share them: a photograph is readable by "
        "its own `Clarity` and `Artifact`, and an unreadable one has no grade; `image_path` names a folder that is not "
        "there; the letter in a name is not always the eye, which the grade column that is filled tells"
    )
    rules = (
        IfReadable(Levels("dr_grade", "grade", ICDR), READABLE),
        FUNDUS,
        READABLE,
        Levels("eye_side", "eye", {"right": 0, "left": 1}),
    )
    published = {"images": 2000, "patients": 500, "train": 1200, "val": 400, "test": 400}

    def _table(self) -> pa.Table:
        parts = [self._graded_by_eye(split, part) for split, part in PARTS.items()]
        return pa.concat_tables([*parts, self._evaluation()], promote_options="default")

    def _graded_by_eye(self, split: str, part: str) -> pa.Table:
        path = self._find(f"labels of the {split} split", f"{part}/{part}.csv")
        rows = self.read_labels(path, "patient_id", "image_id", CLARITY, ARTIFACT, LEFT, RIGHT)
        table = rows.to_pydict()
        eyes = list(zip(table[LEFT], table[RIGHT], strict=True))
        if both := [row for row, (left, right) in enumerate(eyes) if left and right]:
            where = row_name(rows, both[0], self.title)
            raise LayoutError(f"{where}: {LEFT} and {RIGHT} are both filled. {self.about}")
        columns = {
            "id": table["image_id"],
            "patient": table["patient_id"],
            "grade": [left or right for left, right in eyes],
            "eye": ["left" if left else "right" if right else "" for left, right in eyes],
            **{name: table[name] for name in (CLARITY, ARTIFACT, WHERE)},
        }
        return self._part(split, part, path, columns)

    def _evaluation(self) -> pa.Table:
        path = self._find("labels of the test split", f"{EVALUATION}/Challenge1_labels.xlsx")
        table = self.read_labels(path, "image_id", "DR_Levels").to_pydict()
        names = table["image_id"]
        columns = {
            "id": names,
            "patient": [name.partition("_")[0] for name in names],
            "grade": table["DR_Levels"],
            **dict.fromkeys(("eye", CLARITY, ARTIFACT), [""] * len(names)),
            WHERE: table[WHERE],
        }
        return self._part("test", EVALUATION, path, columns)

    def _part(self, split: str, part: str, path: Path, columns: Mapping[str, Sequence[str]]) -> pa.Table:
        names = [f"{patient}/{name}" for patient, name in zip(columns["patient"], columns["id"], strict=True)]
        images = self.images_below(self._find(f"images of the {split} split", f"{part}/Images"))
        return self.located(pa.table({**columns, "split": [split] * len(names)}), names, images, path)

    def _find(self, what: str, path: str) -> Path:
        return self.find(what, f"regular_fundus_images/{path}", path)
