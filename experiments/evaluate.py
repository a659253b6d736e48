"""`+exp=evaluate`: how near a dataset is to real images, beside how near real images are to each other."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor

from callbacks.feature_sets import progress
from callbacks.features import FeatureExtractor
from callbacks.files import write_atomically, write_json, write_text
from callbacks.metrics.estimate import Estimate
from callbacks.metrics.fidelity import fidelity, told_apart
from callbacks.run_record import RunRecord, code_words
from datamodules.dataset import RowsOf
from datamodules.errors import UserError
from datamodules.fundus import FundusDataModule
from datamodules.manifest import SPLITS
from experiments.assembly import build_datamodule
from experiments.composition import compose_config
from experiments.decoded import decoded_rows, read_all
from experiments.report import data_text, heading, say
from experiments.reports.figures import estimates_figure, png
from experiments.reports.render import render
from experiments.session import Run
from experiments.typed_text import quoted
from lightning_modules.names import check_name

Found = Mapping[str, Mapping[str, Estimate]]
JSON, HTML, MARKDOWN, FIGURE = "evaluation.json", "evaluation.html", "evaluation.md", "evaluation.png"
TITLES = {"fd": "Fréchet distance", "kd": "kernel distance", "coverage": "coverage"}
NOTES = (
    "The floor compares real images with real images of other patients, at the same number of images. No generator can "
    "be expected to be better than the floor.",
    "Told apart from real images: worse than the floor by more than twice the floor's deviation over the halvings.",
    "A distance depends on the number of images and on the extractor. Compare distances only where both are the same. "
    "Only a distance on Inception's FID weights is a FID.",
    "A set that copies its training images has a good distance too. These figures do not speak of privacy.",
)
HEADER = ("figure", "compared", "real against real, the floor", "better", "told apart from real")
FEW_PATIENTS, FEW_IMAGES = 50, 500


@dataclass(frozen=True)
class Side:
    """A dataset that is compared: its images at hand, uint8 [N, S, S, 3], and the patient of each."""

    name: str
    images: RowsOf
    patients: Sequence[str]
    fingerprint: str

    def __str__(self) -> str:
        """Name, numbers and fingerprint."""
        num_patients = len(set(self.patients))
        return f"{self.name}: {len(self.images):,} images of {num_patients:,} patients, data {self.fingerprint[:12]}"


def evaluate(run: Run) -> dict[str, float]:
    """Compare the dataset `job.dataset` or `job.other` with the images of `data`; returns the figures.

    Raises:
        ValueError: weights are given; no dataset or two; too few images or patients.
    """
    run.refuse_weights()
    cfg, job = run.cfg, run.job
    other_cfg = compose_config(other_words(job, cfg.data.image_size))
    extractor = instantiate(cfg.job.extractor).to(run.device)
    with run.recorded() as record:
        most = job["max_images"]
        real = at_hand(build_datamodule(cfg), run.output_dir, job["split"], most, cfg.seed)
        other = at_hand(build_datamodule(other_cfg), run.output_dir / "compared", None, most, other_cfg.seed)
        record.record["fingerprints"] = {"data": real.fingerprint, "compared": other.fingerprint}
        features = [features_of(side, extractor, cfg.data.batch_size) for side in (real, other)]
        found = fidelity(features[0], real.patients, features[1], other.patients, job["num_halvings"], cfg.seed)
        lines, notes = rows(found), cautions((real, other), found["fd"]["other"].num_images)
        write(run, record, found, lines, (real, other), notes, extractor.name)
        metrics = {f"{name}/{side}": one.value for name, sides in found.items() for side, one in sides.items()}
        record.finish("finished", metrics)
    say(heading("evaluation"))
    say("\n".join(f"  {row['title']:<18}{row['other']:>26}   real: {row['floor']:>26}   told apart: {row['apart']}"
                  for row in lines))  # fmt: skip
    say("\n".join(f"note: {note}" for note in notes))
    say(f"page:         {run.output_dir / HTML}")
    run.end()
    return metrics


def other_words(job: Mapping[str, Any], image_size: int) -> list[str]:
    """The command line of the data that are compared, at the size of the real ones.

    Raises:
        ValueError: neither `dataset` nor `other` is given, or both.
    """
    if bool(job["dataset"]) == bool(job["other"]):
        raise UserError(
            "name one dataset that is compared: job.dataset=<folder of a synthetic set>, or "
            "\"job.other=['data=idrid','data.root=<folder>']\"."
        )
    words = ["data=shards", f"data.root={quoted(job['dataset'])}"] if job["dataset"] else list(job["other"])
    return ["+exp=inspect_data", *words, f"data.image_size={image_size}"]


def at_hand(datamodule: FundusDataModule, output_dir: Path, split: str | None, most: int, seed: int) -> Side:
    """The images of a dataset, at most so many, drawn at random; what is rejected is listed in `output_dir`.

    Raises:
        ValueError: a split that is none, or empty; fewer than two images wanted.
    """
    if most < 2:
        raise UserError(f"job.max_images={most} must be at least 2.")
    say(heading(f"data: {datamodule.source.name}"))
    say(data_text(datamodule.preview()))
    read_all(datamodule, output_dir)
    seen, images, _ = decoded_rows(datamodule, SPLITS if split is None else (check_name("job.split", split, SPLITS),))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(seen))[:most])
    patients = seen.patients
    return Side(datamodule.source.name, RowsOf(images.array, images.rows[chosen]), [patients[row] for row in chosen],
                datamodule.fingerprint)  # fmt: skip


def features_of(side: Side, extractor: FeatureExtractor, batch_size: int) -> Tensor:
    """Features float32 [N, D], on the CPU."""
    device, found = next(extractor.buffers()).device, []
    with progress(f"features of {side.name}", len(side.images)) as bar:
        for start in range(0, len(side.images), batch_size):
            batch = torch.from_numpy(side.images[start : start + batch_size]).to(device)
            found.append(extractor(batch.permute(0, 3, 1, 2).float() / 255).cpu())
            bar.update(len(batch))
    return torch.cat(found)


def rows(found: Found) -> list[dict[str, str]]:
    """A row a figure, for people."""
    directions = {"min": "less", "max": "more"}
    return [
        {"title": TITLES[name], **{side: shown(one) for side, one in sides.items()},
         "better": directions[sides["other"].better],
         "apart": "yes" if told_apart(sides["other"], sides["floor"]) else "no"}
        for name, sides in found.items()
    ]  # fmt: skip


def shown(one: Estimate) -> str:
    """`63.4 [60.1, 66.7]`."""
    return f"{one.value:.4g} {one.interval('{:.4g}'.format)}"


def cautions(sides: Sequence[Side], size: int) -> list[str]:
    """Warnings where there are too few patients or images for the figures to be relied on."""
    found = [f"{side}. With fewer than {FEW_PATIENTS} patients its interval cannot be relied on."
             for side in sides if len(set(side.patients)) < FEW_PATIENTS]  # fmt: skip
    if size < FEW_IMAGES:
        found.append(
            f"Only {size} images on either side: with fewer than {FEW_IMAGES} a Fréchet distance is biased up."
        )
    return found


def write(
    run: Run, record: RunRecord, found: Found, lines: list[dict[str, str]], sides: Sequence[Side],
    notes: Sequence[str], extractor: str,
) -> None:  # fmt: skip
    """Write evaluation.json, evaluation.html, evaluation.md and evaluation.png."""
    facts = {"num_images": found["fd"]["other"].num_images, "num_halvings": run.job["num_halvings"],
             "seed": run.cfg.seed, "extractor": extractor}  # fmt: skip
    figures = {name: {key: one.json() for key, one in both.items()} for name, both in found.items()}
    told = {"figures": figures, **facts, "sides": [str(side) for side in sides], "code": record.record["code"]}
    write_json(run.output_dir / JSON, told)
    picture = png(estimates_figure({TITLES[name]: both for name, both in found.items()}))
    write_atomically(run.output_dir / FIGURE, lambda path: path.write_bytes(picture))
    apart = [row["title"] for row in lines if row["apart"] == "yes"]
    values = {
        "title": f"{sides[1].name} against {sides[0].name}",
        "summary": f"Told apart from real images by {', '.join(apart)}." if apart else
                   "Not told apart from real images at this number of images.",
        "header": HEADER, "rows": [list(row.values()) for row in lines],
        "sides": [f"Real: {sides[0]}.", f"Compared: {sides[1]}."], "notes": [*notes, *NOTES],
        "figure": base64.b64encode(picture).decode(), "command": run.command,
        "revision": code_words(record.record["code"]), **facts,
    }  # fmt: skip
    for name, template in ((HTML, "evaluation.html.j2"), (MARKDOWN, "evaluation.md.j2")):
        write_text(run.output_dir / name, render(template, **values))
