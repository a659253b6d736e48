"""`+exp=synthesize`: a generator's checkpoint and a plan to a labelled set of images, stopped and gone on at will."""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from hydra.utils import instantiate
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, ListConfig, OmegaConf
from tqdm import tqdm

from callbacks.run_record import RunRecord
from callbacks.shard_writer import GB, ImageEncoder, ShardWriter
from callbacks.shutdown import PredictionShutdown
from callbacks.synthesis_progress import SynthesisProgress
from datamodules.findings import NAMES
from datamodules.lineage import FILE as TRAINED_ON_FILE
from datamodules.lineage import write_trained_on
from datamodules.plan.laws import LabelRows, Law
from datamodules.plan.rows import PlanDataModule
from datamodules.plan.written import Plan, write_plan
from datamodules.synthetic import MANIFEST, PLAN, RECIPE, SyntheticSet
from experiments.assembly import load_generator, plain, world_size
from experiments.card.counts import acceptance
from experiments.card.front_matter import check_licence
from experiments.dataset_card import write_card
from experiments.report import ending_text, heading, parameters_text, say
from experiments.synthesis.dry_run import Rate, estimate_text, operations
from experiments.synthesis.filtering import agreement_facts, build_agreement
from experiments.synthesis.recipe import (
    alone,
    at_work,
    complete,
    generator_facts,
    image_size_of,
    keep_to,
    make_recipe,
    shards_of,
    sweep,
    wait_for,
)
from experiments.training import recorded
from lightning_modules.latent_diffusion import LatentDiffusion
from lightning_modules.synthesizer import Synthesizer

PRECISION = "32-true"  # whatever trainer.precision says: what is made follows from the recipe alone
PATIENCE = timedelta(days=30)  # of a process for the others: their shares differ


def synthesize(cfg: DictConfig, checkpoint: str) -> dict[str, float]:
    """Write the plan, make the shards that are missing, and the manifest; returns what was counted."""
    start, root = time.monotonic(), Path(cfg.output_dir)
    world_size(cfg)  # a Trainer tells this process its rank, whoever started it
    check_kinds(cfg)
    if cfg.job.license is not None:
        check_licence(cfg.job.license)
    generator, law = generator_of(cfg), instantiate(cfg.plan)
    encoder = ImageEncoder(cfg.job.image_format, cfg.job.image_quality)
    synthesizer = Synthesizer(
        generator, build_agreement(cfg.job.filter, cfg.job.trusted), cfg.job.filter.max_attempts, cfg.job.image_size
    )
    announce(cfg, generator)
    if cfg.job.dry_run:
        return dry_run(cfg, synthesizer, law, encoder)
    with held(root):
        found = begin(cfg, root, generator, law, synthesizer)  # what is wrong with a plan is said before there is a run
        with kept(cfg, root) as record:
            wanted = missing(found, cfg.job.verify, world_size(cfg))
            metrics = make(cfg, found, synthesizer, encoder, wanted)
            if record is not None:
                metrics |= finish(found, cfg.job.license)
                record.finish("finished", metrics)
    say(ending_text(root, metrics, time.monotonic() - start))
    say(f"annotate it:  python -m experiments.run +exp=annotate job.dataset={root} job.annotators=[<run>]")
    return metrics


def check_kinds(cfg: DictConfig) -> None:
    """See that what is null by default is of the right kind where it is given.

    Raises:
        ValueError: it is not; names the key.
    """
    wholes = ("num_images", "job.images_per_shard", "job.image_size", "job.image_quality", "job.num_steps")
    for key in (*wholes, "job.guidance"):
        value = OmegaConf.select(cfg, key)
        fits = isinstance(value, int) or (key not in wholes and isinstance(value, float))
        if value is not None and (isinstance(value, bool) or not fits):
            raise ValueError(f"{key}={value} must be a {'whole ' if key in wholes else ''}number.")
    interval = cfg.job.guidance_interval
    if interval is not None and not (isinstance(interval, ListConfig) and len(interval) == 2):
        raise ValueError(f"job.guidance_interval={interval} must be two fractions, as [0.0, 0.8].")


def generator_of(cfg: DictConfig) -> LatentDiffusion:
    """The generator of `ckpt`, to sample as `job` says.

    Raises:
        ValueError: no checkpoint, one of another kind, or a sampling that means nothing.
    """
    if not cfg.ckpt:
        raise ValueError("ckpt is not given: name the checkpoint of a generator, ckpt=<run>/checkpoints/last.ckpt.")
    generator = load_generator(cfg.ckpt, cfg.job.trusted)
    asked = {name: cfg.job[name] for name in ("scheduler", "num_steps", "guidance", "precision")}
    interval = cfg.job.guidance_interval
    asked["guidance_interval"] = None if interval is None else tuple(interval)
    generator.sample_by(**{name: value for name, value in asked.items() if value is not None})
    return generator


def announce(cfg: DictConfig, generator: LatentDiffusion) -> None:
    """Say what is going to be made, and by what."""
    say(heading("generator"))
    say(f"{cfg.ckpt}, {image_size_of(generator)} px")
    say(parameters_text({"autoencoder": generator.autoencoder, "denoiser": generator.network}))
    sampling = ", ".join(f"{name} {value}" for name, value in generator.sampling.items())
    say(f"sampling:     {sampling}")


@contextmanager
def held(root: Path) -> Iterator[None]:
    """On the first process: hold the folder, in which nobody else is at work. On the others: be seen to be."""
    if rank_zero_only.rank != 0:
        with at_work(root):
            yield
        return
    with alone(root):
        sweep(root)
        shutil.rmtree(root / SynthesisProgress.FOLDER, ignore_errors=True)
        yield


@contextmanager
def kept(cfg: DictConfig, root: Path) -> Iterator[RunRecord | None]:
    """On the first process: keep the run's record. On the others None."""
    if rank_zero_only.rank != 0:
        yield None
        return
    with recorded(RunRecord(str(root), plain(cfg))) as record:
        yield record


def begin(cfg: DictConfig, root: Path, generator: LatentDiffusion, law: Law, synthesizer: Synthesizer) -> SyntheticSet:
    """Plan and recipe, written by the first process or there already."""
    if rank_zero_only.rank != 0:
        wait_for(root)
        return SyntheticSet(root)
    say(heading("plan"))
    job = cfg.job
    shards_of(1, job.images_per_shard, job.images_per_row_group)  # what means nothing is said before a plan is written
    if not (root / RECIPE).is_file():  # a plan without one is left of a start that came to nothing
        write_plan(root / PLAN, law.chunks(cfg.num_images, cfg.seed, seen(generator)), cfg.seed)
    elif not (root / PLAN).is_file():
        raise ValueError(f"{root / PLAN} is gone, by which the set was begun. Remedy: put it back, or begin anew.")
    plan = Plan(root / PLAN)
    image = {"format": job.image_format, "quality": job.image_quality,
             "size": job.image_size or image_size_of(generator)}  # fmt: skip
    shards = shards_of(plan.num_images, job.images_per_shard, job.images_per_row_group)
    recipe = make_recipe(
        generator_facts(generator, cfg.ckpt), plan, {**law.describe(), "num_images": cfg.num_images},
        generator.sampling, image, shards, agreement_facts(synthesizer), cfg.seed,
    )  # fmt: skip
    found = keep_to(root, recipe)
    patients = (generator.trained_on or {}).get("patients")
    (root / MANIFEST).unlink(missing_ok=True)  # until every shard is known to be there and whole
    if job.carry_patients and patients is not None and not (root / TRAINED_ON_FILE).is_file():
        write_trained_on(root / TRAINED_ON_FILE, patients.numpy(), (generator.trained_on or {}).get("unknown", ()))
    say(f"{plan.num_images:,} images in {shards['num_shards']} shards: {root / PLAN}")
    return found


def seen(generator: LatentDiffusion) -> LabelRows | None:
    """The labels that a generator was trained on, where its checkpoint holds them."""
    facts = generator.trained_on or {}
    if "labels" not in facts:
        return None
    return LabelRows(facts["labels"].numpy().astype(np.int8), facts["counts"].numpy())


def missing(found: SyntheticSet, thorough: bool, num_processes: int) -> list[int]:
    """Numbers of the shards that are to be made, of this process's share; those at fault are named, and removed."""
    mine = range(rank_zero_only.rank, len(found.names), num_processes)
    there = [number for number in mine if found.shard(found.names[number]).is_file()]
    wanted = [number for number in mine if number not in set(there)]
    bar = tqdm(there, unit=" shards", desc="checking what is there", disable=not there or rank_zero_only.rank != 0)
    for number in bar:
        name = found.names[number]
        fault = found.wrong_with(name, thorough)
        if fault is not None:
            tqdm.write(f"{found.shard(name)}: {fault}. It is made again.")
            found.shard(name).unlink()
            wanted.append(number)
    return sorted(wanted)


def make(
    cfg: DictConfig, found: SyntheticSet, synthesizer: Synthesizer, encoder: ImageEncoder, wanted: Sequence[int]
) -> dict[str, float]:
    """Make the shards that are wanted of this process; the first returns what all made, and how fast.

    Raises:
        KeyboardInterrupt: it was told to stop.
    """
    num_processes = world_size(cfg)
    bounds = [found.bounds(number) for number in range(len(found.names))]
    absent = [number for number in range(len(found.names)) if not found.shard(found.names[number]).is_file()]
    num_images = sum(bounds[number][1] - bounds[number][0] for number in absent)
    rows = found.recipe["shards"]["images_per_row_group"]
    writer = ShardWriter(found.root, found.names, NAMES, encoder, found.id_prefix, rows)
    progress = SynthesisProgress(found.root, num_images)
    if not wanted and num_processes == 1:
        return {}
    say(heading(f"synthesis: {num_images:,} of {found.num_images:,} images are to be made"))
    data = PlanDataModule(Plan(found.root / PLAN), bounds, wanted, cfg.job.batch_size)
    trainer = trainer_of(cfg, [writer, progress, PredictionShutdown()])
    predict(trainer, synthesizer, data)
    trainer.strategy.barrier("every shard is made")
    total, seconds = progress.finish(trainer)
    metrics = {"images": total, "images_per_second": total / seconds, "num_processes": num_processes}
    if writer.num_images:
        metrics["writing_share"] = writer.seconds / progress.seconds
    return metrics


def trainer_of(cfg: DictConfig, callbacks: Sequence[L.Callback], **settings: Any) -> L.Trainer:
    """A Trainer that predicts on the devices of `cfg`, and keeps nothing."""
    several = world_size(cfg) > 1
    return L.Trainer(
        **{name: cfg.trainer[name] for name in ("accelerator", "devices", "num_nodes")},
        precision=PRECISION,
        strategy=DDPStrategy(timeout=PATIENCE) if several else "auto",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=cfg.output_dir,
        **settings,
    )


def predict(trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule) -> None:
    """Predict without keeping what comes of it.

    Raises:
        KeyboardInterrupt: on Ctrl-C, which Lightning turns into an exit.
    """
    try:
        trainer.predict(module, datamodule=data, return_predictions=False)
    except SystemExit as leaving:
        raise KeyboardInterrupt from leaving


def finish(found: SyntheticSet, license: str | None) -> dict[str, float]:
    """The manifest, the card, and what the whole set has."""
    manifest = complete(found)
    say(f"complete: {manifest['num_images']:,} images, {manifest['num_bytes'] / GB:.3g} GB")
    say(f"card:         {write_card(found.root, license)}")
    counted = {"num_images": manifest["num_images"], "num_bytes": manifest["num_bytes"]}
    if found.recipe["filter"] is None:
        return counted
    filtered = acceptance(found.shards)
    shares = {"accepted_share": filtered.num_accepted, "accepted_at_once": filtered.num_at_once,
              "attempts": filtered.num_drawn}  # fmt: skip
    counted |= {name: number / filtered.num_images for name, number in shares.items()}
    say(f"accepted: {counted['accepted_share']:.1%} of the images, after {counted['attempts']:.2f} attempts an image")
    return counted


def dry_run(cfg: DictConfig, synthesizer: Synthesizer, law: Law, encoder: ImageEncoder) -> dict[str, float]:
    """Make a few batches and say what the whole plan would take; writes nothing into the run's folder."""
    job = cfg.job
    if job.num_dry_batches < 1:
        raise ValueError(f"job.num_dry_batches={job.num_dry_batches} must be at least 1.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PLAN
        write_plan(path, law.chunks(cfg.num_images, cfg.seed, seen(synthesizer.generator)), cfg.seed)
        plan, processes = Plan(path), world_size(cfg)
        if plan.num_images < 2:
            raise ValueError("a dry run needs a plan of 2 images or more: the first batch is not timed.")
        size = min(job.batch_size, plan.num_images // 2)
        first = (0, min(size * (job.num_dry_batches + 1), plan.num_images))
        data = PlanDataModule(plan, [first] * processes, range(processes), size)
        rate, work = Rate(encoder), operations(synthesizer.generator)
        say(heading("dry run"))
        predict(trainer_of(cfg, [rate]), synthesizer, data)
    say(estimate_text(rate, work, plan.num_images, processes, Path(cfg.output_dir)))
    return {"images_per_second": rate.num_images / rate.seconds * processes}
