"""STARE: vessels traced by hand by two observers in 20 digitised slides, half of them with pathology.

Hoover et al. 2000, "Locating blood vessels in retinal images by piecewise threshold probing of a matched filter
response". Images and tracings are gzipped PPM files, and are read as such. There is no official split.
"""

import gzip
import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.errors import UserError
from datamodules.image_files import read_bytes
from datamodules.images import read_image
from datamodules.manifest import ManifestError
from datamodules.sources.harmonise import FUNDUS
from datamodules.sources.mask_files import framed
from datamodules.sources.pairs import pairs
from datamodules.sources.public import PublicSource

OBSERVERS = ("ah", "vk")
NAME = re.compile(r"(?P<id>im\d+)(\.ah|\.vk)?\.ppm(\.gz)?", re.IGNORECASE)


class STARE(PublicSource):
    """20 photographs with vessels; no patients, no eyes.

    Args:
        root: the folder that holds what `layout` describes.
        partial: put up with photographs that have no tracing.
        labels: whose tracings: `ah` (the first observer, as usual) or `vk` (the second, who drew more fine vessels).
    """

    name = "stare"
    title = "STARE"
    licence = "licence: see the dataset's page"
    address = "https://cecas.clemson.edu/~ahoover/stare"
    layout = "stare-images/im<NNNN>.ppm.gz, labels-ah/im<NNNN>.ah.ppm.gz and labels-vk/im<NNNN>.vk.ppm.gz"
    trap = "gzipped files, which neither a search for images nor an image reader takes; two observers"
    rules = (FUNDUS,)
    published = {"images": 20}
    mask_levels = ("background", "vessel")

    def __init__(
        self, root: str | Path, partial: bool = False, labels: str = "ah", field_of_view: bool = False
    ) -> None:
        super().__init__(root, partial, field_of_view)
        if labels not in OBSERVERS:
            raise UserError(f"labels is {labels!r}, and must be one of: {', '.join(OBSERVERS)}.")
        self.labels = labels

    def _table(self) -> pa.Table:
        folder = f"labels-{self.labels}"
        images, masks = self._files("photographs", "stare-images"), self._files("tracings", folder)
        rows = pairs(self, images, masks, self.root / folder)
        return pa.Table.from_pylist([row | {"id": key} for row, key in zip(rows, images, strict=True)])

    def _files(self, what: str, folder: str) -> dict[str, str]:
        """Paths from the root by image; an unpacked file is as good as a packed one."""
        where = self.find(f"folder of {what}", folder)
        names = {path.name: NAME.fullmatch(path.name) for path in sorted(where.iterdir())}
        found = {match["id"].lower(): f"{where.name}/{name}" for name, match in names.items() if match}
        if not found:
            raise self.lacks(what, "im<NNNN>….ppm.gz", where)
        return found

    def _unpacked(self, path: str) -> np.ndarray:
        if not path.lower().endswith(".gz"):
            return read_image(self.root / path)
        with gzip.open(io.BytesIO(read_bytes(self.root / path))) as file:
            return read_image(file)

    def _pixels(self, path: str, image_size: int) -> np.ndarray:
        return self._unpacked(path)

    def read_mask(self, path: str, mask: str, image_size: int) -> np.ndarray:
        """The vessels of an image as uint8 [S, S], cropped as `read` crops the image."""
        rgb, values = self._unpacked(path), self._unpacked(mask).max(axis=2)
        if values.shape != rgb.shape[:2]:
            raise ManifestError(f"{self.title}: {mask!r} is {values.shape} (height, width), {path!r} {rgb.shape[:2]}.")
        return framed(self, mask, self.mask_level(mask, values), self._field_of_view(rgb), image_size)
