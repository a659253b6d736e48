"""AIROGS: referable glaucoma or not, in photographs of the EyePACS screening programme.

The challenge's training images are all gradable; `U`, ungradable, is a class of its test images, which are not public.
"""

import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS, Levels
from datamodules.sources.public import PublicSource

FOLDERS = "012345"


class AIROGS(PublicSource):
    """101442 photographs; no patients, no split."""

    name = "airogs"
    title = "AIROGS"
    licence = "see the dataset's page"
    address = "https://airogs.grand-challenge.org/data-and-challenge/"
    layout = "train_labels.csv (challenge_id, class) and the folders 0 … 5 with TRAIN<nnnnnn>.jpg"
    trap = (
        "class U is ungradable: readability 0 and glaucoma unknown, not a third class; the id does not tell the folder"
    )
    rules = (
        Levels("is_gc", "class", {"NRG": 0, "RG": 1, "U": None}),
        Levels("is_retinal_region_readable", "class", {"NRG": 1, "RG": 1, "U": 0}),
        FUNDUS,
    )
    published = {"images": 101442, "is_gc=0": 98172, "is_gc=1": 3270}

    def _table(self) -> pa.Table:
        path = self.find("table of classes", "train_labels.csv")
        table = self.read_labels(path, "challenge_id", "class")
        names = table.column("challenge_id").to_pylist()
        folders = [self.root / name for name in FOLDERS if (self.root / name).is_dir()]
        if not folders:
            raise self.lacks("folders of images", "the folders 0 … 5")
        files = {key: image for folder in folders for key, image in self.images_below(folder).items()}
        return self.located(table.append_column("id", pa.array(names, pa.string())), names, files, path)
