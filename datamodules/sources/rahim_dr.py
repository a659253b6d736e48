"""Rahim's retinal photographs for diabetic retinopathy: ten classes, both eyes, one camera.

S. S. Rahim, "Retinal Fundus Image Dataset for Diabetic Retinopathy Detection", 2025,
https://github.com/SRahimDR/DR-image-dataset; free for academic purposes with attribution. Graded by certified
ophthalmologists on the ICDR scale.

Layout: `DR and maculopathy 10 classes/<n> - <class>/Patient<NNN>_<L or R>.jpg`; one name has `-` for `_`.

Label coding. The class gives `dr_grade` and `is_dme` (maculopathy); "No DR" is grade 0 without maculopathy. "ADED",
advanced diabetic eye disease (tractional detachment, vitreous haemorrhage), is what proliferative retinopathy ends in:
grade 4, `is_dme` unknown because the class does not say. `is_fundus` is 1, for a photograph that an ophthalmologist
graded is a fundus photograph; the three other readabilities and all other diseases are unknown. `eye_side` is in the
file's name.

Patients. Two persons were photographed on two visits and are there under two numbers each: 155 is 058 and 237 is 067,
as their vessels tell. They are one patient each here: the 225 numbers are of 223 persons.
"""

import re
from pathlib import Path

import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS, Levels
from datamodules.sources.listing import is_foreign, list_images
from datamodules.sources.public import LayoutError, PublicSource

FOLDER = "DR and maculopathy 10 classes"
NAME = re.compile(r"^Patient(?P<patient>\d+)[_-](?P<eye>[LR])\.jpe?g$", re.IGNORECASE)
CLASS = re.compile(r"^(?P<number>\d+) - ")

# class number: dr_grade, is_dme (None unknown), images in the published set
CLASSES: dict[int, tuple[int, int | None, int]] = {
    1: (0, 0, 211),
    2: (1, 0, 52),
    3: (1, 1, 20),
    4: (2, 0, 65),
    5: (2, 1, 62),
    6: (3, 0, 15),
    7: (3, 1, 7),
    8: (4, 0, 4),
    9: (4, 1, 8),
    10: (4, None, 6),
}
SAME = {"155": "058", "237": "067"}  # a number given at a second visit: that of the first
NUM_IMAGES, NUM_PATIENTS = 450, 223


class RahimDR(PublicSource):
    """450 photographs of both eyes, 225 numbers of 223 patients. `root` holds the folder of classes, or is it."""

    name = "rahim_dr"
    title = "Rahim DR"
    licence = "free for academic purposes with attribution"
    address = "https://github.com/SRahimDR/DR-image-dataset"
    layout = f"{FOLDER!r} with the folders '1 - No DR' … '10 - ADED' of Patient<NNN>_<L or R>.jpg"
    trap = (
        "two persons are there under two numbers, 058 as 155 and 067 as 237; one name has `-` for `_`; ADED, what "
        "proliferative retinopathy ends in, says nothing of maculopathy"
    )
    rules = (
        Levels("dr_grade", "class", {str(number): grade for number, (grade, _, _) in CLASSES.items()}),
        Levels("is_dme", "class", {str(number): dme for number, (_, dme, _) in CLASSES.items()}),
        FUNDUS,
        Levels("eye_side", "eye", {"R": 0, "L": 1}),
    )
    published = {
        "images": NUM_IMAGES,
        "patients": NUM_PATIENTS,
        **{f"dr_grade={g}": sum(n for grade, _, n in CLASSES.values() if grade == g) for g in range(5)},
    }

    def _table(self) -> pa.Table:
        home = self.root / FOLDER if (self.root / FOLDER).is_dir() else self.root
        prefix = f"{FOLDER}/" if home != self.root else ""
        rows = []
        for number, folder in sorted(self._folders(home).items()):
            for file in list_images(folder):
                match = NAME.match(file)
                if match is None:
                    raise LayoutError(f"{folder / file} is not named Patient<NNN>_<L or R>.jpg. {self.about}")
                named, eye = match["patient"], match["eye"].upper()
                row = {"id": f"Patient{named}_{eye}", "patient": f"Patient{SAME.get(named, named)}", "eye": eye}
                rows.append({**row, "path": f"{prefix}{folder.name}/{file}", "class": str(number)})
        if not rows:
            raise self.lacks("images", "Patient<NNN>_<L or R>.jpg", home)
        return pa.Table.from_pylist(rows)

    def _folders(self, home: Path) -> dict[int, Path]:
        found = {}
        for entry in sorted(entry for entry in home.iterdir() if entry.is_dir() and not is_foreign(entry.name)):
            match = CLASS.match(entry.name)
            if match is None or int(match["number"]) not in CLASSES:
                raise LayoutError(f"{entry} is not one of the ten classes. {self.about}")
            found[int(match["number"])] = entry
        missing = sorted(set(CLASSES) - set(found))
        if missing:
            raise self.lacks(f"folder for the classes {missing}", "'<number> - <class>'", home)
        return found
