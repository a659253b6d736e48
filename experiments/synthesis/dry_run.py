"""What a plan would take: a few batches are made, written and thrown away."""

import datetime
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.flop_counter import FlopCounterMode

from callbacks.shard_writer import GB, ImageEncoder, ShardWriter
from datamodules.errors import UserError
from datamodules.findings import NAMES
from datamodules.plan.laws import LabelRows, Law
from datamodules.plan.rows import PlanDataModule
from datamodules.synthetic.counts import condition_counts
from datamodules.synthetic.layout import PLAN, shard_places
from datamodules.synthetic.plan import Plan, write_plan
from experiments.prediction import encoding_threads, predict, trainer_of
from experiments.report import heading, say
from experiments.session import Run
from experiments.synthesis.levels import levels_text
from lightning_modules.diffusion.sampling import build_scheduler, set_timesteps
from lightning_modules.gan import PairGAN
from lightning_modules.latent_diffusion import LatentDiffusion
from lightning_modules.synthesizer import Synthesizer


def dry_run(
    run: Run, synthesizer: Synthesizer, law: Law, seen: LabelRows | None, encoder: ImageEncoder
) -> dict[str, float]:
    """Make a few batches and say what the whole plan would take; writes nothing into the run's folder.

    Args:
        seen: the labels that the generator was trained on, for the law.
    """
    cfg, job = run.cfg, run.cfg.job
    if job.num_dry_batches < 1:
        raise UserError(f"job.num_dry_batches={job.num_dry_batches} must be at least 1.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PLAN
        write_plan(path, law.chunks(cfg.num_images, cfg.seed, seen), cfg.seed)
        plan, processes = Plan(path), run.world_size
        say(heading(f"plan: {plan.num_images:,} images"))
        say(levels_text(condition_counts(plan)))
        if plan.num_images < 2:
            raise UserError("a dry run needs a plan of 2 images or more: the first batch is not timed.")
        size = min(job.batch_size, plan.num_images // 2)
        first = (0, min(size * (job.num_dry_batches + 1), plan.num_images))
        data = PlanDataModule(plan, [first] * processes, lambda: range(processes), size)
        rate, work = Rate(), operations(synthesizer.generator)
        say(heading("dry run"))
        places = shard_places(Path(folder), processes)
        levels = synthesizer.generator.mask_levels
        writer = ShardWriter(folder, places, NAMES, encoder, "dry-", 100, encoding_threads(run), levels)
        predict(trainer_of(run, [writer, rate]), synthesizer, data)
        each = sum(shard.stat().st_size for shard, _ in places if shard.is_file()) / first[1]
    say(estimate_text(rate, work, each, encoder.format, plan.num_images, processes, run.output_dir))
    return {"images_per_second": rate.num_images / rate.seconds * processes}


class Rate(Callback):
    """Times batches, the first left out: it warms up. Put it behind the writer.

    Attributes:
        num_images: of the batches that are timed.
        seconds: they took, writing included.
        num_attempts: that were drawn for them.
    """

    def __init__(self) -> None:
        self.num_images = self.num_attempts = 0
        self.seconds = 0.0
        self._start = 0.0

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Mapping[str, Any], batch: Mapping[str, Any],
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Count; start the clock with the first."""
        if batch_idx == 0:
            self._start = time.perf_counter()
        else:
            self.num_images += len(outputs["seed"])
            self.num_attempts += int(outputs["attempts"].sum())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self.seconds = time.perf_counter() - self._start


def operations(generator: LatentDiffusion | PairGAN) -> float:
    """Floating-point operations of one image: those of one step and of two tell what each further step takes."""
    if isinstance(generator, PairGAN):
        return _operations(generator)
    sampling = dict(generator.sampling)
    try:
        generator.sample_by(guidance_interval=(0.0, 1.0), classifier_scale=0.0)
        first, guided = _operations(generator, 1, None), _operations(generator, 2, None)
        plain = _operations(generator, 2, 1.0) - _operations(generator, 1, 1.0)
    finally:
        generator.sample_by(**sampling)
    num_guided = num_guided_steps(generator, "guidance_interval")
    of_decoding = first - (guided - first)
    of_steps = num_guided * (guided - first) + (sampling["num_steps"] - num_guided) * plain
    return of_decoding + of_steps + _of_classifier(generator)


def _of_classifier(generator: LatentDiffusion) -> float:
    """Those of the gradients of a classifier that guides: one is a pass forwards, and another back to the latents."""
    guide = generator.ema.network.guide
    if not generator.sampling["classifier_scale"]:
        return 0.0
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        x_t = torch.zeros(1, *generator.latent_shape, device=generator.device)
        guide(x_t, torch.zeros(1, device=generator.device))
    return 2.0 * counter.get_total_flops() * num_guided_steps(generator, "classifier_interval")


def num_guided_steps(generator: LatentDiffusion, interval: str) -> int:
    """Steps of sampling whose timesteps lie in an interval of its settings."""
    num_steps = generator.sampling["num_steps"]
    scheduler = build_scheduler(generator.sampling["scheduler"], generator.objective, num_steps)
    set_timesteps(scheduler, num_steps, generator.sampling["spacing"])
    last = generator.objective.schedule.num_timesteps - 1
    low, high = (bound * last for bound in generator.sampling[interval])
    return sum(low <= float(timestep) <= high for timestep in scheduler.timesteps)


def _operations(
    generator: LatentDiffusion | PairGAN, num_steps: int | None = None, guidance: float | None = None
) -> float:
    with FlopCounterMode(display=False) as counter:
        generator.sample(generator.network.conditioning.unknown(1), [0], num_steps, guidance)
    return counter.get_total_flops()


def estimate_text(
    rate: Rate, work: float, each: float, format: str, num_images: int, num_processes: int, root: Path
) -> str:
    """Rate, hours and bytes of the whole plan, for people; an image takes `work` operations and `each` bytes."""
    a_second = rate.num_images / rate.seconds * num_processes
    while not root.exists():
        root = root.parent
    free = shutil.disk_usage(root).free
    hours = datetime.timedelta(seconds=round(num_images / a_second))
    needed = num_images * each
    lines = [
        f"  rate           {a_second:.3g} images a second on {num_processes} process(es), "
        f"measured on {rate.num_images} images",
        f"  an image       {each / 1000:.3g} kB as {format}; {work / 1e12:.3g} TFLOP, "
        f"so {work * a_second / 1e12:.3g} TFLOP/s",
        f"  attempts       {rate.num_attempts / rate.num_images:.3g} an image",
        f"  whole plan     {num_images:,} images: {num_images / a_second / 3600:.3g} hours ({hours}), "
        f"{needed / GB:.3g} GB",
        f"  free           {free / GB:.3g} GB on the disk of {root}",
    ]
    if needed > free:
        lines.append("  The disk has no room for all of it: free space, or write jpeg or webp (job.image_format).")
    return "\n".join(lines)
