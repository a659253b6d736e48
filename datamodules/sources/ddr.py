"""DDR (OIA-DDR), grading: photographs from many hospitals in China, with a DR grade or called ungradable."""

from pathlib import Path

import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS, ICDR, Levels
from datamodules.sources.public import LayoutError, PublicSource

PARTS = {"train": "train", "val": "valid", "test": "test"}  # split: name of folder and table


class DDR(PublicSource):
    """13,673 photographs, 1151 of them ungradable. Which are of one patient is not told: every image is its own."""

    name = "ddr"
    title = "DDR (grading)"
    licence = "see the dataset's page"
    address = "https://github.com/nkicsl/DDR-dataset"
    layout = "train.txt, valid.txt, test.txt and the folders train, valid, test, or the folder DR_grading that has them"
    trap = "label 5 means ungradable and is no grade; the tables have no header"
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

    def _table(self) -> pa.Table:
        return pa.concat_tables([self._part(split, part) for split, part in PARTS.items()], promote_options="default")

    def _part(self, split: str, part: str) -> pa.Table:
        path = self.find(f"labels of the {split} split", f"DR_grading/{part}.txt", f"{part}.txt")
        images = self.images_below(self.find(f"images of the {split} split", f"DR_grading/{part}", part))
        names, labels = self._read(path)
        ids = [f"{part}/{Path(name).stem}" for name in names]
        table = pa.table({"id": ids, "label": labels, "split": [split] * len(names)})
        return self.located(table, names, images, f"{path} (its first line counted as row 2)")

    def _read(self, path: Path) -> tuple[list[str], list[str]]:
        """Names and labels of a table without a header, `name label` on each line."""
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        rows = [line.rsplit(maxsplit=1) for line in lines if line.strip()]
        if wrong := [row for row in rows if len(row) != 2]:
            raise LayoutError(f"{path}: {' '.join(wrong[0])!r} is not a name and a label. {self.about}")
        return [name for name, _ in rows], [label for _, label in rows]
