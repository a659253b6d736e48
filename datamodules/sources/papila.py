"""PAPILA: both eyes of each patient, a diagnosis, and outlines of the optic disc and the cup by two experts.

Kovalyk et al. 2022, "PAPILA: Dataset with fundus images and clinical data of both eyes of the same patient for glaucoma
assessment". Masks are the first expert's outlines, filled.
"""

import re
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from datamodules.manifest import ManifestError
from datamodules.sources.excel import read_excel
from datamodules.sources.harmonise import FUNDUS, Levels
from datamodules.sources.optic_disc import LEVELS
from datamodules.sources.public import LayoutError, PublicSource
from datamodules.sources.rows import placed

CONTOURS = "ExpertsSegmentations/Contours"
NUMBER = re.compile(r"#?(\d+)")
HEADER_ROWS = 3
COLUMNS = {"ID": "ID", "Unnamed: 0": "ID", "Diagnosis": "Diagnosis"}


class PAPILA(PublicSource):
    """488 photographs of 244 patients. A suspect's glaucoma is unknown."""

    name = "papila"
    title = "PAPILA"
    licence = "GPL 3.0 or later"
    address = "https://figshare.com/articles/dataset/PAPILA/14798004"
    layout = (
        "FundusImages/RET<nnn><OD or OS>.jpg, ClinicalData/patient_data_od.xlsx and patient_data_os.xlsx, and "
        f"{CONTOURS}/RET<nnn><OD or OS>_<disc or cup>_exp1.txt"
    )
    trap = "1 is glaucoma and 2 suspect, while re-packs have suspects second; workbooks have up to three header rows"
    rules = (
        Levels("is_gc", "Diagnosis", {"0": 0, "1": 1, "2": None}),
        Levels("eye_side", "eye", {"OD": 0, "OS": 1}),
        FUNDUS,
    )
    published = {"images": 488, "patients": 244, "is_gc=0": 333, "is_gc=1": 87, "masks": 488}
    frame = "either"
    mask_levels = LEVELS

    def _table(self) -> pa.Table:
        images = self.images_below(self.find("folder of images", "FundusImages"))
        contours = {path.name for path in self.find("folder of outlines", CONTOURS).iterdir()}
        return pa.concat_tables(self._eyes(eye, images, contours) for eye in ("OD", "OS"))

    def _eyes(self, eye: str, images: dict[str, str], contours: set[str]) -> pa.Table:
        path = self.find(f"table of the {eye} eyes", f"ClinicalData/patient_data_{eye.lower()}.xlsx")
        patients, diagnoses, numbers = zip(*self._patients(path), strict=True)
        names = [f"RET{patient}{eye}" for patient in patients]
        outlines = [(f"{name}_disc_exp1.txt", f"{name}_cup_exp1.txt") for name in names]
        masks = ["|".join(f"{CONTOURS}/{o}" for o in pair) if contours.issuperset(pair) else "" for pair in outlines]
        rows = {"id": names, "patient": patients, "eye": [eye] * len(names), "mask": masks, "Diagnosis": diagnoses}
        files = {key: image for key, image in images.items() if key.endswith(eye.lower())}
        return self.located(placed(pa.table(rows), self.below(path), numbers), names, files, path)

    def _patients(self, path: Path) -> list[tuple[str, str, int]]:
        """Number, diagnosis and row of each patient. The columns' names may stand in different header rows."""
        columns: dict[str, list[str]] = {}
        for header in range(HEADER_ROWS):
            table = read_excel(path, header=header)
            for name, ours in COLUMNS.items():
                if name in table.column_names:
                    columns.setdefault(ours, table.column(name).to_pylist())
            if len(columns) == 2:
                break
        else:
            raise LayoutError(f"{path} has no columns 'ID' and 'Diagnosis' in its first rows. {self.about}")
        last = header + 1 + table.num_rows
        from_below = zip(reversed(columns["ID"]), reversed(columns["Diagnosis"]), range(last, 0, -1), strict=False)
        found = [(NUMBER.fullmatch(number), diagnosis, row) for number, diagnosis, row in from_below]
        patients = [(f"{int(match[1]):03d}", diagnosis, row) for match, diagnosis, row in reversed(found) if match]
        if not patients:
            raise LayoutError(f"{path} names no patient as #002 is named. {self.about}")
        return patients

    def _painted(self, mask: str, shape: tuple[int, int]) -> np.ndarray:
        levels = np.zeros(shape, dtype=np.uint8)
        for part in mask.split("|"):
            level = LEVELS.index("optic cup" if "_cup_" in part else "optic disc")
            cv2.fillPoly(levels, [self._outline(part, shape)], level)
        return levels

    def _outline(self, part: str, shape: tuple[int, int]) -> np.ndarray:
        """Points int32 [N, 2] of a text file with x and y on each line, in pixels of the photograph."""
        try:
            points = np.loadtxt(self.root / part, ndmin=2)
        except ValueError as error:
            raise ManifestError(f"{self.title}: outline {part!r} is no table of numbers: {error}.") from None
        good = points.ndim == 2 and points.shape[1] == 2 and len(points) > 2
        if not good or not ((points > -1) & (points < np.array(shape[::-1]))).all():
            raise ManifestError(
                f"{self.title}: outline {part!r} is no list of three points or more (x, y) in a photograph of "
                f"{shape[1]} x {shape[0]} pixels. Remedy: take both from the same copy of the dataset."
            )
        return np.round(points).astype(np.int32)
