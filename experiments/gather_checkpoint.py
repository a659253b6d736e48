"""`+exp=gather_checkpoint`: a checkpoint in shares as one file, which every strategy, job and script reads."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from callbacks.atomic_checkpoint_io import to_file
from callbacks.files import write_atomically
from datamodules.errors import UserError
from experiments.report import heading, say
from experiments.session import Run
from lightning_modules.checkpoint import best_of_run, load_state

OF_THE_OPTIMIZER = ("optimizer_states", "lr_schedulers")  # the Trainer refuses to go on where they are left out


def gather_checkpoint(run: Run) -> dict[str, float]:
    """Write the checkpoint `cfg.ckpt` to one file in the run's folder; returns what the record keeps.

    Raises:
        ValueError: no checkpoint named, one that is not whole, or the file is there already.
        FileNotFoundError: no checkpoint there.
    """
    cfg, output_dir = run.cfg, run.output_dir
    if run.checkpoint:
        raise UserError("gather_checkpoint takes no resume: it is done in one go, or not at all.")
    if not cfg.ckpt:
        raise UserError("gather_checkpoint needs ckpt=<a run's folder or a checkpoint>, as runs/ddpm_train/first.")
    source = best_of_run(cfg.ckpt)
    target = output_dir / (cfg.job.filename or f"{source.stem}.ckpt")
    if target.parent.resolve() != output_dir.resolve():
        raise UserError(f"job.filename={cfg.job.filename} must be a name without folders; output_dir says where.")
    if target.exists() and not cfg.resume:
        raise UserError(f"{target} is there already, and is not replaced. Remedy: another output_dir or job.filename.")
    with run.recorded() as record:
        metrics = gather(source, target, cfg.job.optimizer)
        record.finish("finished", metrics)
    say(heading("gathered"))
    if source.is_file():
        say(f"{source} was one file already: this is a copy")
    say(f"{source} -> {target}: {metrics['gather/num_tensors']:.0f} tensors, {metrics['gather/mib']:.1f} MiB, "
        f"after step {metrics['gather/step']:.0f}")  # fmt: skip
    run.end()
    return metrics


def gather(source: Path, target: Path, optimizer: bool = True) -> dict[str, float]:
    """Read a checkpoint, write it to one file, and see that this holds the same; one that is there must.

    Args:
        optimizer: keep the optimiser's state, without which no training goes on from it; it is as large as weights
            and averages together.

    Raises:
        FileNotFoundError, ValueError: no whole checkpoint at `source`, or another one at `target`.
        OSError: the file holds something else than was written.
    """
    state = load_state(source)
    if not optimizer:
        state = {key: value for key, value in state.items() if key not in OF_THE_OPTIMIZER}

    def write(path: Path) -> None:
        to_file(state, path)
        if not _same(load_state(path), state):
            raise OSError(f"{path} does not hold what was written to it: the disk is not to be trusted.")

    if target.exists():  # as where a run was killed just before it noted its end
        if not _same(load_state(target), state):
            raise UserError(f"{target} holds another checkpoint. Remedy: another output_dir or job.filename.")
    else:
        write_atomically(target, write)
    mib = target.stat().st_size / 2**20
    return {"gather/num_tensors": float(len(state["state_dict"])), "gather/mib": mib,
            "gather/step": float(state["global_step"])}  # fmt: skip


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and np.array_equal(_bytes(first), _bytes(second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    return first == second or (first != first and second != second)  # NaN


def _bytes(tensor: torch.Tensor) -> np.ndarray:
    return tensor.contiguous().flatten().view(torch.uint8).numpy()
