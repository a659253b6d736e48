"""What the cases of the benchmark share: the module, the figures over turns, and what they depend on."""

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from callbacks.files import write_text
from callbacks.run_record import code_revision, package_versions
from datamodules.errors import UserError
from datamodules.fundus import FundusDataModule
from experiments.assembly import build_autoencoder, build_diffusion
from experiments.autoencoders import measure
from experiments.latents import cache_latents, fit_label_maps
from experiments.session import Run
from lightning_modules.latent_diffusion import LatentDiffusion

FILE = "benchmark.json"


def check_one_process(run: Run) -> None:
    """Raise ValueError for several devices."""
    if run.world_size > 1:
        raise UserError(
            f"trainer.devices={run.cfg.trainer.devices}: a step is compared in one process, trainer.devices=1."
        )


def check_fresh(run: Run) -> None:
    """See that the turns are taken in one process, by weights at random.

    Raises:
        ValueError: several devices; weights or a run to go on from.
    """
    check_one_process(run)
    cfg = run.cfg
    if cfg.resume or cfg.ckpt or cfg.autoencoder.pretrained:
        raise UserError("the benchmark measures fresh weights: leave resume, ckpt and autoencoder.pretrained out.")


def build_module(run: Run, datamodule: FundusDataModule) -> LatentDiffusion:
    """The module of ddpm_train on an autoencoder that is not trained: its latents cost the same."""
    cfg = run.cfg
    autoencoder = build_autoencoder(cfg, with_judges=False)
    measure(autoencoder, datamodule)
    if cfg.job.cache_latents:
        datamodule.attach_latents(cache_latents(cfg.cache_dir, datamodule, autoencoder))
    module = build_diffusion(cfg, autoencoder)
    fit_label_maps(module, datamodule)
    return module


def spread(turns: Sequence[float]) -> dict[str, Any]:
    """Least, median, largest, and the values themselves."""
    return {"min": min(turns), "median": statistics.median(turns), "max": max(turns), "turns": list(turns)}


def circumstances(run: Run, module: LatentDiffusion) -> dict[str, Any]:
    """What the figures of one model on one device depend on."""
    cfg = run.cfg
    return {
        "batch_size": cfg.data.batch_size,
        "image_size": cfg.data.image_size,
        "latent_shape": list(module.latent_shape),
        "denoiser": module.config["model"]["denoiser"],
        "num_parameters": sum(parameter.numel() for parameter in module.network.parameters()),
        "precision": cfg.trainer.precision,
        "seed": cfg.seed,
        "device": str(module.device),
        **machine_and_code(),
    }


def machine_and_code() -> dict[str, Any]:
    """Threads, cores, processor, load, versions and revision."""
    return {
        "num_threads": torch.get_num_threads(),
        "num_cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "load_average": os.getloadavg(),
        "versions": package_versions(),
        "code": code_revision(),
    }


def write_figures(output_dir: Path, figures: Mapping[str, Any]) -> None:
    """Write benchmark.json."""
    write_text(output_dir / FILE, json.dumps(figures, indent=2) + "\n")


def spread_table(figures: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> str:
    """Least, median and largest of these figures, a line each."""
    width = max(map(len, names)) + 2
    lines = [f"  {'':<{width}}{'min':>10}{'median':>10}{'max':>10}"]
    for name in names:
        lines.append(f"  {name:<{width}}" + "".join(f"{figures[name][key]:>10.4g}" for key in ("min", "median", "max")))
    return "\n".join(lines)
