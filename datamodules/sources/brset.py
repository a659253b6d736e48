"""BRSET, Brazilian Multilabel Ophthalmological Dataset: two cameras, both eyes, DR grades, diseases, quality.

Counts as in the published table of labels; those of the grades are of the images with adequate quality. `macular_edema`
is also 1 in 32 images without retinopathy: an oedema of another cause, or a contradiction, which is unknown here. What
is said of diseases in images of inadequate quality is not used.
"""

import pyarrow as pa

from datamodules.sources.cautious import Narrower, Unless, UnlessAll, columns_of
from datamodules.sources.harmonise import FUNDUS, ICDR, YES_NO, Levels, Rule
from datamodules.sources.public import PublicSource

EXCLUDED = {"0": 0, "1": None}  # the label takes in more than our finding, so that only its absence decides


def seen(rule: Rule) -> Unless:
    """What the rule says of images of adequate quality."""
    return Unless(rule, "quality", "Inadequate")


class BRSET(PublicSource):
    """16,266 photographs of 8524 patients. A large cup is no diagnosis of glaucoma, which stays unknown."""

    name = "brset"
    title = "BRSET"
    licence = "see the dataset's page"
    address = "https://doi.org/10.13026/xcxw-8198 (PhysioNet)"
    layout = "labels.csv (image_id, patient_id, …; labels_brset.csv will do) and fundus_photos/<image_id>.jpg"
    trap = (
        "the table begins with a byte order mark; a stray `bv` in `optic_disc`; `vascular_occlusion` includes "
        "arteries; `macular_edema` without retinopathy is not diabetic; images of inadequate quality have grades and "
        "diseases, which are not used"
    )
    rules = (
        seen(Levels("dr_grade", "DR_ICDR", ICDR)),
        seen(Narrower("is_amd", ("amd",), ("drusens",))),
        seen(Levels("is_aon", "optic_disc", {"1": 0, "2": None, "bv": None})),
        seen(Levels("is_dm", "myopic_fundus", EXCLUDED)),
        seen(UnlessAll(Levels("is_dme", "macular_edema", YES_NO), {"DR_ICDR": "0", "macular_edema": "1"})),
        seen(Levels("is_htr", "hypertensive_retinopathy", YES_NO)),
        seen(Levels("is_pm", "myopic_fundus", EXCLUDED)),
        seen(Levels("is_rvo", "vascular_occlusion", EXCLUDED)),
        FUNDUS,
        Levels("is_retinal_region_readable", "quality", {"Adequate": 1, "Inadequate": 0}),
        Levels("eye_side", "exam_eye", {"1": 0, "2": 1}),
    )
    published = {
        "images": 16266,
        "patients": 8524,
        "is_retinal_region_readable=1": 14279,
        "is_retinal_region_readable=0": 1987,
        "dr_grade=0": 13320,
        "dr_grade=1": 146,
        "dr_grade=2": 275,
        "dr_grade=3": 177,
        "dr_grade=4": 361,
    }

    def _table(self) -> pa.Table:
        path = self.find("table of labels", "labels.csv", "labels_brset.csv")
        table = self.read_labels(path, "image_id", "patient_id", *columns_of(self.rules))
        table = table.append_column("id", table.column("image_id")).append_column("patient", table.column("patient_id"))
        images = self.images_below(self.find("folder of images", "fundus_photos"))
        return self.located(table, table.column("id").to_pylist(), images, path)
