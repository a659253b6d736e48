"""Kvasir-SEG: polyps outlined by hand in 1000 frames of colonoscopies.

Jha et al. 2020, "Kvasir-SEG: A segmented polyp dataset". An image's name is also its name in HyperKvasir and PraNet's
pack: an image is its own patient there and here, so that a union of them keeps the same image on one side. Copies that
are numbered anew in train/ and validation/ have lost that name, and cannot be matched.
"""

import pyarrow as pa

from datamodules.sources.pairs import PolypSource, pairs


class KvasirSEG(PolypSource):
    """1000 frames with a mask of the polyp; patients are not told."""

    name = "kvasir_seg"
    title = "Kvasir-SEG"
    licence = "research and education use; licence: see the dataset's page"
    address = "https://datasets.simula.no/kvasir-seg"
    layout = "images/<id>.jpg and masks/<id>.jpg, or these two in train/ and in validation/"
    trap = "masks are JPEG: between black and white lie other values; the same images are in HyperKvasir"
    published = {"images": 1000}
    patient_space = "kvasir"

    def _table(self) -> pa.Table:
        if not (self.root / "train" / "images").is_dir():
            return pa.Table.from_pylist([row | {"patient": row["id"]} for row in self._rows("")])
        rows = []
        for split, part in (("train", "train/"), ("val", "validation/")):
            rows += [row | {"id": f"{split}/{row['id']}", "split": split} for row in self._rows(part)]
        return pa.Table.from_pylist(rows)

    def _rows(self, part: str) -> list[dict]:
        images = self.find("folder of images", f"{part}images")
        masks = self.find("folder of masks", f"{part}masks")
        return pairs(self, self.images_below(images), self.images_below(masks), masks)
