"""Messidor-2: both eyes of each examination, macula-centred; DR and macular oedema as adjudicated by specialists.

The photographs are ADCIS's, the labels Google's and not of the Messidor team. ADCIS's messidor-2.csv tells which two
photographs are of one person, and which eye each shows.
"""

import logging

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.sources.harmonise import FUNDUS, ICDR, WHERE, YES_NO, Levels, tidy
from datamodules.sources.listing import stem
from datamodules.sources.public import PublicSource

log = logging.getLogger(__name__)

GRADE, DME, GRADABLE = "adjudicated_dr_grade", "adjudicated_dme", "adjudicated_gradable"
PAIRS = "messidor-2.csv"


class Messidor2(PublicSource):
    """1748 photographs, 1744 of them gradable. Without messidor-2.csv every image is its own patient."""

    name = "messidor2"
    title = "Messidor-2"
    licence = "see the dataset's pages"
    address = (
        "https://www.adcis.net/en/third-party/messidor2/ (images, messidor-2.csv) and "
        "https://www.kaggle.com/datasets/google-brain/messidor2-dr-grades (messidor_data.csv)"
    )
    layout = f"IMAGES/, messidor_data.csv (image_id, {GRADE}, {DME}, {GRADABLE}) and, for the patients, {PAIRS}"
    trap = "images are .png and .JPG where the table says .jpg; an ungradable image has no grade, which is not grade 0"
    rules = (
        Levels("dr_grade", GRADE, ICDR),
        Levels("is_dme", DME, YES_NO),
        FUNDUS,
        Levels("is_retinal_region_readable", GRADABLE, YES_NO),
        Levels("eye_side", "eye", {"right": 0, "left": 1}),
    )
    published = {
        "images": 1748,
        "dr_grade=0": 1017,
        "dr_grade=1": 270,
        "dr_grade=2": 347,
        "dr_grade=3": 75,
        "dr_grade=4": 35,
        "is_dme=1": 151,
        "is_retinal_region_readable=1": 1744,
    }

    def _table(self) -> pa.Table:
        path = self.find("table of grades", "messidor_data.csv")
        table = self.read_labels(path, "image_id", GRADE, DME, GRADABLE)
        names = table.column("image_id").to_pylist()
        gradable = pa.array([tidy(cell) != "0" for cell in table.column(GRADABLE).to_pylist()])
        pairs = self._pairs()
        found = [pairs.get(stem(name), ("", "")) for name in names]
        columns = {
            "id": table.column("image_id"),
            "patient": pa.array([patient for patient, _ in found], pa.string()),
            "eye": pa.array([eye for _, eye in found], pa.string()),
            GRADE: pc.if_else(gradable, table.column(GRADE), ""),
            DME: pc.if_else(gradable, table.column(DME), ""),
            **{name: table.column(name) for name in (GRADABLE, WHERE)},
        }
        return self.located(pa.table(columns), names, self.images_below(self.find("folder of images", "IMAGES")), path)

    def _pairs(self) -> dict[str, tuple[str, str]]:
        """Of each image whose it is and which eye it shows; a person is named by the first image of the pair."""
        path = self.root / PAIRS
        if not path.is_file():
            log.warning("%s: there is no %s, which tells which two photographs are of one person", self.title, PAIRS)
            return {}
        table = self.read_labels(path, "left", "right")
        pairs = {}
        for left, right in zip(table.column("left").to_pylist(), table.column("right").to_pylist(), strict=True):
            for name, eye in ((left, "left"), (right, "right")):
                if name:
                    pairs[stem(name)] = (stem(left or right), eye)
        return pairs
