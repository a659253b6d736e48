"""PraNet's pack: the images of five polyp sets, split as most papers on polyp segmentation split them.

Fan et al. 2020, "PraNet: Parallel reverse attention network for polyp segmentation". 900 images of Kvasir-SEG and 550
of CVC-ClinicDB to train with; the rest of these two, CVC-300, CVC-ColonDB and ETIS-Larib to test with. The split is by
frame: those of one sequence of CVC-ClinicDB may lie on both sides.
"""

import pyarrow as pa

from datamodules.sources.pairs import PolypSource, pairs

TESTS = ("CVC-300", "CVC-ClinicDB", "CVC-ColonDB", "ETIS-LaribPolypDB", "Kvasir")


class PraNetPack(PolypSource):
    """1450 images to train with and 798 to test with. Images of Kvasir-SEG keep its name, and are patients by it.

    Images of the other sets have new names, which say nothing of whose they are: a union with those sets is refused.
    """

    name = "pranet"
    title = "PraNet pack"
    licence = "that of the sets in it; licence: see their pages"
    address = "https://github.com/DengPingFan/PraNet"
    layout = (
        f"TrainDataset/ and TestDataset/{{{','.join(TESTS)}}}/, each with images/ (or image/) and masks/ (or mask/)"
    )
    trap = (
        "the sets' file names repeat one another; all its images are in other sets too, and but for Kvasir's under "
        "names that do not tell: beside cvc_clinicdb, cvc_colondb or etis_larib it is refused"
    )
    published = {"images": 2248, "train": 1450, "test": 798}
    patient_space = "kvasir"
    contains = ("cvc_clinicdb", "cvc_colondb", "etis_larib")

    def _table(self) -> pa.Table:
        rows = self._rows("TrainDataset", "train", "train")
        for name in TESTS:
            rows += self._rows(f"TestDataset/{name}", name, "test")
        return pa.Table.from_pylist(rows)

    def _rows(self, folder: str, name: str, split: str) -> list[dict]:
        images = self.find(f"images of {name}", f"{folder}/images", f"{folder}/image")
        masks = self.find(f"masks of {name}", f"{folder}/masks", f"{folder}/mask")
        rows = pairs(self, self.images_below(images), self.images_below(masks), masks)
        for row in rows:
            kvasir = row["id"].startswith("cju")
            row |= {"patient": row["id"] if kvasir else "", "id": f"{name}/{row['id']}", "split": split}
        return rows
