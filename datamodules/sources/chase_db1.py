"""CHASE_DB1: vessels traced by hand in both eyes of children, from the Child Heart and Health Study in England.

Fraz et al. 2012, "An ensemble classification-based approach applied to retinal blood vessel segmentation". 28
photographs of 14 children.
"""

import re
from pathlib import Path

import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS, Levels
from datamodules.sources.pairs import pairs
from datamodules.sources.public import PublicSource

NAME = re.compile(r"image_(?P<child>\d+)(?P<eye>[lr])")


class ChaseDB1(PublicSource):
    """28 photographs with the first observer's vessels; both eyes of a child carry the same patient."""

    name = "chase_db1"
    title = "CHASE_DB1"
    licence = "research use; licence: see the dataset's page"
    address = "https://researchinnovation.kingston.ac.uk/en/datasets/chasedb1-retinal-vessel-reference-dataset-4"
    layout = "Image_<NN><L or R>.jpg and Image_<NN><L or R>_1stHO.png, all in one folder"
    trap = "masks lie among the photographs, those of two observers; L and R of a number are one child"
    rules = (FUNDUS, Levels("eye_side", "eye", {"R": 0, "L": 1}))
    published = {"images": 28, "patients": 14, "eye_side=0": 14, "eye_side=1": 14}
    mask_levels = ("background", "vessel")

    def _table(self) -> pa.Table:
        files = self.images_below(self.root)
        images = {key: path for key, path in files.items() if NAME.fullmatch(key)}
        if not images:
            raise self.lacks("photographs", "Image_<NN><L or R>.jpg")
        masks = {key.removesuffix("_1stho"): path for key, path in files.items() if key.endswith("_1stho")}
        rows = pairs(self, images, masks, self.root)
        for row in rows:
            name = NAME.fullmatch(Path(row["path"]).stem.lower())
            row |= {"patient": name["child"], "eye": name["eye"].upper()}
        return pa.Table.from_pylist(rows)
