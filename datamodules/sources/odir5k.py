"""ODIR-5K, Ocular Disease Intelligent Recognition: both eyes of 3500 patients, many cameras.

The columns N to O are of the patient, even in the table of images. An eye's own label is a letter in full_df.csv; in
data.xlsx it follows from the eye's keywords, as far as they name it exactly. The test images have no labels and are
left out.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from datamodules.sources.harmonise import WHERE, YES_NO, Levels
from datamodules.sources.listing import stem
from datamodules.sources.public import LayoutError, PublicSource

HOMES = ("", "ODIR-5K/", "ODIR-5K/ODIR-5K/")
LETTERS = "NDGCAHMO"
LETTER_OF = {
    "normal fundus": "N",
    "glaucoma": "G",
    "age-related macular degeneration": "A",
    "dry age-related macular degeneration": "A",
    "wet age-related macular degeneration": "A",
    "hypertensive retinopathy": "H",
    "pathological myopia": "M",
}
NO_FUNDUS = {"anterior segment image", "no fundus image"}
NO_FINDING = {"lens dust"}
SUSPECTED = "suspected glaucoma"  # the letter G as well, in full_df.csv
NAME = re.compile(r"\d+_(left|right)\.\w+", re.IGNORECASE)
KEYWORDS = {"left": "Left-Diagnostic Keywords", "right": "Right-Diagnostic Keywords"}
FILES = {"left": "Left-Fundus", "right": "Right-Fundus"}


class ODIR5K(PublicSource):
    """7000 photographs of 3500 patients, or the 6392 of 3358 that full_df.csv lists.

    A normal eye has none of the labelled diseases; an eye with one disease may have others, which are unknown.
    """

    name = "odir5k"
    title = "ODIR-5K"
    licence = "see the dataset's page"
    address = "https://www.kaggle.com/datasets/andrewmvd/ocular-disease-recognition-odir5k"
    layout = (
        "full_df.csv (ID, filename, labels, …) or data.xlsx (ID, Left-Fundus, …), and 'Training Images', either also "
        "within ODIR-5K/ or ODIR-5K/ODIR-5K/, or else preprocessed_images/, with <ID>_<left or right>.jpg"
    )
    trap = (
        "the columns N to O are of the patient, not of the eye; `filepath` is another computer's; keywords are "
        "separated by a full-width comma; suspected glaucoma has the letter of glaucoma; some images show no fundus"
    )
    rules = (
        Levels("dr_grade", "eye: D", {"0": 0, "1": None}),
        Levels("is_amd", "eye: A", YES_NO),
        Levels("is_gc", "eye: G", YES_NO),
        Levels("is_htr", "eye: H", YES_NO),
        Levels("is_pm", "eye: M", YES_NO),
        Levels("is_fundus", "eye: fundus", YES_NO),
        Levels("eye_side", "eye", {"right": 0, "left": 1}),
    )
    published = {"images": 6392, "patients": 3358}
    frame = "either"

    def _table(self) -> pa.Table:
        path = self.find("table of labels", "full_df.csv", *(f"{home}data.xlsx" for home in HOMES))
        eyes = self._of_images(path) if path.suffix.lower() == ".csv" else self._of_patients(path)
        rows = []
        for where, patient, name, eye, letters, words in eyes:
            if SUSPECTED in words and "glaucoma" not in words:
                letters.discard("G")
            decided = {f"eye: {x}": "1" if x in letters else "0" if letters == {"N"} else "" for x in "DAGHM"}
            shown = str(int(NO_FUNDUS.isdisjoint(words)))
            row = {"id": stem(name), "name": name, "patient": patient, "eye": eye, "eye: fundus": shown}
            rows.append({**row, **decided, WHERE: where})
        folder = self.find("folder of images", *(f"{home}Training Images" for home in HOMES), "preprocessed_images")
        table = pa.Table.from_pylist(rows)
        return self.located(table, [row["name"] for row in rows], self.images_below(folder), path)

    def _of_images(self, path: Path) -> Iterator[tuple[str, str, str, str, set[str], set[str]]]:
        """Where it stands, patient, file, eye, letters and keywords of each image in full_df.csv."""
        table = self.read_labels(path, "ID", "filename", "labels", *KEYWORDS.values())
        for row in table.to_pylist():
            match, letters = NAME.fullmatch(row["filename"]), set(re.findall(r"\w+", row["labels"]))
            if match is None or not letters or letters - set(LETTERS):
                raise LayoutError(
                    f"{self.title}: {row[WHERE]}: filename {row['filename']!r}, labels {row['labels']!r}: not "
                    f"<ID>_<left or right>.jpg with letters of {LETTERS}. {self.about}"
                )
            eye = match[1].lower()
            yield row[WHERE], row["ID"], row["filename"], eye, letters, _words(row[KEYWORDS[eye]])

    def _of_patients(self, path: Path) -> Iterator[tuple[str, str, str, str, set[str], set[str]]]:
        """The same of data.xlsx, two images a row."""
        self.published = {"images": 7000, "patients": 3500}
        for row in self.read_labels(path, "ID", *FILES.values(), *KEYWORDS.values()).to_pylist():
            for eye in KEYWORDS:
                words = _words(row[KEYWORDS[eye]])
                letters = {LETTER_OF[word] for word in words if word in LETTER_OF}
                if "N" in letters and words - NO_FINDING != {"normal fundus"}:
                    letters.remove("N")
                yield row[WHERE], row["ID"], row[FILES[eye]], eye, letters, words


def _words(cell: str) -> set[str]:
    """Keywords, lower case; they are separated by full-width commas, and may be by others."""
    return {word.strip().lower() for word in re.split("[，,]", cell)} - {""}
