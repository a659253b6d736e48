"""Sizes at which a run takes seconds, and runs in processes of their own."""

import contextlib
import csv
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# The least that still has every part: two latent levels, attention, conditioning, EMA, Fréchet distance, grid.
DATA = ["data.num_images=40", "data.image_size=16", "data.batch_size=8", "data.epoch_size=null", "data.cache_workers=1"]
AUTOENCODER = [
    "model.autoencoder.block_channels=[8,8]",
    "model.autoencoder.norm_groups=4",
    "autoencoder.max_epochs=1",
    "autoencoder.module.warmup_steps=1",
    "autoencoder.module.perceptual=null",
]
UNET = ["model.denoiser.channels=[16,16]", "model.denoiser.attention_levels=[1]", "model.denoiser.norm_groups=4",
        "model.denoiser.head_dim=8"]  # fmt: skip
DIFFUSION = [
    "model.conditioning.dim=16",
    "model.guide.channels=[8,8]",
    "model.diffusion.num_steps=2",
    "model.diffusion.warmup_steps=2",
]
GAN = [
    "model.conditioning.dim=8",
    "model.generator.noise_dim=8",
    "model.generator.max_width=16",
    "model.discriminator.width=8",
    "model.discriminator.max_width=16",
]
CALLBACKS = [
    "callbacks.frechet.every_n_epochs=1",
    "callbacks.agreement.every_n_epochs=1",
    "callbacks.frechet.num_images=6",
    "callbacks.frechet.batch_size=4",
    "callbacks.frechet.num_real=8",
    "callbacks.frechet.extractor.image_size=32",
    "callbacks.agreement.num_images=6",
    "callbacks.agreement.batch_size=4",
    "callbacks.agreement.num_real=12",
    "callbacks.agreement.extractor.image_size=32",
    "callbacks.sample_grid.num_columns=2",
]
TRAINER = ["trainer.accelerator=cpu", "trainer.max_epochs=2", "trainer.log_every_n_steps=1"]
VAE_TRAIN = ["+exp=vae_train", *DATA, *AUTOENCODER, *TRAINER]
DDPM_TRAIN = ["+exp=ddpm_train", *DATA, *AUTOENCODER, *UNET, *DIFFUSION, *CALLBACKS, *TRAINER]


@dataclass(frozen=True)
class Result:
    """What a command left behind on the terminal."""

    code: int
    out: str
    err: str


def one_of_each_kind(cases: Iterable[Any], *kinds: Any) -> list[Any]:
    """Parameters of a test: those that are not among `kinds` are left to the full matrix (`pytest -m full`)."""
    cases = list(cases)
    assert set(kinds) <= set(cases)
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*value, marks=[] if case in kinds else pytest.mark.full)
            for case, value in zip(cases, values, strict=True)]  # fmt: skip


TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
BY_TORCHRUN = (*TORCHRUN, "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0")


def start_process(
    *words: str, cwd: Path, by: Sequence[str] = (sys.executable,), **environment: str
) -> subprocess.Popen:
    """Start `python -m experiments.run` with these words in a process of its own, or by a launcher, as a group."""
    return subprocess.Popen(
        [*by, "-m", "experiments.run", *words],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_process(
    *words: str, cwd: Path, by: Sequence[str] = (sys.executable,), seconds: float = 480, **environment: str
) -> Result:
    """Run it to its end, which must come within so many seconds."""
    process = start_process(*words, cwd=cwd, by=by, **environment)
    out, err = process.communicate(timeout=seconds)
    return Result(process.returncode, out, err)


def make_run(folder: Path, *words: str, output_dir: str = "out") -> Path:
    """Run it to its end in `folder / output_dir`, which is returned; a failure fails the test."""
    result = run_process(*words, f"output_dir={output_dir}", cwd=folder)
    assert result.code == 0, result.err
    return folder / output_dir


def alive(folder: Path) -> list[int]:
    """Processes that work in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(entry / "cwd") == str(folder) and "Z" not in (entry / "stat").read_text().split(") ")[1][:1]:
                found.append(int(entry.name))
    return found


def column(output_dir: Path, name: str) -> list[tuple[int, str]]:
    """Step and value, as they are written, of a column of metrics.csv."""
    with open(output_dir / "metrics.csv", newline="") as file:
        return [(int(row["step"]), row[name]) for row in csv.DictReader(file) if row.get(name)]
