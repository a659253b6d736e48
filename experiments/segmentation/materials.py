"""What a segmentation study is made of, looked at before anything heavy: real data, synthetic sets, further tests."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from datamodules.annotated_shards import SyntheticSource
from datamodules.errors import UserError
from datamodules.files import safe_name
from datamodules.fundus import FundusDataModule
from datamodules.mixed import num_real_of
from datamodules.synthetic.lineage import Ancestor, generators, patient_codes
from experiments.assembly import build_datamodule, mask_levels
from experiments.composition import compose_config
from experiments.lineage import check_ancestors
from experiments.segmentation.cells import EXPERIMENT
from experiments.typed_text import quoted

OF_REAL_DATA = "held_out"  # the test on the held-out patients of the real data
ALL_TESTED = "data.fractions={train: 0.0, val: 0.0, test: 1.0}"  # where a set has no official split


@dataclass(frozen=True)
class Materials:
    """What there is.

    Attributes:
        levels: of the masks, background first.
        num_train: real training images.
        num_steps: optimiser steps of every cell.
        batch_size: images a step.
        image_size: pixels along a side.
        tests: further test data, by name.
    """

    levels: tuple[str, ...]
    num_train: int
    num_steps: int
    batch_size: int
    image_size: int
    tests: Mapping[str, FundusDataModule]


def look(job: Mapping[str, Any], cfg: DictConfig) -> Materials:
    """Look at the indices of all data, and see that every cell can be trained and tested. No image is read.

    Raises:
        UserError: masks are missing or of other levels; too few real or generated images; test patients who trained a
            generator; cells that would take different numbers of steps.
    """
    common = [f"data.seed={cfg.seed}", f"cache_dir={quoted(cfg.cache_dir)}"]
    found = compose_config([EXPERIMENT, *job["real"], *job["common"], *common])
    levels, real = tuple(mask_levels(found.data)), build_datamodule(found)
    counts = {name: split["num_images"] for name, split in real.preview()["splits"].items()}
    check_budgets(job, counts, found.data.batch_size)
    size = found.data.image_size
    tests = {name: further_data(name, words, levels, size, common) for name, words in job["tests"].items()}
    for datamodule in (real, *tests.values()):
        sources = [synthetic_source(name, job) for name in job["sets"]]
        check_ancestors(datamodule.parts(), [one for source in sources for one in generators(source)])
    [(source, manifest)] = real.parts()
    seen = Ancestor("the segmenters of this study", patient_codes(manifest.select("train"), source))
    for datamodule in tests.values():
        check_ancestors(datamodule.parts(), [seen])
    for name in job["sets"]:
        check_set(name, job, levels, counts["train"])
    return Materials(levels, counts["train"], num_steps(found), found.data.batch_size, size, tests)


def check_budgets(job: Mapping[str, Any], counts: Mapping[str, int], batch_size: int) -> None:
    """See that there are real images for every budget and split, and a batch of the smallest budget.

    Raises:
        UserError: there are not.
    """
    numbers = [counts["train"] if budget is None else budget for budget in job["budgets"]]
    if max(numbers) > counts["train"]:
        raise UserError(
            f"job.budgets holds {max(numbers)}, and the real data have {counts['train']} training images. Remedy: "
            f"budgets of at most {counts['train']}, or null for all of them."
        )
    if min(numbers) < batch_size:
        raise UserError(
            f"job.budgets holds {min(numbers)}, and a step takes data.batch_size={batch_size} images. Remedy: "
            f"'data.batch_size={min(numbers)}' in job.common, or larger budgets."
        )
    for ratio in job["ratios"]:
        num_real_of(batch_size, ratio)
    for split in ("val", "test"):
        if not counts[split]:
            raise UserError(
                f"the {split} split of the real data is empty. Remedy: 'data.fractions={{train: 0.6, val: 0.2, "
                "test: 0.2}' in job.real, as the generator was trained with."
            )


def num_steps(cfg: DictConfig) -> int:
    """Optimiser steps of a cell, the same in all.

    Raises:
        UserError: they would depend on the number of images.
    """
    if cfg.data.epoch_size is None or cfg.trainer.max_steps != -1 or cfg.trainer.limit_train_batches is not None:
        raise UserError(
            "the cells have to take the same number of steps, and do so by data.epoch_size and trainer.max_epochs. "
            "Remedy: both in job.common, as 'data.epoch_size=800', without max_steps and limit_train_batches."
        )
    return cfg.data.epoch_size // cfg.data.batch_size * cfg.trainer.max_epochs


def synthetic_source(name: str, job: Mapping[str, Any]) -> SyntheticSource:
    """A set of the study, of which a gated one has its accepted images alone."""
    return SyntheticSource(job["sets"][name], accepted=name in job["gated"])


def check_set(name: str, job: Mapping[str, Any], levels: tuple[str, ...], num_train: int) -> None:
    """See that a set has the masks that are learnt, and images for the largest budget and ratio.

    Raises:
        UserError: it has not.
    """
    source, where = synthetic_source(name, job), f"job.sets.{name}={job['sets'][name]}"
    check_levels(where, source.mask_levels, levels, "a set of a generator that learnt these masks (docs/pairs.md)")
    there = len(source.index())
    largest = num_train if None in job["budgets"] else max(job["budgets"])
    if max(job["ratios"]) * largest > there:
        accepted = " accepted" if name in job["gated"] else ""
        raise UserError(
            f"{where} has {there}{accepted} images, and {largest} real images with {max(job['ratios'])} generated ones "
            f"each take {max(job['ratios']) * largest}. Remedy: a larger set, or smaller job.ratios or job.budgets."
        )


def further_data(
    name: str, words: list[str], levels: tuple[str, ...], image_size: int, common: list[str]
) -> FundusDataModule:
    """Further data to test on: their official test split, or all images where they have none.

    Raises:
        UserError: no or other masks, or no test image.
    """
    if safe_name(name, "job.tests") == OF_REAL_DATA:
        raise UserError(f"job.tests.{name}: that is what the real data's own test is called. Remedy: another name.")
    cfg = compose_config([EXPERIMENT, ALL_TESTED, *common, *words, f"data.image_size={image_size}"])
    check_levels(f"job.tests.{name}", tuple(mask_levels(cfg.data)), levels, "data with these masks")
    datamodule = build_datamodule(cfg)
    if not datamodule.preview()["splits"]["test"]["num_images"]:
        raise UserError(f"job.tests.{name} has no test image. Remedy: 'data.fractions={{train: 0, val: 0, test: 1}}'.")
    return datamodule


def check_levels(where: str, theirs: tuple[str, ...], levels: tuple[str, ...], remedy: str) -> None:
    """Raise UserError where masks lack or have other levels than those of the real data."""
    if tuple(theirs) != levels:
        said = f"masks with the levels {', '.join(theirs)}" if theirs else "no masks"
        raise UserError(f"{where} has {said}, and job.real has {', '.join(levels)}. Remedy: {remedy}.")
