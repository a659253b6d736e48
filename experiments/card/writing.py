"""The card of a synthetic set and its contact sheet, written into the folder of the set."""

from pathlib import Path

from PIL import Image

from callbacks.files import own_folder, write_atomically, write_text
from datamodules.errors import UserError
from datamodules.synthetic import SyntheticSet
from datamodules.synthetic.layout import CARD, CONTACT_SHEET
from experiments.card.facts import Facts, gather
from experiments.card.front_matter import check_licence, head_of, licence_of
from experiments.card.markdown import card, own_words
from experiments.card.sheet import sheet

VERSION = "1.0.0"
NUM_COLUMNS = 6


def write_card(
    root: str | Path,
    license: str | None = None,
    title: str | None = None,
    version: str | None = None,
    num_columns: int = NUM_COLUMNS,
) -> Path:
    """Write README.md and samples/contact_sheet.png of a whole set; returns the path of README.md.

    What is None stays as the card that is there has it. Written twice from the same files it is the same.

    Args:
        root: the set's folder.
        license: as the Hugging Face Hub calls it, or `other: <words>`; None and no card: none chosen yet.
        title: None and no card: `Synthetic fundus photographs, 512 px`.
        version: None and no card: 1.0.0.
        num_columns: images a row of the contact sheet.

    Raises:
        ValueError: a licence that is none; a set that is not complete; a README.md of another hand.
        FileNotFoundError: no set at `root`.
    """
    return written(SyntheticSet(root), license, title, version, num_columns)[0]


def written(
    dataset: SyntheticSet, license: str | None, title: str | None, version: str | None, num_columns: int
) -> tuple[Path, Facts]:
    """Write both; returns the path of README.md and what the card says."""
    path = dataset.root / CARD
    if num_columns < 1:
        raise UserError(f"job.num_columns={num_columns}: a row of images needs at least 1.")
    before, own = head_of(path), own_words(path)
    license = check_licence(license if license is not None else licence_of(before))
    facts = gather(dataset)
    title = title or before.get("pretty_name") or f"Synthetic fundus photographs, {facts.image_size} px"
    version = str(version or before.get("version") or VERSION)
    picture = Image.fromarray(sheet(dataset, dataset.plan, num_columns))
    own_folder(dataset.root, Path(CONTACT_SHEET).parent)
    write_atomically(dataset.root / CONTACT_SHEET, picture.save)
    write_text(path, card(facts, title, version, license, own))
    return path, facts
