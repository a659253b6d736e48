"""CVC-ClinicDB: polyps outlined in 612 frames of 29 sequences of colonoscopies.

Bernal et al. 2015, "WM-DOVA maps for accurate polyp highlighting in colonoscopy". Frames of a sequence look alike and
must stay on one side of a split, but a frame's name does not tell its sequence: `sequences.csv` does, with the columns
`frame` (the file's name) and `sequence`, which whoever has the authors' table writes beside the folders.
"""

import logging

import pyarrow as pa

from datamodules.sources.pairs import PolypSource, pairs
from datamodules.sources.public import LayoutError, stem

log = logging.getLogger(__name__)


class CVCClinicDB(PolypSource):
    """612 frames with a mask of the polyp. A sequence is a patient; without `sequences.csv`, all frames are of one.

    Then a split by patient puts all of them on one side, and the log says so.
    """

    name = "cvc_clinicdb"
    title = "CVC-ClinicDB"
    licence = "licence: see the dataset's page"
    address = "https://polyp.grand-challenge.org/CVCClinicDB"
    layout = "Original/<n>.tif and 'Ground Truth/<n>.tif' (or both in PNG/, as .png), and perhaps sequences.csv"
    trap = "frames of one sequence look alike, so that a split by frame leaks"
    published = {"images": 612}

    def _table(self) -> pa.Table:
        images = self.find("folder of frames", "Original", "PNG/Original")
        masks = self.find("folder of masks", f"{images.parent.relative_to(self.root).as_posix()}/Ground Truth")
        rows = pairs(self, self.images_below(images), self.images_below(masks), masks)
        sequences = self._sequences()
        if sequences is None:
            log.warning(
                "%s: there is no sequences.csv in %s: all frames count as one patient, and a split by patient puts "
                "them on one side. Remedy: write that table, with the columns frame and sequence.",
                self.title,
                self.root,
            )
        for row in rows:
            row["patient"] = self.title if sequences is None else sequences.get(row["id"].lower(), "")
            if not row["patient"]:
                raise LayoutError(
                    f"{self.root / 'sequences.csv'} has no sequence for frame {row['id']!r}. Remedy: add its row, or "
                    f"remove the table to have all frames on one side. {self.about}"
                )
        return pa.Table.from_pylist(rows)

    def _sequences(self) -> dict[str, str] | None:
        """Sequence by frame, or None where there is no table."""
        path = self.root / "sequences.csv"
        if not path.is_file():
            return None
        table = self.read_labels(path, "frame", "sequence")
        frames, sequences = (table.column(name).to_pylist() for name in ("frame", "sequence"))
        return {stem(frame): sequence for frame, sequence in zip(frames, sequences, strict=True)}
