"""HyperKvasir, its segmented images: polyps outlined in 1000 frames. Its other images are not read.

Borgli et al. 2020, "HyperKvasir, a comprehensive multi-class image and video dataset for gastrointestinal endoscopy".
Images are named as in Kvasir-SEG, and the same one may be in both: neither is an external test of the other.
"""

import pyarrow as pa

from datamodules.sources.pairs import PolypSource, pairs


class HyperKvasir(PolypSource):
    """1000 frames with a mask of the polyp; patients are not told, so that an image is its own, as in Kvasir-SEG."""

    name = "hyperkvasir"
    title = "HyperKvasir"
    licence = "licence: see the dataset's page"
    address = "https://datasets.simula.no/hyper-kvasir"
    layout = "segmented-images/images/<id>.jpg and segmented-images/masks/<id>.jpg"
    trap = "masks are JPEG: between black and white lie other values; images are in Kvasir-SEG too"
    published = {"images": 1000}
    patient_space = "kvasir"

    def _table(self) -> pa.Table:
        images = self.find("folder of images", "segmented-images/images")
        masks = self.find("folder of masks", "segmented-images/masks")
        rows = pairs(self, self.images_below(images), self.images_below(masks), masks)
        return pa.Table.from_pylist([row | {"patient": row["id"]} for row in rows])
