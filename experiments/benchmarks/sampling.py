"""`job.case=sampling`: a generator's own way of sampling against plain DDIM, by time, distance and agreement.

The generator is `ckpt`, the data those that it learnt from. Both ways use the same weights, labels and seeds. The
reference, `job.reference`, is DDIM in 50 steps with classifier-free guidance alone. Time is of sampling and decoding in
batches of `data.batch_size`, by turns; the Fréchet distance is that of the images as they are made, with guidance, and
so another figure than that of a training run, which leaves guidance out.
"""

from collections.abc import Mapping
from typing import Any

import lightning as L
from torch import Tensor

from experiments.benchmarks.common import FILE, circumstances, spread, write_figures
from experiments.benchmarks.generators import generator_of, measures_of, said, trainer_with_data
from experiments.report import heading, say
from experiments.run_time import now
from experiments.session import Run
from lightning_modules.latent_diffusion import LatentDiffusion

GUIDANCE = 1.5  # of the reference, where the generator itself has none


def compare_sampling(run: Run) -> dict[str, float]:
    """Take `num_turns` pairs of turns, after one to warm up, measure both ways; writes benchmark.json.

    Raises:
        ValueError: no generator, data of another size than it makes, or a reference that means nothing.
    """
    generator, cfg, output_dir = generator_of(run), run.cfg, run.output_dir
    ways = {
        "ours": dict(generator.sampling),
        "reference": reference(generator.sampling, run.job["reference"]),
    }
    for settings in ways.values():
        generator.sample_by(**settings)  # what means nothing is said now
    trainer = trainer_with_data(run, generator)
    with run.recorded() as record:
        figures = compared(run, generator, trainer, ways)
        facts = {name: cfg.job[name] for name in ("num_turns", "num_images", "num_real")}
        everything = {"case": "sampling", "ckpt": str(cfg.ckpt), **figures, **facts, **circumstances(run, generator)}
        write_figures(output_dir, everything)
        metrics = {"benchmark/times_faster": figures["times_faster"]["median"]}
        record.finish("finished", metrics)
    say("\n".join([heading("done"), table(figures), f"everything:   {output_dir / FILE}"]))
    return metrics


def reference(own: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `sample_by` for the reference: no guide, guidance in all steps, the generator's own precision.

    Args:
        own: the generator's sampling.
        wanted: scheduler, num_steps, guidance; guidance null is the generator's if it has any, else 1.5.
    """
    guidance = wanted["guidance"]
    if guidance is None:
        guidance = GUIDANCE if own["guidance"] == 1 else own["guidance"]
    plainly = {"classifier_scale": 0.0, "guidance_interval": (0.0, 1.0), "guidance_rescale": 0.0}
    return {"scheduler": wanted["scheduler"], "num_steps": wanted["num_steps"], "guidance": guidance, **plainly}


def compared(
    run: Run, generator: LatentDiffusion, trainer: L.Trainer, ways: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Of each way its settings, seconds an image, distance and agreement; and how many times faster ours is."""
    job, batch_size = run.cfg.job, run.cfg.data.batch_size
    measures = measures_of(run, trainer)
    labels = trainer.datamodule.labels("train")[:batch_size]
    say(heading(f"{job.num_turns} pairs of turns of {len(labels)} images, after one to warm up"))
    seconds = timed(generator, ways, labels, job.num_turns)
    found: dict[str, Any] = {}
    for name, settings in ways.items():
        say(f"{name}: distance and agreement of {job.num_images} images")
        figures = measures.of(generator, settings)
        found[name] = {"sampling": dict(generator.sampling), "seconds_per_image": spread(seconds[name]), **figures}
    ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["reference"], strict=True)]
    return {"times_faster": spread(ratios), **found, **measures.facts()}


def timed(
    generator: LatentDiffusion, ways: Mapping[str, Mapping[str, Any]], labels: Tensor, num_turns: int
) -> dict[str, list[float]]:
    """Seconds an image of each way, a value a turn; the ways take turns, and the first of each is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(num_turns + 1):
        for name, settings in ways.items():
            generator.sample_by(**settings)
            start = now()
            generator.sample(labels.to(generator.device), range(len(labels)))
            seconds[name].append((now() - start) / len(labels))
    return {name: values[1:] for name, values in seconds.items()}


def table(figures: Mapping[str, Any]) -> str:
    """A line a way, and how many times faster ours is."""
    distance, lines = figures["distance"], []
    for name in ("ours", "reference"):
        row = figures[name]
        sampling, seconds = row["sampling"], row["seconds_per_image"]
        how = f"{sampling['scheduler']} {sampling['num_steps']}, guidance {sampling['guidance']:g}"
        if sampling["classifier_scale"]:
            how += f", guide {sampling['classifier_scale']:g}"
        took = f"{seconds['median']:.4g} ({seconds['min']:.4g} to {seconds['max']:.4g})"
        lines.append(f"  {name:<12}{how:<40}{took:<32}{row[distance]:<12.4g}{said(row['agreement'])}")
    faster = figures["times_faster"]
    head = f"  {'':<12}{'sampling':<40}{'seconds an image':<32}{'distance':<12}agreement"
    return "\n".join([
        head, *lines,
        f"  times faster: {faster['median']:.3g} ({faster['min']:.3g} to {faster['max']:.3g})",
        f"  distance: {distance}; agreement of real validation images: {said(figures['agreement_real'])}",
    ])  # fmt: skip
