"""What a plan would take: a few batches are made, encoded and thrown away."""

import datetime
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.flop_counter import FlopCounterMode

from callbacks.shard_writer import GB, ImageEncoder
from lightning_modules.latent_diffusion import LatentDiffusion


class Rate(Callback):
    """Times batches, the first left out: it warms up.

    Attributes:
        num_images: of the batches that are timed.
        seconds: they took, encoding included.
        num_bytes: of their files.
    """

    def __init__(self, encoder: ImageEncoder) -> None:
        self.encoder = encoder
        self.num_images = self.num_bytes = self.num_attempts = 0
        self.seconds = 0.0
        self._start = 0.0

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Mapping[str, Any], batch: Mapping[str, Any],
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Encode, and count."""
        files = [self.encoder(image) for image in outputs["image"].permute(0, 2, 3, 1).contiguous().numpy()]
        if batch_idx:
            self.seconds += time.perf_counter() - self._start
            self.num_images += len(files)
            self.num_bytes += sum(map(len, files))
            self.num_attempts += int(outputs["attempts"].sum())


def operations(generator: LatentDiffusion) -> float:
    """Floating-point operations of one image: those of one step and of two tell what each further step takes."""
    labels, counts = generator.network.conditioning.unknown(1), []
    for num_steps in (1, 2):
        with FlopCounterMode(display=False) as counter:
            generator.sample(labels, [0], num_steps=num_steps)
        counts.append(counter.get_total_flops())
    return counts[0] + (generator.sampling["num_steps"] - 1) * (counts[1] - counts[0])


def estimate_text(rate: Rate, work: float, num_images: int, num_processes: int, root: Path) -> str:
    """Rate, hours and bytes of the whole plan, for people; `work` are the operations of one image."""
    a_second = rate.num_images / rate.seconds * num_processes
    each = rate.num_bytes / rate.num_images
    while not root.exists():
        root = root.parent
    free = shutil.disk_usage(root).free
    hours = datetime.timedelta(seconds=round(num_images / a_second))
    needed = num_images * each
    lines = [
        f"  rate           {a_second:.3g} images a second on {num_processes} process(es), "
        f"measured on {rate.num_images} images",
        f"  an image       {each / 1000:.3g} kB as {rate.encoder.format}; {work / 1e12:.3g} TFLOP, "
        f"so {work * a_second / 1e12:.3g} TFLOP/s",
        f"  attempts       {rate.num_attempts / rate.num_images:.3g} an image",
        f"  whole plan     {num_images:,} images: {num_images / a_second / 3600:.3g} hours ({hours}), "
        f"{needed / GB:.3g} GB",
        f"  free           {free / GB:.3g} GB on the disk of {root}",
    ]
    if needed > free:
        lines.append("  The disk has no room for all of it: free space, or write jpeg or webp (job.image_format).")
    return "\n".join(lines)
