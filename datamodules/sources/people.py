"""What the log says of a source's patients: that nothing names them, or that two names may be one person."""

import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

import pyarrow.compute as pc

from datamodules.manifest import Manifest

log = logging.getLogger(__name__)

MOST_NAMES = 500_000  # of patients that are compared: a second for each 300 000
EYE = re.compile(r"(?:(?<=[/ _.\-])|(?<=\d)|^)(?:l|r|left|right|od|os)(?=[/ _.\-\d]|$)", re.IGNORECASE)
EYE_LAST = re.compile(r"(?:[ _.\-]+|(?<=\d))(?:l|r|left|right|od|os)$")
CUT = re.compile(r"\d\.\d+E\+\d+", re.IGNORECASE)  # 7.00123E+11: a number as a narrow column shows it
LEAK = "two photographs of one person may come to lie on both sides of a split"


def warn_of_patients(title: str, manifest: Manifest, remedy: str = "", guessed: bool = False) -> None:
    """Say in the log where images are shared out among splits and nothing tells whose they are.

    Args:
        title: what the log calls the source.
        manifest: its index.
        remedy: what to do about it; where names of files look like two eyes of one person, such a pair is named too.
        guessed: patients are taken from names of files, which tell nothing where no two images have one in common.
    """
    splits = set(manifest.table.column("split").unique().to_pylist())
    if not ("" in splits or ("train" in splits and "val" not in splits)):
        return
    patients = manifest.table.column("patient").cast("string")
    blank = pc.equal(patients, pc.binary_join_element_wise("image", manifest.table.column("id"), ":"))
    alone = pc.or_(blank, pc.equal(patients, manifest.table.column("id")))
    num_blank = pc.sum(blank).as_py() or 0
    remedy = f". {remedy}." if remedy else ""
    if pc.all(alone).as_py() or (guessed and manifest.num_patients == len(manifest)):
        log.warning(
            "%s: whose photographs they are is not told: every image counts as its own patient, and %s%s",
            title, LEAK, remedy,
        )  # fmt: skip
    elif num_blank:
        log.warning(
            "%s: %d of %d images have no patient: each counts as its own, and %s%s",
            title, num_blank, len(manifest), LEAK, remedy,
        )  # fmt: skip
    some = Manifest(manifest.table.slice(0, MOST_NAMES))
    warn_of_eyes(title, some.paths, some.patients, remedy)


def warn_of_eyes(title: str, paths: Sequence[str], patients: Sequence[str], remedy: str = "") -> None:
    """Say in the log which two images of different patients may show the eyes of one person, by their names."""
    if pair := two_eyes(paths, patients):
        log.warning(
            "%s: %r and %r may show the eyes of one person, who counts as two patients here: %s%s",
            title, *pair, LEAK, remedy,
        )  # fmt: skip


def two_eyes(paths: Sequence[str], patients: Sequence[str]) -> tuple[str, str] | None:
    """The first two paths that tell the eye, and may be of one person, under two names of patients; None for none.

    They differ only in the eye (`OD_17.jpg`, `OS_17.jpg`), or up to it, where a number stands there
    (`P001_OD_1.jpg`, `P001_OS_2.jpg`).
    """
    first: dict[str, int] = {}
    for row, path in enumerate(paths):
        skeleton = EYE.sub("*", os.path.splitext(path)[0])
        if "*" not in skeleton:
            continue
        before = skeleton[: skeleton.rfind("*")]
        for key in (skeleton, before) if re.search(r"\d", before) else (skeleton,):
            other = first.setdefault(key, row)
            if patients[other] != patients[row]:
                return paths[other], path
    return None


def warn_of_names(title: str, manifest: Manifest) -> None:
    """Say in the log which names of patients differ in what people write in several ways, and count as two people."""
    column = manifest.table.column("patient").combine_chunks()
    names = column.dictionary.to_pylist() if len(column.dictionary) <= MOST_NAMES else []
    images = set(pc.binary_join_element_wise("image", manifest.table.column("id"), ":").to_pylist()) if names else ()
    names = [name for name in names if name not in images]
    groups = [group for group in alike(names) if len(group) > 1]
    if groups:
        few = "; ".join(" and ".join(map(repr, group[:3])) for group in groups[:3])
        log.warning(
            "%s: %d patients are written in several ways, perhaps: %s count as different people. Remedy: write a "
            "person's name in one way.", title, len(groups), few,
        )  # fmt: skip
    cut = [name for name in names if CUT.fullmatch(name)]
    if cut:
        log.warning(
            "%s: the patient %r (and %d more) is a number without its last digits, which several people may share. "
            "Remedy: write the numbers in full, as text.", title, cut[0], len(cut) - 1,
        )  # fmt: skip


def alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ only in an eye at the end, capitals, signs, leading zeros, or `,` in a number."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        plain = re.sub(r"(?<=\d)[,'\u2019 ](?=\d{3}(?!\d))", "", plain)
        plain = EYE_LAST.sub("", plain)
        words = re.findall(r"\d+|[^\W\d_]+", plain)
        key = tuple(word.lstrip("0") or "0" if word.isdecimal() else word for word in words)
        groups[key or (name,)].append(name)
    return list(groups.values())
