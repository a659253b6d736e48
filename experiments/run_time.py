"""How long a training of a generator is going to take, by a few steps that are timed; said before anything heavy."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from os import cpu_count
from pathlib import Path
from typing import Any

import torch

from callbacks.agreement import LabelAgreement
from callbacks.fid import FrechetDistance
from datamodules.cache_files import CacheError
from datamodules.cache_workers import LEAST_PER_WORKER
from datamodules.field_of_view import NotAFundusError
from datamodules.fundus import FundusDataModule
from datamodules.image_mask_cache import ImageMaskCache
from datamodules.images import ImageError
from datamodules.mixed import SYNTHETIC
from datamodules.streaming import ShardDataModule
from experiments.assembly import build_autoencoder
from experiments.autoencoders import existing_autoencoder
from experiments.session import Run
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.blocks import prepare_blocks
from lightning_modules.latent_diffusion import LatentDiffusion
from lightning_modules.ranks import RankSlice

NUM_TIMED, NUM_READ, NUM_SAMPLED = 3, 8, 16

Measuring = FrechetDistance | LabelAgreement
Context = Callable[[], AbstractContextManager]


def expectation(
    run: Run,
    module: LatentDiffusion,
    callbacks: Sequence[Any],
    datamodule: FundusDataModule,
    summary: Mapping[str, Any],
) -> str:
    """What is expected, in a line; that it is not known where a step cannot be tried on one device alone.

    Args:
        module: not trained yet, on the CPU, where it is again afterwards; it is let go of.
        datamodule: not read yet; `summary` is what its `preview` says.
    """
    trainer = run.trial
    if hasattr(trainer.strategy, "shard") or "DeepSpeed" in type(trainer.strategy).__name__:
        return "expected:     not known, since weights are spread over the processes"
    device = trainer.strategy.root_device
    try:
        seconds = expected_seconds(run, module.to(device), callbacks, datamodule, summary)
    except torch.OutOfMemoryError:
        return "expected:     not known, since a step did not fit into memory beside what is there before training"
    finally:
        for part in (module, *(callback.extractor for callback in callbacks if isinstance(callback, Measuring))):
            part.cpu()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    parts = ", ".join(f"{name} {value / 60:.1f}" for name, value in seconds.items())
    minutes = sum(seconds.values()) / 60
    return (
        f"expected:     about {minutes:.{0 if minutes > 2 else 1}f} minutes with nothing else on the machine ({parts})"
    )


def expected_seconds(
    run: Run,
    module: LatentDiffusion,
    callbacks: Sequence[Any],
    datamodule: FundusDataModule,
    summary: Mapping[str, Any],
) -> dict[str, float]:
    """Seconds of each part of a run: reading, autoencoder, denoiser, evaluation; processes do not wait for another."""
    cfg, world_size, context = run.cfg, run.world_size, run.trial.precision_plugin.forward_context
    epoch_size, limit = cfg.data.epoch_size, cfg.trainer.get("limit_train_batches", 1.0)
    numbers = {name: split["num_images"] for name, split in summary["splits"].items() if name != SYNTHETIC}
    found = {"reading": reading_seconds(datamodule, sum(numbers.values()))}
    if not existing_autoencoder(cfg.autoencoder.pretrained, cfg.ckpt):
        batch_size, name = cfg.autoencoder.batch_size, "autoencoder"
        if any((Path(cfg.cache_dir) / "autoencoders").glob("*.ckpt")):
            name += " (unless it is in the cache)"
        autoencoder = build_autoencoder(cfg).to(module.device)
        prepare_blocks(autoencoder.network, cfg.activation_checkpointing, False)
        steps = steps_of_an_epoch(epoch_size or numbers["train"], batch_size * world_size, limit)
        steps *= cfg.autoencoder.max_epochs
        found[name] = steps * timed(autoencoder_step(autoencoder, batch_size, cfg.data.image_size, context))
    prepare_blocks(module.network.denoiser, cfg.activation_checkpointing, False)
    an_epoch = steps_of_an_epoch(epoch_size or numbers["train"], cfg.data.batch_size * world_size, limit)
    accumulated = cfg.trainer.accumulate_grad_batches or 1
    epochs = num_epochs(an_epoch / accumulated, cfg.trainer.max_epochs, cfg.trainer.max_steps)
    found["denoiser"] = epochs * an_epoch * timed(denoiser_step(module, cfg.data.batch_size, context))
    measuring = [callback for callback in callbacks if isinstance(callback, Measuring)]
    found["evaluation"] = sum(evaluation_seconds(module, callback, epochs) for callback in measuring) / world_size
    if measuring:  # the features of real images, which all of them share
        num_real = max(callback.num_real or numbers["train"] for callback in measuring)
        found["evaluation"] += looking_seconds(module, measuring[0], cfg.data.image_size) * num_real / world_size
    return found


def steps_of_an_epoch(num_images: int, batch_size: int, limit: float | None) -> int:
    """Batches of a training epoch; `batch_size` is of all processes, `limit` a share or a number of batches."""
    steps = num_images // batch_size
    return steps if limit is None else int(steps * limit) if isinstance(limit, float) else min(steps, limit)


def num_epochs(steps: float, max_epochs: int | None, max_steps: int | None) -> float:
    """Epochs, not always whole, of so many steps of the optimiser, until one of the limits of the Trainer is met."""
    limits = [] if max_epochs is None or max_epochs < 0 else [max_epochs]
    if max_steps is not None and max_steps >= 0 and steps:
        limits.append(max_steps / steps)
    return min(limits, default=0)


def reading_seconds(datamodule: FundusDataModule, num_images: int) -> float:
    """Of the photographs, by a few of them; 0 where they are in the cache, or are streamed."""
    if isinstance(datamodule, ShardDataModule):
        return 0.0
    index, size = datamodule.source.index(), datamodule.image_size
    try:
        ImageMaskCache.open(datamodule.source, index, size, datamodule.cache_dir)
        return 0.0
    except CacheError:
        pass
    paths = [index.paths[place] for place in range(0, len(index), max(1, len(index) // NUM_READ))]
    start = time.perf_counter()
    for number, path in enumerate(paths):
        start = time.perf_counter() if number == 1 else start  # the first is slower than others
        try:
            datamodule.source.read(path, size)
        except (ImageError, NotAFundusError, OSError):  # which the reading itself will tell
            continue
    workers = min(datamodule.cache_workers or cpu_count() or 1, max(1, num_images // LEAST_PER_WORKER))
    return (time.perf_counter() - start) / max(1, len(paths) - 1) * num_images / workers


def autoencoder_step(module: Autoencoder, batch_size: int, image_size: int, context: Context) -> Callable[[], None]:
    """Forward and backward through an autoencoder and its losses; a discriminator's are left out."""
    x = 2 * torch.rand(batch_size, 3, image_size, image_size, device=module.device) - 1
    generator = torch.Generator(module.device)

    def step() -> None:
        with context():
            loss = module.losses(x, generator)[0]["loss"]
        loss.backward()
        module.zero_grad()

    return step


def denoiser_step(module: LatentDiffusion, batch_size: int, context: Context) -> Callable[[], None]:
    """Forward and backward through the denoiser and the guide."""
    mean = torch.randn(batch_size, *module.latent_shape, device=module.device)
    labels = module.network.conditioning.unknown(batch_size).clamp(min=0)
    generator = torch.Generator(module.device)

    def step() -> None:
        draws = module.training_draws(batch_size, generator, RankSlice())
        with context():
            loss = sum(module.losses((mean, torch.ones_like(mean)), labels, labels, draws).values())
        loss.backward()
        module.zero_grad()

    return step


def evaluation_seconds(module: LatentDiffusion, callback: Measuring, epochs: float) -> float:
    """Of all that a callback is going to sample and look at."""
    labels = module.network.conditioning.unknown(NUM_SAMPLED).clamp(min=0)

    def look(num_steps: int) -> None:
        images = module.sample(labels, range(NUM_SAMPLED), num_steps, callback.guidance)
        callback.extractor.to(module.device)(images)

    one, two = timed(lambda: look(1)), timed(lambda: look(2))
    num_steps = callback.num_steps or module.sampling["num_steps"]
    an_image = (one + (num_steps - 1) * max(two - one, 0.0)) / NUM_SAMPLED
    times = -(-epochs // callback.every_n_epochs) + bool(getattr(callback, "evaluate_at_start", False))
    return times * callback.num_images * an_image


def looking_seconds(module: LatentDiffusion, callback: Measuring, image_size: int) -> float:
    """Of the features of one image."""
    images = torch.rand(NUM_SAMPLED, 3, image_size, image_size, device=module.device)
    return timed(lambda: callback.extractor.to(module.device)(images)) / NUM_SAMPLED


def timed(step: Callable[[], None]) -> float:
    """Seconds of a step, the median of some, after one to warm up."""
    seconds = []
    for _ in range(1 + NUM_TIMED):
        start = now()
        step()
        seconds.append(now() - start)
    return statistics.median(seconds[1:])


def now() -> float:
    """Seconds, once the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
