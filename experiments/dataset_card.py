"""`+exp=dataset_card`: README.md of a synthetic set, as Hugging Face reads it, with a contact sheet; from its files."""

from pathlib import Path

from PIL import Image

from callbacks.atomic import write_atomically, write_text
from callbacks.files import own_folder
from callbacks.locks import alone
from datamodules.synthetic import SyntheticSet
from datamodules.synthetic.layout import CARD, CONTACT_SHEET
from experiments.card.facts import Facts, gather
from experiments.card.front_matter import check_licence, head_of, licence_of
from experiments.card.markdown import card, own_words
from experiments.card.sheet import sheet
from experiments.report import heading, say
from experiments.session import Run

VERSION = "1.0.0"
NUM_COLUMNS = 6


def dataset_card(run: Run) -> dict[str, float]:
    """Write the card of the set `cfg.job.dataset` into its folder; returns what the record keeps.

    Raises:
        ValueError: weights are given; a licence that is none; a set that is not complete; a README.md of another hand.
        FileNotFoundError: no set at `cfg.job.dataset`.
    """
    run.refuse_weights()
    output_dir = run.output_dir
    job, dataset = run.job, SyntheticSet(Path(run.job["dataset"]).expanduser())
    if output_dir.resolve().is_relative_to(dataset.root.resolve()):
        raise ValueError(
            f"output_dir={output_dir} is the folder of the set, or in it: that keeps the record of its own making. "
            "Leave output_dir out; the card is written into job.dataset all the same."
        )
    with alone(dataset.root), run.recorded() as record:
        settings = {name: job[name] for name in ("license", "title", "version", "num_columns")}
        path, facts = _written(dataset, **settings)
        metrics = numbers(facts)
        record.finish("finished", metrics)
    say(summary(path, facts))
    run.end()
    return metrics


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
    return _written(SyntheticSet(root), license, title, version, num_columns)[0]


def _written(
    dataset: SyntheticSet, license: str | None, title: str | None, version: str | None, num_columns: int
) -> tuple[Path, Facts]:
    path = dataset.root / CARD
    if num_columns < 1:
        raise ValueError(f"job.num_columns={num_columns}: a row of images needs at least 1.")
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


def numbers(facts: Facts) -> dict[str, float]:
    """What the record keeps."""
    found = {"num_images": facts.num_images, "num_bytes": facts.num_bytes, "annotated": facts.annotations is not None}
    if facts.acceptance is not None:
        found["acceptance"] = facts.acceptance.num_accepted / facts.acceptance.num_images
    return {f"card/{name}": float(value) for name, value in found.items()}


def summary(path: Path, facts: Facts) -> str:
    """Where the card is, and what it could not say."""
    lacking = {
        "annotations": facts.annotations is None,
        "consistency figures": facts.consistency is None,
        "a privacy audit": facts.privacy is None,
    }
    lines = {
        "card": str(path),
        "contact sheet": str(path.parent / CONTACT_SHEET),
        "it says that it lacks": ", ".join(name for name, lacks in lacking.items() if lacks) or "nothing",
    }
    return "\n".join([heading("dataset card"), *(f"  {name + ':':<24}{line}" for name, line in lines.items())])
