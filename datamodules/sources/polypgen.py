"""PolypGen: polyps outlined in frames and sequences of colonoscopies of six centres.

Ali et al. 2023, "A multi-centre polyp detection and segmentation dataset for generalisability assessment". Of the
single frames nothing tells the patient; the frames of a sequence are of one. A sequence without polyps has no masks.
"""

from pathlib import Path

import pyarrow as pa

from datamodules.sources.pairs import PolypSource, pairs, renamed

TOP = "PolypGen2021_MultiCenterData_v3"


def image_of(name: str) -> str:
    """Name that a mask and its image share: without `_mask`, and without the stray last character of one of C3's."""
    return name.removesuffix("_mask").rstrip("_]")


class PolypGen(PolypSource):
    """Frames of six centres, the centre in the id (`C1/…`), and sequences (`positive/seq1/…`), each one patient."""

    name = "polypgen"
    title = "PolypGen"
    licence = "licence: see the dataset's page"
    address = "https://www.synapse.org/Synapse:syn45200214"
    layout = (
        "data_C1/ to data_C6/, each with images_C<k>/<name>.jpg and masks_C<k>/<name>_mask.jpg, and perhaps "
        "sequenceData/{positive,negative}/seq<n>/; or the folder PolypGen2021_MultiCenterData_v3 that holds them"
    )
    trap = (
        "bbox_image_C<k>/ shows the images again, with a box drawn; masks are JPEG; neighbours in a sequence look "
        "alike; some single frames repeat frames of the sequences, under names that do not tell"
    )
    published = {"images": 8037}

    def _table(self) -> pa.Table:
        top = self.find("folder of a centre", "data_C[1-6]", f"{TOP}/data_C[1-6]").parent
        rows = []
        for centre in sorted(top.glob("data_C[1-6]")):
            rows += self._pairs(centre, centre.name.removeprefix("data_"), "")
        for folder in sorted(top.glob("sequenceData/positive/seq*/")):
            rows += self._pairs(folder, folder.name, f"positive/{folder.name}")
        for folder in sorted(top.glob("sequenceData/negative*/seq*/")):
            patient = f"negative/{folder.name}"
            for path in self.images_below(folder).values():
                rows.append({"id": f"{patient}/{Path(path).stem}", "path": path, "patient": patient, "mask": ""})
        return pa.Table.from_pylist(rows)

    def _pairs(self, folder: Path, name: str, patient: str) -> list[dict]:
        """Rows of images_<name>/ and masks_<name>/ of a folder."""
        here = folder.relative_to(self.root).as_posix()
        images, truth = (self.find(what, f"{here}/{what}_{name}") for what in ("images", "masks"))
        files = (renamed(self, self.images_below(where), image_of) for where in (images, truth))
        rows = pairs(self, *files, truth)
        return [row | {"id": f"{patient or name}/{row['id']}", "patient": patient} for row in rows]
