"""`+exp=benchmark_data`: what reading photographs costs, over torchvision's ImageFolder with Resize, on one core.

Both take turns in one process with one thread, on the same files to the same size. Theirs decodes, resizes and crops
every photograph in every epoch, as a script would have it. Ours reads them once into the cache (index, decoding, field
of view, crop, digest, flush to the disk), and trains from there. The figures are theirs over ours, one for each turn.
"""

import ctypes
import gc
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from callbacks.files import write_text
from callbacks.run_record import code_revision, package_versions
from datamodules.errors import UserError
from datamodules.fundus import FundusDataModule
from experiments.assembly import build_datamodule
from experiments.benchmarks.common import spread
from experiments.report import heading, say
from experiments.session import Run
from experiments.training import describe_data


def benchmark_data(run: Run) -> dict[str, float]:
    """Take `num_turns` turns each, then `num_epochs` epochs from the cache; writes benchmark_data.json.

    Raises:
        ValueError: weights are given, or the source has no files.
    """
    run.refuse_weights()
    cfg, output_dir = run.cfg, run.output_dir
    threads = torch.get_num_threads(), cv2.getNumThreads()
    with run.recorded() as record:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        try:
            figures = measured(run)
        finally:
            torch.set_num_threads(threads[0])
            cv2.setNumThreads(threads[1])
        facts = {"num_epochs": cfg.job.num_epochs, "image_size": cfg.data.image_size, "seed": cfg.seed,
                 "batch_size": cfg.data.batch_size, "load_average": os.getloadavg(),
                 "versions": package_versions(), "code": code_revision()}  # fmt: skip
        write_text(output_dir / "benchmark_data.json", json.dumps(figures | facts, indent=2) + "\n")
        metrics = {f"benchmark/{name}": figures[name]["median"] for name in ("first_pass_ratio", "cached_epoch_ratio")}
        metrics["benchmark/memory_growth_mib"] = figures["memory_growth_mib"]
        record.finish("finished", metrics)
    say(report(figures, output_dir))
    return metrics


def measured(run: Run) -> dict[str, Any]:
    """Milliseconds an image of each kind, their ratios, and how the memory of this process grew over the epochs."""
    cfg, theirs, first, cached = run.cfg, [], [], []
    with tempfile.TemporaryDirectory() as folder:
        links = linked(build_datamodule(cfg), Path(folder) / "photographs")
        say(heading(f"{cfg.job.num_turns} turns on {len(list(links.rglob('*.*')))} photographs, after one to warm up"))
        for turn in range(cfg.job.num_turns + 1):
            theirs.append(image_folder_ms(links, cfg.data.image_size, cfg.data.batch_size))
            datamodule = build_datamodule(cfg)
            datamodule.cache_dir, datamodule.cache_workers = Path(folder) / f"cache{turn}", 1
            first.append(first_pass_ms(datamodule))
            datamodule.setup()
            cached.append(epochs_ms(datamodule, cfg.job.num_epochs)[0])
        memory = epochs_ms(datamodule, cfg.job.num_epochs)[1]
        describe_data(datamodule, run.output_dir)
    columns = {
        "image_folder_ms": theirs[1:],
        "first_pass_ms": first[1:],
        "cached_epoch_ms": cached[1:],
        "first_pass_ratio": [a / b for a, b in zip(theirs[1:], first[1:], strict=True)],
        "cached_epoch_ratio": [a / b for a, b in zip(theirs[1:], cached[1:], strict=True)],
    }
    return {
        "num_images": len(datamodule.manifest),
        **{name: spread(values) for name, values in columns.items()},
        "memory_mib": memory,
        "memory_growth_mib": memory[-1] - memory[0],
    }


def linked(datamodule: FundusDataModule, folder: Path) -> Path:
    """A folder of one class, with a link to every photograph, as ImageFolder wants it."""
    source = datamodule.source
    (folder / "all").mkdir(parents=True)
    for row, path in enumerate(source.index().paths):
        file = Path(getattr(source, "root", ".")) / path
        if not file.is_file():
            raise UserError(
                f"data has no file {str(file)!r}: ImageFolder reads files. Remedy: data=folder data.root=<folder>."
            )
        (folder / "all" / f"{row:06d}{file.suffix}").symlink_to(file.resolve())
    return folder


def image_folder_ms(folder: Path, image_size: int, batch_size: int) -> float:
    """Milliseconds an image of an epoch of torchvision's, to float32 [3, S, S] in [0, 1]."""
    steps = [transforms.Resize(image_size), transforms.CenterCrop(image_size), transforms.ToTensor()]
    dataset = ImageFolder(str(folder), transforms.Compose(steps))
    return _ms_per_image(batch for batch, _ in DataLoader(dataset, batch_size))


def first_pass_ms(datamodule: FundusDataModule) -> float:
    """Milliseconds an image of indexing, reading, cropping and storing all of them."""
    start = time.perf_counter()
    datamodule.prepare_data()
    return 1000 * (time.perf_counter() - start) / len(datamodule.source.index())


def epochs_ms(datamodule: FundusDataModule, num_epochs: int) -> tuple[float, list[float]]:
    """Milliseconds an image of training epochs from the cache, and the memory in MiB after each epoch."""
    loader, seconds, num_images, memory = datamodule.train_dataloader(), 0.0, 0, []
    for epoch in range(num_epochs):
        loader.set_epoch(epoch)
        start = time.perf_counter()
        for batch in loader:
            num_images += len(datamodule.on_after_batch_transfer(batch, 0)["image"])
        seconds += time.perf_counter() - start
        memory.append(resident_mib())
    return 1000 * seconds / num_images, memory


def _ms_per_image(batches: Iterable[torch.Tensor]) -> float:
    start, num_images = time.perf_counter(), 0
    for batch in batches:
        num_images += len(batch)
    return 1000 * (time.perf_counter() - start) / num_images


def resident_mib() -> float:
    """Memory of this process that is in use, in MiB; 0 where the system does not tell (no /proc).

    What is free, but kept by the allocator for later, is given back first: it comes and goes in steps of its own.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None  # of the GNU C library
    if trim is not None:
        trim(0)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


def report(figures: Mapping[str, Any], output_dir: Path) -> str:
    """The figures, a line each."""
    lines = [heading("done"), f"  {'':<32}{'min':>10}{'median':>10}{'max':>10}"]
    for name, title in (
        ("image_folder_ms", "ImageFolder, ms an image"),
        ("first_pass_ms", "first pass, ms an image"),
        ("cached_epoch_ms", "cached epoch, ms an image"),
        ("first_pass_ratio", "first pass, times faster"),
        ("cached_epoch_ratio", "cached epoch, times faster"),
    ):
        lines.append(f"  {title:<32}" + "".join(f"{figures[name][key]:>10.4g}" for key in ("min", "median", "max")))
    first, last = figures["memory_mib"][0], figures["memory_mib"][-1]
    lines.append(f"  memory: {first:.1f} MiB after the first epoch, {last:.1f} MiB after {len(figures['memory_mib'])}")
    return "\n".join([*lines, f"everything:   {output_dir / 'benchmark_data.json'}"])
