"""CVC-ClinicDB: polyps outlined in 612 frames of 29 sequences of colonoscopies.

Bernal et al. 2015, "WM-DOVA maps for accurate polyp highlighting in colonoscopy". Frames of a sequence look alike and
must stay on one side of a split. A frame's name alone does not tell its sequence to this reader; a table does:
`metadata.csv` of the mirror on Kaggle, with the columns `frame_id` and `sequence_id`, or `sequences.csv`, with `frame`
(the file's name) and `sequence`, which whoever has the authors' table writes beside the folders.
"""

import logging

import pyarrow as pa

from datamodules.sources.listing import stem
from datamodules.sources.pairs import PolypSource, pairs
from datamodules.sources.public import LayoutError

log = logging.getLogger(__name__)

TABLES = {"sequences.csv": ("frame", "sequence"), "metadata.csv": ("frame_id", "sequence_id")}


class CVCClinicDB(PolypSource):
    """612 frames with a mask of the polyp. A sequence is a patient; without a table of them, all frames are of one.

    Then a split by patient puts all of them on one side, and the log says so.
    """

    name = "cvc_clinicdb"
    title = "CVC-ClinicDB"
    licence = "licence: see the dataset's page"
    address = "https://polyp.grand-challenge.org/CVCClinicDB"
    layout = (
        "Original/<n>.tif and 'Ground Truth/<n>.tif' (or both in PNG/, as .png), and perhaps sequences.csv (frame, "
        "sequence) or metadata.csv (frame_id, sequence_id)"
    )
    trap = "frames of one sequence look alike, so that a split by frame leaks"
    published = {"images": 612}

    def _table(self) -> pa.Table:
        images = self.find("folder of frames", "Original", "PNG/Original")
        masks = self.find("folder of masks", f"{images.parent.relative_to(self.root).as_posix()}/Ground Truth")
        rows = pairs(self, self.images_below(images), self.images_below(masks), masks)
        path = self.seek(*TABLES)
        if path is None:
            log.warning(
                "%s: there is no sequences.csv and no metadata.csv in %s: all frames count as one patient, and a split "
                "by patient puts them on one side. Remedy: write the first, with the columns frame and sequence.",
                self.title,
                self.root,
            )
            return pa.Table.from_pylist([row | {"patient": self.title} for row in rows])
        table = self.read_labels(path, *TABLES[path.name.lower()])
        frames, sequences = (table.column(name).to_pylist() for name in TABLES[path.name.lower()])
        sequence = {stem(frame): its for frame, its in zip(frames, sequences, strict=True)}
        for row in rows:
            row["patient"] = sequence.get(row["id"].lower(), "")
            if not row["patient"]:
                raise LayoutError(
                    f"{path} has no sequence for frame {row['id']!r}. Remedy: add its row, or remove the table to have "
                    f"all frames on one side. {self.about}"
                )
        return pa.Table.from_pylist(rows)
