"""Procedural fundus photographs with exact labels: the data that every command runs on without any download."""

import numpy as np
import pyarrow as pa

from datamodules import phantom
from datamodules.errors import UserError
from datamodules.findings import NAMES
from datamodules.manifest import Manifest


class PhantomSource:
    """`num_images` phantoms of a seed: all sixteen findings known, two eyes a patient, drawn when they are read."""

    name = "phantom"

    def __init__(self, num_images: int = 512, seed: int = 0) -> None:
        if num_images < 1:
            raise UserError(f"num_images is {num_images}, and must be at least 1.")
        self.num_images = num_images
        self.seed = seed

    def index(self) -> Manifest:
        """One row a phantom, without rendering any; the path is its number."""
        paths = [f"{index:08d}" for index in range(self.num_images)]
        labels = [phantom.labels_of(self.seed, index) for index in range(self.num_images)]
        columns = {
            "id": pa.array([f"phantom-{self.seed}-{path}" for path in paths]),
            "path": pa.array(paths),
            "patient": pa.array([str(phantom.patient_of(self.seed, index)) for index in range(self.num_images)]),
            "source": pa.array([self.name] * self.num_images),
        }
        for name in NAMES:
            columns[name] = pa.array(np.array([row[name] for row in labels], dtype=np.int8))
        return Manifest.from_table(pa.table(columns), origin=f"{self.num_images} phantoms of seed {self.seed}")

    def read(self, path: str, image_size: int) -> np.ndarray:
        """The phantom of that number as uint8 [S, S, 3]."""
        return phantom.render(self.seed, int(path), image_size).image

    def identity(self) -> str:
        """Version of the phantom's code, and the seed."""
        return f"phantom-v{phantom.VERSION}-seed{self.seed}"
