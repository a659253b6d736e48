"""The machines of a run, and how its processes work together: printed at its start, and kept in its record."""

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch

from experiments.launch import WorldInfo
from experiments.report import heading

GIB = 2**30
_machines: list[dict[str, Any]] = []  # of all processes, as they were told when they met


def machine(trainer: L.Trainer) -> dict[str, Any]:
    """This process's host, and the devices of it and of those that Lightning will start for it."""
    strategy = trainer.strategy
    devices = [strategy.root_device]
    if not WorldInfo.here(trainer.num_nodes).is_process:
        devices = getattr(strategy, "parallel_devices", None) or devices
    return {"host": socket.gethostname(), "devices": [device_words(device) for device in devices]}


def device_words(device: torch.device) -> str:
    """What a device is, and its memory."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name} ({properties.total_memory / GIB:.0f} GiB)"
    if device.type != "cpu":
        return device.type
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"cpu ({cores} cores, {memory / GIB:.0f} GiB)"


def note(machines: Sequence[Mapping[str, Any]]) -> None:
    """Remember what all processes have told."""
    _machines[:] = map(dict, machines)


def environment(trainer: L.Trainer, strategy: str, images_per_process: int) -> dict[str, Any]:
    """Who has started how many processes on what, how they talk, and the versions that this depends on.

    Args:
        images_per_process: that a process sees in a step, accumulated ones included.
    """
    hosts: dict[str, list[str]] = {}
    for told in _machines or [machine(trainer)]:
        hosts.setdefault(told["host"], []).extend(told["devices"])
    is_cuda = trainer.strategy.root_device.type == "cuda"
    several = trainer.world_size > 1
    return {
        "launcher": WorldInfo.here(trainer.num_nodes).launcher,
        "num_processes": trainer.world_size,
        "hosts": hosts,
        "strategy": strategy,
        "backend": ("nccl" if is_cuda else "gloo") if several else None,
        "precision": str(trainer.precision),
        "effective_batch": images_per_process * trainer.world_size,
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else None,
    }


def environment_text(told: Mapping[str, Any]) -> str:
    """For people: a line of how, and a line a host."""
    processes = f"{told['num_processes']} process(es) on {len(told['hosts'])} host(s), started by {told['launcher']}"
    backend = f" over {told['backend']}" if told["backend"] else ""
    versions = ", ".join(
        [f"torch {torch.__version__}", *(f"{name.upper()} {told[name]}" for name in ("cuda", "nccl") if told[name])]
    )
    lines = [heading("machines"), f"{processes}: {told['strategy']}{backend}, {told['precision']}; {versions}"]
    for host, devices in told["hosts"].items():
        counts = {device: devices.count(device) for device in devices}
        lines.append(f"  {host}: " + ", ".join(f"{count} x {device}" for device, count in counts.items()))
    return "\n".join(lines)
