"""DRIVE: vessels traced by hand in photographs of a Dutch screening programme for diabetic retinopathy.

Staal et al. 2004, "Ridge-based vessel segmentation in color images of the retina". 20 photographs for training (21 to
40) and 20 for testing (01 to 20); the tracings of the test photographs are no longer handed out.
"""

import pyarrow as pa

from datamodules.sources.harmonise import FUNDUS
from datamodules.sources.pairs import pairs
from datamodules.sources.public import PublicSource


class DRIVE(PublicSource):
    """40 photographs with the first observer's vessels; no patients, no grades.

    Without `test/1st_manual`, the test photographs have no mask.
    """

    name = "drive"
    title = "DRIVE"
    licence = "research use; licence: see the dataset's page"
    address = "https://drive.grand-challenge.org"
    layout = (
        "training/ and test/, each with images/<NN>_<training or test>.tif and 1st_manual/<NN>_manual1.gif, "
        "which test/ may lack"
    )
    trap = "mask/ holds the field of view, 1st_manual/ the vessels; image and mask share only the number"
    rules = (FUNDUS,)
    published = {"images": 40, "train": 20, "test": 20}
    mask_levels = ("background", "vessel")

    def _table(self) -> pa.Table:
        rows = []
        for split, part in (("train", "training"), ("test", "test")):
            if self.partial and not (self.root / part).is_dir():
                continue
            images = self._numbered(f"images of the {split} split", f"{part}/images", part)
            if split == "test" and not (self.root / part / "1st_manual").is_dir():
                rows += [{"id": n, "path": path, "mask": "", "split": split} for n, path in images.items()]
                continue
            masks = self._numbered(f"vessels of the {split} split", f"{part}/1st_manual", "manual1")
            found = pairs(self, images, masks, self.root / part / "1st_manual")
            rows += [row | {"id": row["id"].partition("_")[0], "split": split} for row in found]
        return pa.Table.from_pylist(rows)

    def _numbered(self, what: str, folder: str, ending: str) -> dict[str, str]:
        """Paths by number."""
        where = self.find(what, folder)
        found = {}
        for key, path in self.images_below(where).items():
            number, _, rest = key.partition("_")
            if not number.isdecimal() or rest != ending:
                raise self.lacks(what, f"names like 21_{ending}, but {path!r} is there", where)
            found[number] = path
        return found
