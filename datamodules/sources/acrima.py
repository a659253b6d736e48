"""ACRIMA: crops around the optic disc, with glaucoma or without, graded by specialists."""

import re
from pathlib import PurePosixPath

import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS, Levels
from datamodules.sources.public import LayoutError, PublicSource

CLASSES = ("G", "noG")
NAME = re.compile(r"im\d+(?P<glaucoma>_g)?_acrima")


class ACRIMA(PublicSource):
    """705 crops; no patients, no split."""

    name = "acrima"
    title = "ACRIMA"
    licence = "see the dataset's page"
    address = "https://figshare.com/s/c2d31f850af14c5b5232"
    layout = (
        "Database/Images/ with Im<n>_g_ACRIMA.jpg (glaucoma) and Im<n>_ACRIMA.jpg, these themselves, or the folders G "
        "(names with _g_) and noG (names without)"
    )
    trap = "the class is told by _g_ in the name; some names end in .JPG; they show no field of view and are read whole"
    rules = (Levels("is_gc", "class", {"noG": 0, "G": 1}), FUNDUS)
    published = {"images": 705, "is_gc=0": 309, "is_gc=1": 396}
    frame = "either"

    def _table(self) -> pa.Table:
        return self._by_folder() if self.seek(*CLASSES) else self._by_name()

    def _by_name(self) -> pa.Table:
        """All in one folder, as the authors' archive has them."""
        folder = self.find("folder of crops", "Database/Images", ".")
        rows = []
        for name, path in self.images_below(folder).items():
            match = NAME.fullmatch(name)
            if match is None:
                wanted = "the names Im<n>_g_ACRIMA and Im<n>_ACRIMA alone, or the folders G and noG"
                raise self.lacks(f"class in the name {path!r}", wanted, folder)
            rows.append({"id": PurePosixPath(path).stem, "path": path, "class": "G" if match["glaucoma"] else "noG"})
        return pa.Table.from_pylist(rows)

    def _by_folder(self) -> pa.Table:
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
