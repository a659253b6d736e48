"""ETIS-Larib: polyps outlined in 196 frames of colonoscopies.

Silva et al. 2014, "Toward embedded detection of polyps in WCE images for early diagnosis of colorectal cancer". Which
frames are of one patient is not told, so it is whole: every frame is in the test split, of a model trained elsewhere.
"""

import pyarrow as pa

from datamodules.sources.pairs import PolypSource, pairs, renamed


class EtisLarib(PolypSource):
    """196 frames with a mask of the polyp, all of them tests."""

    name = "etis_larib"
    title = "ETIS-Larib"
    licence = "licence: see the dataset's page"
    address = "https://polyp.grand-challenge.org"
    layout = "ETIS-LaribPolypDB/<n>.tif and, beside that folder, 'Ground Truth/p<n>.tif'; all are tests"
    trap = (
        "a mask's name begins with p, its image's does not; neighbouring frames look alike and whose they are is not "
        "told, so that the set cannot be parted: it is a test set whole"
    )
    published = {"images": 196, "test": 196}

    def _table(self) -> pa.Table:
        images = self.find("folder of frames", "ETIS-LaribPolypDB")
        truth = self.find("folder of masks", "Ground Truth")
        masks = renamed(self, self.images_below(truth), lambda name: name.removeprefix("p"))
        rows = pairs(self, self.images_below(images), masks, truth)
        return pa.Table.from_pylist([row | {"split": "test"} for row in rows])
