"""mBRSET: photographs of people with diabetes, taken with a portable camera in Brazil; DR grade, oedema, quality.

Counts as in the published table of labels; those of the grades are of the images with adequate quality. What is said of
diseases in the others is not used.
"""

import pyarrow as pa

from datamodules.sources.cautious import Unless, columns_of
from datamodules.sources.harmonise import FUNDUS, ICDR, WHERE, Levels
from datamodules.sources.listing import stem
from datamodules.sources.public import PublicSource


class MBRSET(PublicSource):
    """5164 photographs of 1291 patients, both eyes of each."""

    name = "mbrset"
    title = "mBRSET"
    licence = "see the dataset's page"
    address = "https://www.physionet.org/content/mbrset/1.0/"
    layout = "labels_mbrset.csv or dataframe_brsetmobile.csv (patient, file, laterality, final_…) and images/<file>"
    trap = (
        "names have a dot within, `1.1.jpg` is the first image of patient 1; grades are blank where there is none; 25 "
        "images of inadequate quality have a grade, which is not used, nor what is said of their oedema"
    )
    rules = (
        Unless(Levels("dr_grade", "final_icdr", ICDR), "final_quality", "no"),
        Unless(Levels("is_dme", "final_edema", {"no": 0, "yes": 1}), "final_quality", "no"),
        FUNDUS,
        Levels("is_retinal_region_readable", "final_quality", {"no": 0, "yes": 1}),
        Levels("eye_side", "laterality", {"right": 0, "left": 1}),
    )
    published = {
        "images": 5164,
        "patients": 1291,
        "is_retinal_region_readable=1": 4872,
        "is_retinal_region_readable=0": 292,
        "dr_grade=0": 3727,
        "dr_grade=1": 271,
        "dr_grade=2": 568,
        "dr_grade=3": 82,
        "dr_grade=4": 211,
    }

    def _table(self) -> pa.Table:
        path = self.find("table of labels", "labels_mbrset.csv", "dataframe_brsetmobile.csv")
        columns = columns_of(self.rules)
        table = self.read_labels(path, "patient", "file", *columns).select(["patient", "file", *columns, WHERE])
        names = table.column("file").to_pylist()
        table = table.append_column("id", pa.array([stem(name) for name in names], pa.string()))
        return self.located(table, names, self.images_below(self.find("folder of images", "images")), path)
