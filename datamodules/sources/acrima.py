"""ACRIMA: crops around the optic disc, with glaucoma or without, graded by specialists."""

from pathlib import PurePosixPath

import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS, Levels
from datamodules.sources.public import LayoutError, PublicSource

CLASSES = ("G", "noG")


class ACRIMA(PublicSource):
    """705 crops; no patients, no split."""

    name = "acrima"
    title = "ACRIMA"
    licence = "see the dataset's page"
    address = "https://figshare.com/s/c2d31f850af14c5b5232"
    layout = "the folders G (names with _g_) and noG (names without)"
    trap = "some names end in .JPG; they show no field of view and are read whole"
    rules = (Levels("is_gc", "class", {"noG": 0, "G": 1}), FUNDUS)
    published = {"images": 705, "is_gc=0": 309, "is_gc=1": 396}
    frame = "either"

    def _table(self) -> pa.Table:
        rows = []
        for label in CLASSES:
            for path in self.images_below(self.find(f"folder of class {label}", label)).values():
                name = PurePosixPath(path).stem
                if ("_g_" in name.lower()) != (label == "G"):
                    raise LayoutError(
                        f"{self.title}: {path!r}: names with _g_ are of glaucoma, and belong into the folder G, the "
                        f"others into noG. Remedy: take the folders as they are published. {self.about}"
                    )
                rows.append({"id": name, "path": path, "class": label})
        return pa.Table.from_pylist(rows)
