"""`+exp=synthesize`: a generator's checkpoint and a plan to a labelled set of images, stopped and gone on at will."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hydra.utils import instantiate
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm

from callbacks.files import printable
from callbacks.shard_writer import GB, ImageEncoder, ShardWriter
from callbacks.shared_work import SharedWork
from callbacks.shutdown import PredictionShutdown
from datamodules.errors import UserError
from datamodules.findings import NAMES
from datamodules.plan.laws import LabelRows, Law
from datamodules.plan.rows import PlanDataModule
from datamodules.synthetic import SyntheticSet
from datamodules.synthetic.counts import acceptance, condition_counts
from datamodules.synthetic.layout import PLAN, TRAINED_ON
from datamodules.synthetic.lineage import write_trained_on
from datamodules.synthetic.plan import Plan, write_plan
from datamodules.synthetic.set import clear_unfinished, is_begun
from experiments.card.writing import write_card
from experiments.loading import load_generator
from experiments.prediction import encoding_threads, predict, trainer_of
from experiments.report import heading, parameters_text, say
from experiments.reports.cards import check_licence
from experiments.session import Run
from experiments.synthesis.dry_run import dry_run
from experiments.synthesis.filtering import agreement_facts, build_agreement, build_mask_filter
from experiments.synthesis.levels import accepted_text, levels_text
from experiments.synthesis.recipe import (
    Generator,
    generator_facts,
    image_size_of,
    keep_to,
    make_recipe,
    shards_of,
)
from lightning_modules.checkpoint import best_of_run
from lightning_modules.gan import PairGAN
from lightning_modules.latent_sampling import Sampling
from lightning_modules.synthesizer import Synthesizer

NUM_READERS = 4  # threads that look at what is there

INTERVALS = ("guidance_interval", "classifier_interval")


def synthesize(run: Run) -> dict[str, float]:
    """Write the plan, make the shards that are missing, and the manifest; returns what was counted."""
    cfg, root, _ = run.cfg, run.output_dir, run.world_size  # a Trainer tells this process its rank
    check_kinds(run)
    if cfg.job.license is not None:
        check_licence(cfg.job.license)
    generator, law = generator_of(run), instantiate(cfg.plan)
    encoder = ImageEncoder(cfg.job.image_format, cfg.job.image_quality)
    asked = dict(run.job["filter"])
    max_attempts, of_masks = asked.pop("max_attempts"), {name: asked.pop(name) for name in ("segmenter", "least_dice")}
    agreement = build_agreement(**asked, trusted=run.job["trusted"])
    mask_filter = build_mask_filter(**of_masks, generator=generator, trusted=run.job["trusted"])
    synthesizer = Synthesizer(generator, agreement, max_attempts, cfg.job.image_size, mask_filter)
    announce(generator, cfg.ckpt)
    if cfg.job.dry_run:
        return dry_run(run, synthesizer, law, seen(generator), encoder)
    work = SharedWork(root, "synthesis")
    take_over(root, work)
    found = begin(run, generator, law, synthesizer)  # what is wrong with a plan is said before there is a run
    with run.recorded() as record:
        metrics = make(run, found, synthesizer, encoder, work)
        if run.is_first:
            metrics |= finish(found, cfg.job.license)
            record.finish("finished", metrics)
            work.clear()
    run.end(metrics)
    say(f"annotate it:  python -m experiments.run +exp=annotate job.dataset={root} job.annotators=[<run>]")
    return metrics


def check_kinds(run: Run) -> None:
    """See that what is null by default is of the right kind where it is given.

    Raises:
        ValueError: it is not; names the key.
    """
    wholes = ("num_images", "job.images_per_shard", "job.image_size", "job.image_quality", "job.num_steps")
    for key in (*wholes, "job.guidance", "job.guidance_rescale", "job.classifier_scale"):
        value = run.job[key.removeprefix("job.")] if key.startswith("job.") else run.config[key]
        fits = isinstance(value, int) or (key not in wholes and isinstance(value, float))
        if value is not None and (isinstance(value, bool) or not fits):
            raise UserError(f"{key}={value} must be a {'whole ' if key in wholes else ''}number.")
    for name in INTERVALS:
        interval = run.job[name]
        if interval is not None and not (isinstance(interval, list) and len(interval) == 2):
            raise UserError(f"job.{name}={interval} must be two fractions, as [0.0, 0.8].")


def generator_of(run: Run) -> Generator:
    """The generator of `ckpt`, to sample as `job` says.

    Raises:
        ValueError: no checkpoint, one of another kind, or a sampling that means nothing.
    """
    cfg, job = run.cfg, run.job
    if not cfg.ckpt:
        raise UserError("ckpt is not given: name the checkpoint of a generator, ckpt=<run>/checkpoints/last.ckpt.")
    cfg.ckpt = str(best_of_run(cfg.ckpt))
    generator, known = load_generator(cfg.ckpt, job["trusted"]), Sampling().settings(has_guide=False)
    asked = {name: job[name] for name in known if job[name] is not None}
    asked |= {name: tuple(value) for name, value in asked.items() if isinstance(value, list)}
    generator.sample_by(**asked)
    return generator


def announce(generator: Generator, ckpt: str) -> None:
    """Say what is going to be made, and by what."""
    say(heading("generator"))
    say(f"{ckpt}, {image_size_of(generator)} px")
    is_gan = isinstance(generator, PairGAN)
    parts = {} if is_gan else {"autoencoder": generator.autoencoder}
    say(parameters_text({**parts, "generator" if is_gan else "denoiser": generator.network}))
    sampling = ", ".join(f"{name} {value}" for name, value in generator.sampling.items()) or "in one pass"
    say(f"sampling:     {sampling}")


def take_over(root: Path, work: SharedWork) -> None:
    """On the first process: see that nobody is at work any more, and take away what killed ones have left."""
    if rank_zero_only.rank == 0:
        work.begin()
        clear_unfinished(root)


def begin(run: Run, generator: Generator, law: Law, synthesizer: Synthesizer) -> SyntheticSet:
    """Plan and recipe, written by the first process or there already."""
    cfg, root, job = run.cfg, run.output_dir, run.cfg.job
    if not run.is_first:
        return SyntheticSet(root)
    say(heading("plan"))
    if not (root / "config.yaml").is_file():
        run.write_config()
    shards_of(1, job.images_per_shard, job.images_per_row_group)  # what means nothing is said before a plan is written
    if not is_begun(root):  # a plan without one is left of a start that came to nothing
        write_plan(root / PLAN, law.chunks(cfg.num_images, cfg.seed, seen(generator)), cfg.seed)
    elif not (root / PLAN).is_file():
        raise UserError(f"{root / PLAN} is gone, by which the set was begun. Remedy: put it back, or begin anew.")
    plan = Plan(root / PLAN)
    check_masks(plan, generator)
    image = {"format": job.image_format, "quality": job.image_quality,
             "size": job.image_size or image_size_of(generator)}  # fmt: skip
    shards = shards_of(plan.num_images, job.images_per_shard, job.images_per_row_group)
    recipe = make_recipe(
        generator_facts(generator, cfg.ckpt), plan, {**law.describe(), "num_images": cfg.num_images},
        generator.sampling, image, shards, agreement_facts(synthesizer), cfg.seed,
    )  # fmt: skip
    found = keep_to(root, recipe)
    patients = (generator.trained_on or {}).get("patients")
    found.reopen()
    if job.carry_patients and patients is not None and not (root / TRAINED_ON).is_file():
        write_trained_on(root / TRAINED_ON, patients.numpy(), (generator.trained_on or {}).get("unknown", ()))
    say(f"{plan.num_images:,} images in {shards['num_shards']} shards: {root / PLAN}")
    say(levels_text(condition_counts(plan)))
    return found


def check_masks(plan: Plan, generator: Generator) -> None:
    """See that a plan has masks where the generator paints images for them, of the size of its images.

    Raises:
        UserError: it is not so.
    """
    wants = generator.takes_masks
    if wants and not plan.has_masks:
        raise UserError(
            "the generator paints images for masks, and the plan has none. Remedy: plan=masks, with data=<one with "
            "masks>."
        )
    if plan.has_masks and not wants:
        how = "makes masks of its own" if generator.mask_levels else "was trained without masks"
        raise UserError(f"{plan.path} has masks, and the generator {how}. Remedy: another plan, such as plan=training.")
    if plan.has_masks and plan.mask_size != generator.image_size:
        raise UserError(
            f"{plan.path}: its masks have {plan.mask_size} pixels along a side, and the generator makes images of "
            f"{generator.image_size}. Remedy: data.image_size={generator.image_size}, in a new output_dir."
        )


def seen(generator: Generator) -> LabelRows | None:
    """The labels that a generator was trained on, where its checkpoint holds them, of all findings."""
    facts = generator.trained_on or {}
    if "labels" not in facts:
        return None
    number = facts["labels"].shape[1]
    if number != len(NAMES):
        say(
            f"note: the checkpoint holds training labels of {number} findings, and {len(NAMES)} are known here: no "
            "plan is made by them. Remedy: plan=table plan.path=<table>."
        )
        return None
    return LabelRows(facts["labels"].numpy(), facts["counts"].numpy())


def missing(found: SyntheticSet, thorough: bool) -> list[int]:
    """Numbers of the shards that are to be made; those at fault are named, and removed."""
    there = [number for number, shard in enumerate(found.shards) if shard.is_file()]
    wanted = set(range(len(found.names))) - set(there)
    with ThreadPoolExecutor(NUM_READERS) as threads:
        faults = threads.map(lambda number: found.wrong_with(found.names[number], thorough), there)
        bar = tqdm(faults, unit=" shards", desc="checking what is there", total=len(there), disable=not there)
        for number, fault in zip(there, bar, strict=True):
            if fault is not None:
                shard = found.shards[number]
                tqdm.write(printable(f"{shard}: {fault}. It is made again."))
                shard.unlink()
                wanted.add(number)
    return sorted(wanted)


def make(
    run: Run, found: SyntheticSet, synthesizer: Synthesizer, encoder: ImageEncoder, work: SharedWork
) -> dict[str, float]:
    """Make the shards that are missing; the first process returns what all made, and how fast.

    Raises:
        KeyboardInterrupt: it was told to stop.
    """
    cfg, num_processes = run.cfg, run.world_size
    bounds = [found.bounds(number) for number in range(len(found.names))]
    if rank_zero_only.rank == 0:
        wanted = missing(found, cfg.job.verify)
        if not wanted and num_processes == 1:
            return {}
        work.hand_out(wanted, sum(bounds[number][1] - bounds[number][0] for number in wanted))
    say(heading(f"synthesis: {work.num_images:,} of {found.num_images:,} images are to be made"))
    rows = found.recipe["shards"]["images_per_row_group"]
    levels = synthesizer.generator.mask_levels
    writer = ShardWriter(found.root, found.places, NAMES, encoder, found.id_prefix, rows, encoding_threads(run), levels)
    data = PlanDataModule(found.plan, bounds, work.items, cfg.job.batch_size)
    trainer = trainer_of(run, [writer, work, PredictionShutdown()])
    predict(trainer, synthesizer, data)
    metrics = {**work.speed(trainer), "num_processes": num_processes}
    if writer.num_images:
        metrics["writing_share"] = writer.seconds / work.seconds
    return metrics


def finish(found: SyntheticSet, license: str | None) -> dict[str, float]:
    """The manifest, the card, and what the whole set has."""
    manifest = found.complete()
    say(f"complete: {manifest['num_images']:,} images, {manifest['num_bytes'] / GB:.3g} GB")
    say(f"card:         {write_card(found.root, license)}")
    counted = {"num_images": manifest["num_images"], "num_bytes": manifest["num_bytes"]}
    if found.recipe["filter"] is None:
        return counted
    filtered = acceptance(found.shards, found.recipe["filter"]["findings"])
    shares = {"accepted_share": filtered.num_accepted, "accepted_at_once": filtered.num_at_once,
              "attempts": filtered.num_drawn}  # fmt: skip
    counted |= {name: number / filtered.num_images for name, number in shares.items()}
    say(f"accepted: {counted['accepted_share']:.1%} of the images, after {counted['attempts']:.2f} attempts an image")
    say(accepted_text(filtered.levels))
    return counted
