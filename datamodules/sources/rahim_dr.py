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
"""

import logging
import re
from collections import Counter
from pathlib import Path

import pyarrow as pa

from datamodules.manifest import Manifest
from datamodules.sources.base import FileSource, list_images

log = logging.getLogger(__name__)

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
NUM_IMAGES, NUM_PATIENTS = 450, 226


class RahimDR(FileSource):
    """450 photographs of 226 patients. `root` holds the folder of classes, or is it.

    Another number of images than published is reported in the log: a part of the set is still a set. A file or a folder
    that does not fit the layout raises ValueError.
    """

    name = "rahim_dr"
    about = (
        f"It should hold {FOLDER!r} with the folders '1 - No DR' … '10 - ADED' of Patient<NNN>_<L or R>.jpg, from "
        "https://github.com/SRahimDR/DR-image-dataset."
    )

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)

    def _index(self) -> Manifest:
        home = self.root / FOLDER if (self.root / FOLDER).is_dir() else self.root
        prefix = f"{FOLDER}/" if home != self.root else ""
        folders = self._folders(home)
        rows = []
        for number, folder in sorted(folders.items()):
            grade, dme, _ = CLASSES[number]
            for file in list_images(folder):
                match = NAME.match(file)
                if match is None:
                    raise ValueError(f"{folder / file} is not named Patient<NNN>_<L or R>.jpg. {self.about}")
                patient, left = f"Patient{match['patient']}", match["eye"].upper() == "L"
                rows.append({
                    "id": f"{patient}_{match['eye'].upper()}",
                    "path": f"{prefix}{folder.name}/{file}",
                    "patient": patient,
                    "source": self.name,
                    "dr_grade": grade,
                    "is_dme": dme,
                    "is_fundus": 1,
                    "eye_side": int(left),
                })  # fmt: skip
        self._compare(rows)
        return Manifest.from_table(pa.Table.from_pylist(rows), origin=str(home))

    def _folders(self, home: Path) -> dict[int, Path]:
        found = {}
        for entry in sorted(entry for entry in home.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
            match = CLASS.match(entry.name)
            if match is None or int(match["number"]) not in CLASSES:
                raise ValueError(f"{entry} is not one of the ten classes. {self.about}")
            found[int(match["number"])] = entry
        missing = sorted(set(CLASSES) - set(found))
        if missing:
            here = sorted(entry.name for entry in home.iterdir())[:12]
            raise ValueError(f"{home} has no folder for the classes {missing}. {self.about} Found: {here}.")
        return found

    def _compare(self, rows: list[dict]) -> None:
        """Report in the log where the counts differ from the published ones."""
        if not rows:
            raise ValueError(f"{self.root} holds no image. {self.about}")
        patients = len({row["patient"] for row in rows})
        if (len(rows), patients) != (NUM_IMAGES, NUM_PATIENTS):
            found, published = f"{len(rows)} of {patients}", f"{NUM_IMAGES} of {NUM_PATIENTS}"
            log.warning("%s: %s patients found, %s patients published", self.root, found, published)
        counts = Counter(int(CLASS.match(row["path"].split("/")[-2])["number"]) for row in rows)
        differ = {n: (counts[n], count) for n, (_, _, count) in CLASSES.items() if counts[n] != count}
        if differ:
            log.warning("%s: classes whose counts (found, published) differ: %s", self.root, differ)
