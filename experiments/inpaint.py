"""`+exp=inpaint`: regions of real or generated images painted anew by a generator, as pairs of image and mask."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from callbacks.files import write_json
from callbacks.isolation import to_uint8
from callbacks.metrics.estimate import Estimate
from datamodules.errors import UserError
from datamodules.fundus import FundusDataModule
from datamodules.manifest import SPLITS
from datamodules.synthetic.lineage import patient_codes
from experiments.assembly import build_datamodule
from experiments.decoded import decoded_rows, read_all
from experiments.inpainting.copies import check_copies
from experiments.inpainting.requests import Regions, Request, pixels_of, stored
from experiments.inpainting.writing import TABLE, sheet, write_pair, write_sheet, write_table
from experiments.loading import load_generator
from experiments.report import data_text, heading, say
from experiments.session import Run
from lightning_modules.checkpoint import best_of_run
from lightning_modules.latent_diffusion import LatentDiffusion
from lightning_modules.latent_inpainting import Inpainting
from lightning_modules.names import check_name
from lightning_modules.randomness import stable_seed

JSON, SHEET, SHOWN = "inpainting.json", "pairs.png", 12
SAMPLING = ("scheduler", "num_steps", "guidance", "precision")


class Painted(NamedTuple):
    """A pair: image before and after uint8 [S, S, 3], mask uint8 [S, S], and its region before and after dilation."""

    source: np.ndarray
    image: np.ndarray
    mask: np.ndarray
    target: np.ndarray
    where: np.ndarray


def inpaint(run: Run) -> dict[str, float]:
    """Paint, write the pairs with a table and a sheet, and look for copies of real regions; returns the figures.

    Raises:
        UserError: a checkpoint of no generator with masks; data without masks, or with others; nothing to paint.
    """
    generator = generator_of(run.cfg.ckpt, run.job)
    run = run.but({"data": {"image_size": generator.image_size}})
    job, seed = run.job, run.cfg.seed
    inpainting, radius = settings_of(job, generator.image_size)
    datamodule = build_datamodule(run.cfg)
    levels = painted_levels(job["levels"], datamodule.source, generator)
    with run.recorded() as record:
        say(heading(f"data: {datamodule.source.name}"))
        say(data_text(datamodule.preview()))
        read_all(datamodule, run.output_dir)
        regions = regions_of(datamodule, job, levels, radius)
        say(whose_generator(datamodule, generator))
        requests, num_skipped = regions.requests(job["num_per_image"], job["max_images"], seed)
        say(heading(f"inpainting: {len(requests):,} pairs"))
        shown, compared = chosen(len(requests), job["max_compared"], seed)
        kept, sizes = paint(run, generator.to(run.device), regions, requests, inpainting, {*shown, *compared})
        labels = regions.asked(requests).numpy()
        write_table(run.output_dir / TABLE, requests, regions.seen, labels, sizes, datamodule.source.name)
        ids, patients = regions.seen.table.column("id").to_pylist(), regions.seen.patients
        picture = sheet(
            [kept[n] for n in shown], [ids[requests[n].row] for n in shown], len(generator.network.masks.levels)
        )
        say(f"sheet:        {write_sheet(run.output_dir, SHEET, picture)}")
        found = check_copies(datamodule, run.output_dir, [kept[n] for n in compared],
                             [patients[requests[n].row] for n in compared], job["max_held_out"], seed)  # fmt: skip
        facts = {"num_pairs": len(requests), "num_skipped": num_skipped, "dilation": radius, "mask": job["mask"],
                 "feather": inpainting.feather, "ckpt": str(run.cfg.ckpt), "data": datamodule.fingerprint}  # fmt: skip
        write_json(run.output_dir / JSON, facts | {"copies": {name: one.json() for name, one in found.items()}})
        metrics = {f"copies/{name}": one.value for name, one in found.items()} | {"num_pairs": float(len(requests))}
        record.finish("finished", metrics)
    say(summary(len(requests), num_skipped, found))
    run.end(metrics)
    return metrics


def generator_of(ckpt: str | None, job: dict[str, Any]) -> LatentDiffusion:
    """The generator, to sample as the job says.

    Raises:
        UserError: none is given, or it was trained without masks.
    """
    if not ckpt:
        raise UserError("ckpt is not given: name the checkpoint of a generator, ckpt=<run>/checkpoints/last.ckpt.")
    generator = load_generator(best_of_run(ckpt), job["trusted"])
    if not isinstance(generator, LatentDiffusion) or generator.network.masks is None:
        raise UserError(
            f"ckpt={ckpt} is not of a latent diffusion model that was trained with masks. Remedy: a generator of "
            "+exp=ddpm_train model/masks=condition, or model/masks=joint."
        )
    generator.sample_by(**{name: job[name] for name in SAMPLING if job[name] is not None})
    return generator


def settings_of(job: dict[str, Any], image_size: int) -> tuple[Inpainting, int]:
    """How regions are painted, and by how many pixels they are dilated.

    Raises:
        UserError: a number that means nothing; a feather that would let what is to vanish shine through.
    """
    for name in ("num_per_image", "max_images", "batch_size", "max_compared"):
        if job[name] is not None and (type(job[name]) is not int or job[name] < 1):
            raise UserError(f"job.{name}={job[name]} must be a whole number of at least 1.")
    radius = pixels_of(job["dilation"], image_size, "job.dilation")
    feather = radius // 2 if job["feather"] is None else pixels_of(job["feather"], image_size, "job.feather")
    if feather > radius:
        raise UserError(
            f"job.feather={job['feather']} is {feather} pixels, and job.dilation={job['dilation']} only {radius}: what "
            "the mask shows would be blended with what is painted. Remedy: no more than the dilation."
        )
    return Inpainting(job["jump_length"], job["num_resamples"], feather, job["style"]), radius


def painted_levels(names: Sequence[str] | None, source: Any, generator: LatentDiffusion) -> list[int]:
    """Numbers of the levels whose regions are painted: those named, or all but the background.

    Raises:
        UserError: data whose masks the generator does not know; a level that there is not.
    """
    known, there = list(generator.network.masks.levels), list(getattr(source, "mask_levels", ()))
    if known != there:
        raise UserError(
            f"the masks of {source.name} have the levels {', '.join(there) or 'none'}, and those of the generator "
            f"{', '.join(known)}. Remedy: data with the masks that it was trained on."
        )
    return [known.index(check_name("job.levels", name, known[1:])) for name in names or known[1:]]


def regions_of(datamodule: FundusDataModule, job: dict[str, Any], levels: list[int], radius: int) -> Regions:
    """The images of `job.split` and what is painted in them.

    Raises:
        UserError: a split that is none, or empty; images without any mask.
    """
    splits = SPLITS if job["split"] is None else (check_name("job.split", job["split"], SPLITS),)
    seen, images, masks = decoded_rows(datamodule, splits)
    if masks is None:
        raise UserError(f"no image of {datamodule.source.name} comes with a mask. Remedy: data with masks.")
    return Regions(seen, images, masks, levels, job["mask"], radius, job["labels"])


def whose_generator(datamodule: FundusDataModule, generator: LatentDiffusion) -> str:
    """In words, whether the training split that is looked through for copies is that of the generator."""
    known = (generator.trained_on or {}).get("patients")
    if known is None:
        return "note: the checkpoint does not say whose photographs trained it: copies are sought in the training split"
    codes = np.unique(np.concatenate([patient_codes(manifest.select("train"), source)
                                      for source, manifest in datamodule.parts()]))  # fmt: skip
    shared = int(np.isin(codes, known.numpy().view(np.uint64)).sum())
    return f"copies are sought in the training split: {shared} of its {len(codes)} patients trained the generator"


def chosen(number: int, max_compared: int, seed: int) -> tuple[list[int], list[int]]:
    """Which of the pairs are shown, evenly spread, and which are compared with real images, at random."""
    shown = np.unique(np.linspace(0, number - 1, min(SHOWN, number)).astype(int))
    rng = np.random.default_rng(stable_seed("copies", seed))
    return shown.tolist(), np.sort(rng.permutation(number)[:max_compared]).tolist()


def paint(
    run: Run,
    generator: LatentDiffusion,
    regions: Regions,
    requests: Sequence[Request],
    inpainting: Inpainting,
    keep: Collection[int],
) -> tuple[dict[int, Painted], list[int]]:
    """Paint and write all pairs; returns those of these numbers, and the pixels of every region."""
    kept, sizes = {}, []
    with tqdm(total=len(requests), desc="inpainting", unit="pair", mininterval=0.5) as bar:
        for number, pair in enumerate(painted(generator, regions, requests, inpainting, run.job["batch_size"])):
            write_pair(run.output_dir, number, pair.image, pair.mask, pair.where)
            sizes.append(int(pair.where.sum()))
            if number in keep:
                kept[number] = pair
            bar.update()
    return kept, sizes


def painted(
    generator: LatentDiffusion, regions: Regions, requests: Sequence[Request], inpainting: Inpainting, size: int
) -> Iterator[Painted]:
    """All pairs, made in batches of `size`."""
    for start in range(0, len(requests), size):
        some = requests[start : start + size]
        batch = regions.batch(some)
        found = generator.inpaint(batch.images, batch.where, batch.condition, [each.seed for each in some], inpainting)
        before, after = (to_uint8(images).permute(0, 2, 3, 1).cpu().numpy() for images in (batch.images, found.images))
        masks = stored(found.masks).cpu().numpy()
        yield from map(Painted, before, after, masks, batch.target.numpy(), batch.where.numpy())


def summary(num_pairs: int, num_skipped: int, found: dict[str, Estimate]) -> str:
    """What was made, for people."""
    lines = [f"{num_pairs:,} pairs; {num_skipped:,} images have no region that can be painted"]
    lines += [f"{name:<18}{one}{f' ({one.why})' if one.why else ''}" for name, one in found.items()]
    return "\n".join([heading("copies of real regions"), *(f"  {line}" for line in lines)])
