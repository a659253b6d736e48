"""Any folder of fundus photographs, without labels."""

import logging
import re
from pathlib import Path, PurePosixPath

import pyarrow as pa

from datamodules.errors import UserError
from datamodules.manifest import Manifest
from datamodules.sources.base import FileSource
from datamodules.sources.listing import EXTENSIONS, list_images
from datamodules.sources.people import warn_of_patients

log = logging.getLogger(__name__)

# 12_left, 12-OD, Patient3_R, Image_01L: what is left of the name once the eye is taken off
SIDE = re.compile(r"^(?P<patient>.+?)(?:[ _.\-]+|(?<=\d))(?:l|r|left|right|od|os)$", re.IGNORECASE)
ONLY_SIDE = re.compile(r"^(?:l|r|left|right|od|os)$", re.IGNORECASE)


class FolderSource(FileSource):
    """All images below `root`, at any depth; every label is unknown.

    The patient is the file's name without its extension and without a trailing eye (`_L`, `_R`, `_left`, `_right`,
    `OD`, `OS`), whatever the folder, so that both eyes stay together; a file named by its eye alone takes its folder's
    name. With `patient_pattern`, a regular expression with a group named `patient`, it is that group of the relative
    path: for a folder a patient, `(?P<patient>[^/]+)/`. `name` tells several folders of a union apart.
    """

    name = "folder"
    about = f"It should hold images ({', '.join(EXTENSIONS)}), at any depth."

    def __init__(self, root: str | Path, patient_pattern: str | None = None, name: str = "folder") -> None:
        super().__init__(root)
        self.name = name
        try:
            groups = {} if patient_pattern is None else re.compile(patient_pattern).groupindex
        except re.error as error:
            raise UserError(f"patient_pattern is {patient_pattern!r}, no regular expression: {error}.") from None
        if patient_pattern is not None and "patient" not in groups:
            raise UserError(f"patient_pattern is {patient_pattern!r}, and needs a group (?P<patient>…).")
        self.patient_pattern = patient_pattern

    def _index(self) -> Manifest:
        paths = list_images(self.root)
        if not paths:
            some = sorted(entry.name for entry in self.root.iterdir())[:8]
            raise FileNotFoundError(f"no image is below data.root={str(self.root)!r}. {self.about} Found: {some}.")
        patients = [self._patient(path) for path in paths]
        log.info("%s: %d images of %d patients, no labels", self.root, len(paths), len(set(patients)))
        source = [self.name] * len(paths)
        manifest = Manifest.from_table(pa.table({"path": paths, "patient": patients, "source": source}))
        if self.patient_pattern is None:
            remedy = "Remedy: data.patient_pattern, or a table with a column 'patient'"
            warn_of_patients(str(self.root), manifest, remedy, guessed=True)
        return manifest

    def _patient(self, path: str) -> str:
        if self.patient_pattern is None:
            return patient_of_name(path)
        match = re.search(self.patient_pattern, path)
        if match is None or not match["patient"]:
            raise UserError(
                f"patient_pattern {self.patient_pattern!r} finds no patient in {path!r}. Correct the pattern, or leave "
                "it out to take the file's name."
            )
        return match["patient"]


def patient_of_name(path: str) -> str:
    """The patient that a file's name suggests: the name without a trailing eye."""
    stem = PurePosixPath(path).stem
    if ONLY_SIDE.match(stem):
        return PurePosixPath(path).parent.name or stem
    match = SIDE.match(stem)
    return match["patient"] if match else stem
