"""The files of a folder of shards: which there are, whether all are there, and the split that a name tells."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from datamodules.errors import UserError
from datamodules.synthetic.layout import ANNOTATIONS, DATA, PLAN, TRAINED_ON

log = logging.getLogger(__name__)

# train-00000-of-00002.parquet, and as Hugging Face's push_to_hub once wrote it, train-00000-of-00002-0123456789abcdef
NUMBERED = re.compile(
    r"(?P<stem>.+)[-_](?P<number>\d+)[-_]of[-_](?P<total>\d+)(?:-[0-9a-f]{8,})?\.parquet", re.IGNORECASE
)
WORDS = {  # in a file's name, as Hugging Face datasets reads them
    "train": "train", "training": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
MEANT = re.compile(r"(?<![a-z])x?(?:train|test|val)")  # testset, validate, xval: what none of these words tells
BESIDE = (PLAN, TRAINED_ON, "manifest.parquet", ANNOTATIONS)  # files and a folder of a set's own
ABOUT = (
    "data.root is the folder of the shards, shard-00000-of-00008.parquet …, or one with them in a folder `data` below, "
    "or in a folder for each split (train, validation, test)."
)


class ShardError(UserError):
    """Shards that cannot be trained on; the message names the file, what is wrong with it, and the remedy."""


def find_shards(root: Path, partial: bool = False) -> list[Path]:
    """The Parquet files of `root/data`, or where it has none of `root`, by name; folders for splits are looked into.

    The log counts other Parquet files below `root`, without those that the project writes beside a set.

    Raises:
        FileNotFoundError: no such folder, or no Parquet file in it.
        ShardError: a numbered set (`…-00000-of-00008.parquet`) of which files are missing, unless `partial`, or there
            twice.
    """
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(f"data.root is {str(root)!r}, which {state}. {ABOUT}")
    files = _parquet_files(root / DATA) or _parquet_files(root)
    if not files:
        raise FileNotFoundError(f"data.root is {str(root)!r}, and there is no Parquet file in it. {ABOUT}")
    sets: dict[tuple[Path, str, int], dict[int, Path]] = {}
    for file in files:
        if match := NUMBERED.fullmatch(file.name):
            there = sets.setdefault((file.parent, match["stem"], int(match["total"])), {})
            twin = there.setdefault(int(match["number"]), file)
            if twin != file:
                raise ShardError(
                    f"{str(twin)!r} and {file.name!r} are the same shard of two versions of a set. Remedy: leave the "
                    "files of one version, and move the others out of the folder."
                )
    for (_, stem, total), there in sets.items():
        _check_whole(stem, total, there, partial)
    _warn_of_others(root, files)
    return files


def _parquet_files(folder: Path) -> list[Path]:
    """The visible Parquet files of a folder, which need not exist, and of folders for splits in it, by name."""
    if not folder.is_dir():
        return []
    inside = list(folder.iterdir())
    for split in (entry for entry in folder.iterdir() if entry.name.lower() in WORDS and entry.is_dir()):
        inside += split.iterdir()
    return sorted(file for file in inside if file.suffix.lower() == ".parquet" and not file.name.startswith("."))


def _warn_of_others(root: Path, files: Sequence[Path]) -> None:
    """Say in the log how many Parquet files are left out, and in which folders they lie."""
    taken, others = set(files), Counter()
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        is_own = any(part in BESIDE or part.startswith(".") for part in parts)
        if path.suffix.lower() == ".parquet" and path not in taken and not is_own:
            others["/".join(parts[:-1]) or "."] += 1
    if others:
        where = ", ".join(f"{num} in {folder!r}" for folder, num in others.most_common(5))
        log.warning("%s: left out %d Parquet files: %s. %s", root, others.total(), where, ABOUT)


def _check_whole(stem: str, total: int, there: dict[int, Path], partial: bool) -> None:
    """See that a numbered set of shards has all of its files."""
    folder = next(iter(there.values())).parent
    first = 1 if total in there and 0 not in there else 0  # some count from one
    num_missing = total - sum(first <= number < first + total for number in there)
    if num_missing and partial:
        log.warning("%d of %d shards are missing from %s: left out", num_missing, total, folder)
    elif num_missing:
        missing = [number for number in range(first, first + min(total, len(there) + 3)) if number not in there][:3]
        names = ", ".join(f"{stem}-{number:05d}-of-{total:05d}.parquet" for number in missing)
        raise ShardError(
            f"{num_missing} of {total} shards are missing from {str(folder)!r}: {names}"
            f"{', …' if num_missing > len(missing) else ''}. Remedy: add them, or leave them out with "
            "data.partial=true."
        )


def split_of_name(file: Path, root: Path) -> str:
    """The split that a file's name tells by one of its words (`my-test-00000-of-00001`), or its folder below `root`.

    "" where neither does. Raises ShardError for names that tell two.
    """
    match = NUMBERED.fullmatch(file.name)
    words = re.findall(r"[a-z]+", (match["stem"] if match else file.stem).lower())
    words += [file.parent.name.lower()] if file.parent != root else []
    told = sorted({WORDS[word] for word in words if word in WORDS})
    if len(told) > 1:
        raise ShardError(
            f"{str(file)!r}: the name tells the splits {' and '.join(told)}. Remedy: name it and its folder by one, or "
            "give its rows a column 'split'."
        )
    return told[0] if told else ""


def warn_of_names(files: Sequence[Path], root: Path) -> None:
    """Say in the log where some names tell a split and others do not, or only nearly: those may be meant for a test."""
    silent = [file.name for file in files if not split_of_name(file, root)]
    nearly = [name for name in silent if MEANT.search(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())]
    if nearly or 0 < len(silent) < len(files):
        log.warning(
            "%s: %d of %d files tell no split by their names (%s): their rows are shared out by data.fractions. Known "
            "words: %s", root, len(silent), len(files), ", ".join((nearly or silent)[:3]), ", ".join(WORDS),
        )  # fmt: skip
