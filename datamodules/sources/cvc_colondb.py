"""CVC-ColonDB: polyps outlined in 380 frames of colonoscopies, from the pack that PraNet was tested with.

The pack: Fan et al. 2020, "PraNet: Parallel reverse attention network for polyp segmentation". Which frames are of one
patient is not told: use it whole, as a test of a model trained elsewhere.
"""

import pyarrow as pa

from datamodules.sources.pairs import PolypSource, pairs


class CVCColonDB(PolypSource):
    """380 frames with a mask of the polyp; of PraNet's pack, the other folders are not read."""

    name = "cvc_colondb"
    title = "CVC-ColonDB"
    licence = "licence: see the dataset's page"
    address = "https://github.com/DengPingFan/PraNet"
    layout = "TestDataset/CVC-ColonDB/images/<n>.png and …/masks/<n>.png, or the folder CVC-ColonDB alone"
    trap = "the pack's other folders have files of the same names"
    published = {"images": 380}

    def _table(self) -> pa.Table:
        folders = ("TestDataset/CVC-ColonDB", "CVC-ColonDB")
        images = self.find("folder of frames", *(f"{folder}/images" for folder in folders))
        masks = self.find("folder of masks", f"{images.parent.relative_to(self.root).as_posix()}/masks")
        return pa.Table.from_pylist(pairs(self, self.images_below(images), self.images_below(masks), masks))
