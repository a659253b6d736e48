"""`+exp=dataset_card`: README.md of a synthetic set, as Hugging Face reads it, with a contact sheet; from its files."""

from pathlib import Path

from callbacks.locks import alone
from datamodules.errors import UserError
from datamodules.synthetic import SyntheticSet
from datamodules.synthetic.layout import CONTACT_SHEET
from experiments.card.facts import Facts
from experiments.card.writing import written
from experiments.report import heading, say
from experiments.session import Run


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
        raise UserError(
            f"output_dir={output_dir} is the folder of the set, or in it: that keeps the record of its own making. "
            "Leave output_dir out; the card is written into job.dataset all the same."
        )
    with alone(dataset.root), run.recorded() as record:
        settings = {name: job[name] for name in ("license", "title", "version", "num_columns")}
        path, facts = written(dataset, **settings)
        metrics = numbers(facts)
        record.finish("finished", metrics)
    say(summary(path, facts))
    run.end()
    return metrics


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
