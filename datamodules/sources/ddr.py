"""DDR (OIA-DDR), grading: photographs from many hospitals in China, with a DR grade or called ungradable."""

from pathlib import Path

import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS, ICDR, Levels
from datamodules.sources.listing import stem
from datamodules.sources.public import LayoutError, PublicSource
from datamodules.sources.rows import placed

PARTS = {"train": "train", "val": "valid", "test": "test"}  # split: name of folder and table
COLUMNS = ("name", "label")


class DDR(PublicSource):
    """13,673 photographs, 1151 of them ungradable. Which are of one patient is not told: every image is its own.

    A patient is called after the file, as in the set of lesions, so that a union keeps the same photograph on one side.
    """

    name = "ddr"
    title = "DDR (grading)"
    licence = "see the dataset's page"
    address = "https://github.com/nkicsl/DDR-dataset"
    layout = "train.txt, valid.txt, test.txt and the folders train, valid, test, or the folder DR_grading that has them"
    trap = (
        "label 5 means ungradable and is no grade; the tables have no header; photographs of the set of lesions are "
        "here too, perhaps in another split"
    )
    rules = (
        Levels("dr_grade", "label", {**ICDR, "5": None}),
        FUNDUS,
        Levels("is_retinal_region_readable", "label", {**dict.fromkeys(ICDR, 1), "5": 0}),
    )
    published = {
        "images": 13673,
        "train": 6835,
        "val": 2733,
        "test": 4105,
        "dr_grade=0": 6266,
        "dr_grade=1": 630,
        "dr_grade=2": 4477,
        "dr_grade=3": 236,
        "dr_grade=4": 913,
        "is_retinal_region_readable=0": 1151,
    }
    patient_space = "ddr"

    def _table(self) -> pa.Table:
        return pa.concat_tables([self._part(split, part) for split, part in PARTS.items()], promote_options="default")

    def _part(self, split: str, part: str) -> pa.Table:
        path = self.find(f"labels of the {split} split", f"DR_grading/{part}.txt", f"{part}.txt")
        images = self.images_below(self.find(f"images of the {split} split", f"DR_grading/{part}", part))
        table = self._read(path)
        names = table.column("name").to_pylist()
        columns = {
            "id": [f"{part}/{Path(name).stem}" for name in names],
            "patient": [stem(name) for name in names],
            "split": [split] * len(names),
        }
        for name, column in columns.items():
            table = table.append_column(name, pa.array(column, pa.string()))
        return self.located(table, names, images, path)

    def _read(self, path: Path) -> pa.Table:
        """`name` and `label` of a table without a header, with the two on each line; blank lines are left out."""
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        rows = {number: line.rsplit(maxsplit=1) for number, line in enumerate(lines, start=1) if line.strip()}
        if wrong := [number for number, row in rows.items() if len(row) != 2]:
            cells = " ".join(rows[wrong[0]])
            raise LayoutError(f"{path}, row {wrong[0]}: {cells!r} is not a name and a label. {self.about}")
        columns = {name: pa.array([row[n] for row in rows.values()], pa.string()) for n, name in enumerate(COLUMNS)}
        return placed(pa.table(columns), self.below(path), list(rows))
