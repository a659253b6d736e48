"""What a run says before it starts and after it has ended."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from callbacks.files import printable

RANK_VARIABLES = ("LOCAL_RANK", "RANK", "SLURM_PROCID")


def say(text: str = "") -> None:
    """Print on the first process only; names in it that are not ours cannot move the terminal's cursor."""
    if is_first():
        print(printable(text), flush=True)


def say_error(text: str) -> None:
    """Print to stderr, on every process: perhaps it is not the first that fails."""
    rank = _other_rank()
    print(printable(f"[process {rank}] {text}" if rank else text), file=sys.stderr, flush=True)


def is_first() -> bool:
    """Whether this is the first process, or the only one."""
    return not _other_rank()


def _other_rank() -> str:
    """Rank of this process as it was told; "" for the first one and where there is no other."""
    return next((os.environ[name] for name in RANK_VARIABLES if os.environ.get(name, "0") != "0"), "")


def heading(title: str) -> str:
    """A line that is seen in a long log."""
    return f"\n── {title} " + "─" * max(0, 90 - len(title))


def config_text(config: Mapping[str, Any]) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True).rstrip()


def batch_text(batch_size: int, trainer: Mapping[str, Any], world_size: int, learning_rate: float) -> str:
    """Effective batch and learning rate; the rate is used as it is written."""
    accumulate = trainer["accumulate_grad_batches"] or 1
    effective = batch_size * world_size * accumulate
    parts = f"{batch_size} images x {world_size} process(es) x {accumulate} accumulated"
    return f"effective batch {effective} ({parts}), learning rate {learning_rate:g} (never rescaled)"


def parameters_text(parts: Mapping[str, nn.Module]) -> str:
    """Parameter counts, a line a part."""
    lines = []
    for name, module in parts.items():
        count = sum(parameter.numel() for parameter in module.parameters())
        lines.append(f"  {name:<14} {count / 1e6:8.2f} M parameters")
    return "\n".join(lines)


def data_text(summary: Mapping[str, Any]) -> str:
    """Counts per split, and per finding and level, as a table."""
    splits = {name: split for name, split in summary["splits"].items() if split["num_images"]}
    lines = [
        f"{summary['source']}: {summary['num_images']} images of {summary['num_patients']} patients at "
        f"{summary['image_size']} px; {summary['num_rejected']} rejected",
        "  " + f"{'':<28}" + "".join(f"{name:>10}" for name in splits),
        "  " + f"{'images':<28}" + "".join(f"{split['num_images']:>10}" for split in splits.values()),
        "  " + f"{'patients':<28}" + "".join(f"{split['num_patients']:>10}" for split in splits.values()),
    ]
    findings = next(iter(splits.values()))["findings"] if splits else {}
    for finding, levels in findings.items():
        counts = {level: [split["findings"][finding][level] for split in splits.values()] for level in levels}
        if not any(any(row) for level, row in counts.items() if level != "unknown"):
            lines.append(f"  {finding:<28}" + "".join(f"{'unknown':>10}" for _ in splits))
            continue
        for level, row in counts.items():
            if level != "unknown" or any(row):
                lines.append(f"  {finding + ' ' + level:<28}" + "".join(f"{count:>10}" for count in row))
    return "\n".join(lines)


def ending_text(output_dir: Path, metrics: Mapping[str, float], seconds: float) -> str:
    """Final metrics, where the samples are, and how to look at the curves."""
    lines = [heading("done")]
    lines += [f"  {name:<40} {value:.5g}" for name, value in sorted(metrics.items())]
    samples = sorted((output_dir / "samples").glob("*.png"))
    if samples:
        lines.append(f"samples:      {samples[-1]} (newest of {len(samples)})")
    best = output_dir / "checkpoints" / "best.ckpt"
    last = output_dir / "checkpoints" / "last.ckpt"
    found = " ".join(str(path) for path in (best, last) if path.exists())
    if found:
        lines.append(f"checkpoints:  {found}")
    lines.append(f"everything:   {output_dir}   ({seconds / 60:.1f} minutes)")
    if (output_dir / "tensorboard").is_dir():
        lines.append(f"curves:       tensorboard --logdir {output_dir.parent}")
    return "\n".join(lines)
