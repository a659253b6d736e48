"""Procedural fundus photographs with exact labels: the data that every command runs on without any download."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from datamodules import phantom
from datamodules.errors import UserError, did_you_mean
from datamodules.findings import NAMES
from datamodules.manifest import Manifest
from datamodules.masks import NO_MASK


class PhantomSource:
    """`num_images` phantoms of a seed: all sixteen findings known, two eyes a patient, drawn when they are read.

    `masks` names structures of `phantom.MASK_NAMES`: their masks are levels 1, 2, … in that order, and where two cover
    a pixel the later one has it. Every phantom has a mask; of a picture that shows no fundus it is background alone.
    With `field_of_view` it is unknown (255) outside of the camera's disc.
    """

    name = "phantom"

    def __init__(
        self, num_images: int = 512, seed: int = 0, masks: Sequence[str] = (), field_of_view: bool = False
    ) -> None:
        if num_images < 1:
            raise UserError(f"num_images is {num_images}, and must be at least 1.")
        self.num_images = num_images
        self.seed = seed
        self.masks, self.field_of_view = _structures(masks), field_of_view
        self.mask_levels = ("background", *self.masks) if self.masks else ()

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
        if self.masks:
            columns["mask"] = pa.array(["|".join(self.masks)] * self.num_images)
        return Manifest.from_table(pa.table(columns), origin=f"{self.num_images} phantoms of seed {self.seed}")

    def read(self, path: str, image_size: int) -> np.ndarray:
        """The phantom of that number as uint8 [S, S, 3]."""
        return phantom.render(self.seed, int(path), image_size).image

    def read_mask(self, path: str, mask: str, image_size: int) -> np.ndarray:
        """The exact mask of the phantom of that number, as levels uint8 [S, S]; `mask` names them, joined by `|`."""
        drawn = phantom.render(self.seed, int(path), image_size).masks
        levels = np.where(drawn["field"] > 0, 0, NO_MASK if self.field_of_view else 0).astype(np.uint8)
        for name in mask.split("|"):
            levels[drawn[name] > 0] = self.mask_levels.index(name)
        return levels

    def identity(self) -> str:
        """Version of the phantom's code, the seed, and the structures of the masks."""
        masks = f"-{'|'.join(self.masks)}{'-fov' * self.field_of_view}" if self.masks else ""
        return f"phantom-v{phantom.VERSION}-seed{self.seed}{masks}"


def _structures(masks: Sequence[str]) -> tuple[str, ...]:
    """Names of masks, checked. Raises UserError for one that there is not, or that comes twice."""
    names = tuple(masks)
    for place, name in enumerate(names):
        if name not in phantom.MASK_NAMES:
            raise UserError(
                f"data.masks names {name!r}.{did_you_mean(name, phantom.MASK_NAMES)} Phantoms have masks of "
                f"{', '.join(phantom.MASK_NAMES)}."
            )
        if name in names[:place]:
            raise UserError(f"data.masks names {name!r} twice. Remedy: name each structure once.")
    return names
