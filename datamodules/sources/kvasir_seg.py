"""Kvasir-SEG: polyps outlined by hand in 1000 frames of colonoscopies.

Jha et al. 2020, "Kvasir-SEG: A segmented polyp dataset". An image's name is also its name in HyperKvasir and PraNet's
pack: an image is its own patient there and here, so that a union of them keeps the same image on one side. Copies that
are numbered anew in train/ and validation/ have lost that name, and cannot be matched.

The authors' split, of 880 and 120 images, is two lists of names, train.txt and val.txt.
"""

import logging

import pyarrow as pa

from datamodules.sources.listing import stem
from datamodules.sources.pairs import PolypSource, pairs
from datamodules.sources.public import LayoutError

log = logging.getLogger(__name__)

FOLDERS = {"train": ("train/",), "val": ("validation/", "val/"), "test": ("test/",)}
LISTS = {"train": "train.txt", "val": "val.txt"}


class KvasirSEG(PolypSource):
    """1000 frames with a mask of the polyp; patients are not told."""

    name = "kvasir_seg"
    title = "Kvasir-SEG"
    licence = "research and education use; licence: see the dataset's page"
    address = "https://datasets.simula.no/kvasir-seg"
    layout = (
        "images/<id>.jpg and masks/<id>.jpg, and perhaps the authors' train.txt and val.txt; or these two folders in "
        "train/, in validation/ (or val/), and perhaps in test/"
    )
    trap = "masks are JPEG: between black and white lie other values; the same images are in HyperKvasir"
    published = {"images": 1000}
    patient_space = "kvasir"

    def _table(self) -> pa.Table:
        if not (self.root / "train" / "images").is_dir():
            self._refuse_a_part()
            rows = [row | {"patient": row["id"]} for row in self._rows("")]
            splits = self._listed({row["id"].lower() for row in rows})
            return pa.Table.from_pylist([row | {"split": splits.get(row["id"].lower(), "")} for row in rows])
        rows = []
        for split, parts in FOLDERS.items():
            if split != "test" or (self.root / "test" / "images").is_dir():
                rows += [row | {"id": f"{split}/{row['id']}", "split": split} for row in self._rows(*parts)]
        return pa.Table.from_pylist(rows)

    def _refuse_a_part(self) -> None:
        """Raise LayoutError where the root is train/ or validation/ of a set, whose split would be lost."""
        here = f"{self.root.resolve().name.lower()}/"
        parts = {part for names in FOLDERS.values() for part in names}
        beside = [part for part in parts - {here} if (self.root.resolve().parent / part / "images").is_dir()]
        if here in parts and beside:
            raise LayoutError(
                f"{self.title}: data.root={str(self.root)!r} is one part of the set, and {beside[0]} lies beside it. "
                f"Remedy: data.root={str(self.root.parent)!r}."
            )

    def _rows(self, *parts: str) -> list[dict]:
        images = self.find("folder of images", *(f"{part}images" for part in parts))
        masks = self.find("folder of masks", f"{self.below(images.parent)}/masks")
        return pairs(self, self.images_below(images), self.images_below(masks), masks)

    def _listed(self, images: set[str]) -> dict[str, str]:
        """The official split of each image that the authors' lists name; none without the lists.

        Raises LayoutError where one list of the two is missing, and for a name that is there twice or, unless
        `partial`, has no image.
        """
        if self.seek(*LISTS.values()) is None:
            return {}
        splits, absent = {}, []
        for split, name in LISTS.items():
            lines = self.find(f"list of the {split} images", name).read_text(encoding="utf-8-sig").splitlines()
            for number, line in enumerate(lines, start=1):
                image = stem(line.strip())
                if image in splits:
                    raise LayoutError(
                        f"{self.title}: {name}, row {number}: {line.strip()!r} is already in {LISTS[splits[image]]}. "
                        f"Remedy: take the lists as they are published. {self.about}"
                    )
                if image:
                    splits[image] = split
                if image and image not in images:
                    absent.append(f"{name}, row {number}: there is no image {line.strip()!r}")
        if absent and not self.partial:
            raise LayoutError(
                f"{self.title}: {absent[0]} ({len(absent)} of {len(splits)} names have none). Remedy: complete the "
                f"download, or go on without them: data.partial=true. {self.about}"
            )
        if absent:
            log.warning("%s: %d of %d names of the official split have no image", self.title, len(absent), len(splits))
        if undecided := len(images - splits.keys()):
            log.warning("%s: %d images are in neither list: their split is undecided", self.title, undecided)
        return splits
