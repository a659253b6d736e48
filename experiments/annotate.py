"""`+exp=annotate`: what classifiers see in a synthetic set, beside its conditions; and how far the two agree."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from callbacks.advice import advice_of
from callbacks.annotation_writer import AnnotationWriter
from callbacks.locks import alone
from callbacks.run_record import RunRecord
from callbacks.shared_work import SharedWork
from callbacks.shutdown import PredictionShutdown
from datamodules.errors import UserError
from datamodules.findings import NAMES, NUM_LEVELS
from datamodules.shards import ShardSource
from datamodules.synthetic import SyntheticSet
from datamodules.synthetic.annotations import AnnotationFolder
from datamodules.synthetic.batches import ShardBatches
from datamodules.synthetic.layout import CONSISTENCY, CONSISTENCY_FIGURE, CONSISTENCY_PAGE
from experiments.annotation.annotators import AnnotatorRun, load_annotators, recipe_of, thresholds_of
from experiments.annotation.measuring import Found, measure, numbers, write
from experiments.annotation.real_reference import real_images
from experiments.prediction import PRECISION, predict, trainer_of
from experiments.report import heading, say
from experiments.session import Run
from lightning_modules.annotator import Annotator


def annotate(run: Run) -> dict[str, float]:
    """Annotate the shards that are not annotated yet, then measure the agreement with the conditions.

    Raises:
        ValueError: weights that are to be trained, a set that is not whole, annotators that are none, annotations of
            others.
    """
    job, _ = check_job(run), run.world_size  # a Trainer tells this process its rank
    data = whole_set(job["dataset"], run.output_dir)
    members = load_annotators(job["annotators"], job["trusted"])
    annotator = Annotator([member.classifier for member in members], NAMES)
    thresholds = thresholds_of(job["thresholds"], annotator.findings)
    recipe = recipe_of(members, annotator, thresholds, PRECISION, data)
    folder = data.annotations_by(recipe)
    if run.is_first:
        folder.check(job["overwrite"])
    announce(data, members, annotator)
    with session(run, data, recipe) as record:
        metrics = speed = see(run, data, annotator, folder)
        if run.is_first:
            metrics = speed | sum_up(data, members, annotator, folder, job["num_replicates"], run.cfg.seed)
            record.finish("finished", metrics)
    run.end(speed)
    say(f"consistency:  {data.root / CONSISTENCY_PAGE}, {data.root / CONSISTENCY_FIGURE}")
    say(f"its card:     python -m experiments.run +exp=dataset_card job.dataset={data.root}   (writes it again)")
    return metrics


def check_job(run: Run) -> dict[str, Any]:
    """The settings of the job in plain containers.

    Raises:
        ValueError: one that means nothing.
    """
    run.refuse_weights("trains nothing: leave ckpt out, name classifiers by job.annotators=[<run>]")
    job = run.job
    for name, least in (("batch_size", 1), ("num_workers", 0), ("num_replicates", 0)):
        if job[name] < least:
            raise UserError(f"job.{name}={job[name]} must be at least {least}.")
    return job


def whole_set(dataset: str, output_dir: Path) -> SyntheticSet:
    """The set, all shards of which have the size that was written.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not complete, or a shard is cut short; the run's folder is that of the set.
    """
    data = SyntheticSet(Path(dataset).expanduser())
    _ = data.manifest
    if output_dir.resolve().is_relative_to(data.root.resolve()):
        raise UserError(
            f"output_dir={output_dir} is the folder of the set, or in it: that keeps the record of its own making. "
            "Leave output_dir out; the annotations are written into job.dataset all the same."
        )
    data.check_sizes("make it again, by +exp=synthesize resume=auto")
    data.check_shards()
    return data


def announce(data: SyntheticSet, members: list[AnnotatorRun], annotator: Annotator) -> None:
    """Say what annotates what."""
    say(heading("annotators"))
    for member, size in zip(members, annotator.image_sizes, strict=True):
        say(f"{member.checkpoint}, {size} px: {', '.join(member.classifier.findings)}")
    silent = [name for name in NAMES if name not in annotator.findings]
    if silent:
        say(f"told by none, and left empty: {', '.join(silent)}")
    say(f"{data.root}: {data.num_images:,} images of {data.recipe['image']['size']} px in {len(data.names)} shards")


@contextmanager
def session(run: Run, data: SyntheticSet, recipe: dict[str, Any]) -> Iterator[RunRecord]:
    """Keep the record of the run; the first process holds the set meanwhile."""
    weights = ",".join(one["weights"] for one in recipe["annotators"])
    prints = {"data": data.id_prefix.rstrip("-"), "annotators": weights}
    with alone(data.root) if run.is_first else nullcontext(), run.recorded(prints) as record:
        record.record["num_processes"] = run.world_size
        yield record


def see(run: Run, data: SyntheticSet, annotator: Annotator, folder: AnnotationFolder) -> dict[str, float]:
    """Annotate what is missing, whole shards on each process; returns how fast."""
    job, num_processes = run.cfg.job, run.world_size
    work = SharedWork(data.root, "annotating")
    with cleared(work, num_processes):
        if rank_zero_only.rank == 0 and not hand_out(data, folder, work, job.overwrite) and num_processes == 1:
            return {}
        source = ShardSource(data.root)
        batches = ShardBatches(source, data.recipe["image"]["size"], work.items, job.batch_size, job.num_workers)
        thresholds = folder.recipe["thresholds"]
        writer = AnnotationWriter(folder.shard, folder.write_checksum, thresholds, NUM_LEVELS, advice_of)
        trainer = trainer_of(run, [writer, work, PredictionShutdown()])
        predict(trainer, annotator, batches)
        speed = work.speed(trainer)
    return {"images_annotated": speed["images"], "images_per_second": speed["images_per_second"]}


@contextmanager
def cleared(work: SharedWork, num_processes: int) -> Iterator[None]:
    """On the first process: leave nothing of the shares in the set; of a failure of several the next run sees to it."""
    try:
        yield
    except BaseException:
        if num_processes == 1:
            work.clear()
        raise
    if rank_zero_only.rank == 0:
        work.clear()


def hand_out(data: SyntheticSet, folder: AnnotationFolder, work: SharedWork, overwrite: bool) -> bool:
    """On the first process: see what is missing, and share it out; whether anything is."""
    work.begin()
    folder.begin(overwrite)
    wanted = folder.pending()
    say(heading(f"annotation: {len(wanted)} of {len(folder.names)} shards are to be annotated"))
    work.hand_out([data.shard(name).name for name in wanted], sum(data.sizes[name] for name in wanted))
    for name in (CONSISTENCY, CONSISTENCY_PAGE, CONSISTENCY_FIGURE) if wanted else ():  # of what was there before
        (data.root / name).unlink(missing_ok=True)
    return bool(wanted)


def sum_up(
    data: SyntheticSet, members: list[AnnotatorRun], annotator: Annotator, folder: AnnotationFolder,
    num_replicates: int, seed: int,
) -> dict[str, float]:  # fmt: skip
    """Write annotation.json and the consistency of the set; returns the figures."""
    whole = folder.finish()
    say(heading("consistency"))
    real = real_images(members, annotator.findings)
    paths = [folder.shard(name) for name in folder.names]
    found = measure(data, paths, annotator.findings, real, whole["thresholds"], num_replicates, seed)
    write(found, data, whole, real, num_replicates, seed)
    say(table(found))
    return {"num_images": whole["num_images"], **numbers(found)}


def table(found: Found) -> str:
    """AUROC of every finding for the terminal: of synthetic images, and the ceiling."""
    lines = [f"  {'AUROC (95 % interval)':<30}{'images':>9}{'synthetic':>24}{'own test, the ceiling':>24}"]
    synthetic, real = found.aurocs()
    for name, one in synthetic.items():
        lines.append(f"  {name:<30}{one.num_images:>9,}{one!s:>24}{real.get(name, '')!s:>24}")
    whys = [f"{name}: {one.why}" for name, one in synthetic.items() if one.why]
    if whys:
        lines.append(f"  undefined: {'; '.join(whys)}")
    return "\n".join(lines)
