"""CVC-ColonDB: polyps outlined in 380 frames of colonoscopies, from the pack that PraNet was tested with.

The pack: Fan et al. 2020, "PraNet: Parallel reverse attention network for polyp segmentation". Which frames are of one
patient is not told, so it is whole: every frame is in the test split, of a model trained elsewhere.
"""

import pyarrow as pa

from datamodules.sources.pairs import PolypSource, pairs


class CVCColonDB(PolypSource):
    """380 frames with a mask of the polyp, all of them tests; of PraNet's pack, the other folders are not read."""

    name = "cvc_colondb"
    title = "CVC-ColonDB"
    licence = "licence: see the dataset's page"
    address = "https://github.com/DengPingFan/PraNet"
    layout = (
        "TestDataset/CVC-ColonDB/images/<n>.png and …/masks/<n>.png, or the folder CVC-ColonDB alone; all are tests"
    )
    trap = (
        "the pack's other folders have files of the same names; neighbouring frames look alike and whose they are is "
        "not told, so that the set cannot be parted: it is a test set whole"
    )
    published = {"images": 380, "test": 380}

    def _table(self) -> pa.Table:
        folders = ("TestDataset/CVC-ColonDB", "CVC-ColonDB")
        images = self.find("folder of frames", *(f"{folder}/images" for folder in folders))
        masks = self.find("folder of masks", f"{images.parent.relative_to(self.root).as_posix()}/masks")
        rows = pairs(self, self.images_below(images), self.images_below(masks), masks)
        return pa.Table.from_pylist([row | {"split": "test"} for row in rows])
