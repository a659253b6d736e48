"""LAG: photographs with glaucoma or without; for half of them, maps of where ophthalmologists looked.

Li et al. 2019, "Attention based glaucoma detection: A large-scale database and CNN model". The folder is called
suspicious_glaucoma, but the authors call its 4878 photographs positive and the other 6882 negative, and so does this
reader: what they graded as positive is glaucoma.
"""

from pathlib import PurePosixPath

import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS, Levels
from datamodules.sources.public import PublicSource

CLASSES = ("non_glaucoma", "suspicious_glaucoma")


class LAG(PublicSource):
    """11760 photographs of 500 x 500 pixels; no patients, no split."""

    name = "lag"
    title = "LAG"
    licence = "see the dataset's page"
    address = "https://github.com/smilell/AG-CNN"
    layout = "the folders non_glaucoma and suspicious_glaucoma, each with the folder image"
    trap = (
        "the authors call the photographs of suspicious_glaucoma positive, though the folder says suspicious; "
        "attention_map beside image holds pictures of the same names, which are no photographs"
    )
    rules = (Levels("is_gc", "class", {"non_glaucoma": 0, "suspicious_glaucoma": 1}), FUNDUS)
    published = {"images": 11760, "is_gc=0": 6882, "is_gc=1": 4878}
    frame = "either"

    def _table(self) -> pa.Table:
        rows = []
        for label in CLASSES:
            for path in self.images_below(self.find(f"folder of {label}", f"{label}/image")).values():
                rows.append({"id": f"{label}/{PurePosixPath(path).stem}", "path": path, "class": label})
        return pa.Table.from_pylist(rows)
