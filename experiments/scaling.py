"""`+exp=scaling`: what a training would take on one device and on many, by a simple model of computing and sending."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from callbacks.files import write_text
from datamodules.errors import UserError
from experiments.assembly import build_autoencoder, build_diffusion
from experiments.report import heading, say
from experiments.scaling_model import Machine, Step, Work, choice, largest_batch, steps_of
from experiments.session import Run
from lightning_modules.blocks import blocks, prepare_blocks
from lightning_modules.latent_diffusion import LatentDiffusion

GIB = 2**30


def scaling(run: Run) -> dict[str, float]:
    """Count the work of a step of this generator, and say what each strategy would make of it; writes scaling.json.

    Raises:
        ValueError: numbers of devices, images or bytes that mean nothing; weights are given.
    """
    run.refuse_weights("has no weights: leave ckpt and resume out; the sizes are those of the configuration")
    cfg, output_dir, job = run.cfg, run.output_dir, run.job
    if "denoiser" not in cfg.model:
        raise UserError(
            f"+exp={cfg.name} trains no generator, whose step alone is counted. Remedy: +exp=ddpm_train job=scaling."
        )
    machine = machine_of(job)
    with run.recorded() as record:
        module = build_diffusion(cfg, build_autoencoder(cfg, with_judges=False))
        work = work_of(module, str(cfg.trainer.precision))
        steps = [step for num in job["devices"] for step in steps_of(work, machine, num, cfg.data.batch_size)]
        figures = {"work": asdict(work), "machine": asdict(machine), "steps": [_facts(step) for step in steps]}
        write_text(output_dir / "scaling.json", json.dumps(figures, indent=2) + "\n")
        metrics = {"scaling/gflop_per_image": work.flop / 1e9}
        record.finish("finished", metrics)
    say(report(work, machine, steps))
    run.end()
    return metrics


def machine_of(job: dict[str, Any]) -> Machine:
    """The machine that `job` describes.

    Raises:
        ValueError: a number that is not positive.
    """
    for name in ("tflops", "memory_gib", "devices_per_node", "link_gb_s", "network_gb_s"):
        if not job[name] > 0:
            raise UserError(f"job.{name}={job[name]} must be more than 0.")
    if not job["devices"] or any(not isinstance(num, int) or num < 1 for num in job["devices"]):
        raise UserError(f"job.devices={job['devices']} must be numbers of devices, as [1,8,64].")
    return Machine(job["tflops"], job["memory_gib"] * GIB, job["devices_per_node"], job["link_gb_s"] * 1e9,
                   job["network_gb_s"] * 1e9)  # fmt: skip


def work_of(module: LatentDiffusion, precision: str) -> Work:
    """What a training step is made of: counted on this machine's processor, of one image and of two."""
    network = module.network.train()
    prepare_blocks(network.denoiser, module.blocks.activation_checkpointing, False)
    one, two = (kept_bytes(network, _inputs(module, num), precision) for num in (1, 2))
    with FlopCounterMode(display=False) as counter:
        network(*_inputs(module, 1)).square().mean().backward()
    network.zero_grad()
    parts = [sum(tensor.numel() for tensor in block.parameters()) for block in blocks(network.denoiser)]
    trained = sum(tensor.numel() for tensor in network.parameters())
    largest = max([*parts, trained - sum(parts)])
    frozen = sum(tensor.numel() for tensor in module.autoencoder.parameters())
    return Work(trained, frozen, largest, float(counter.get_total_flops()), two - one, max(0, 2 * one - two))


def kept_bytes(network: nn.Module, inputs: Sequence[Tensor], precision: str) -> int:
    """Bytes that a forward pass keeps for the backward pass, weights in their own precision left out."""
    own = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = tensor  # held, so that no other storage takes its place
        return tensor

    half = torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else nullcontext()
    with saved_tensors_hooks(keep, lambda tensor: tensor), half:
        network(*inputs)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _inputs(module: LatentDiffusion, num: int) -> tuple[Tensor, Tensor, Tensor]:
    x_t = torch.zeros(num, *module.latent_shape)
    return x_t, torch.zeros(num, dtype=torch.int64), module.network.conditioning.unknown(num)


def _facts(step: Step) -> dict[str, Any]:
    return {**asdict(step), "images_per_second": step.images_per_second, "efficiency": step.efficiency}


def report(work: Work, machine: Machine, steps: Sequence[Step]) -> str:
    """The tables for people."""
    lines = [
        heading("a training step, counted"),
        f"trained weights: {work.num_trained / 1e6:.1f} M, frozen: {work.num_frozen / 1e6:.1f} M, largest block: "
        f"{work.num_block / 1e6:.1f} M",
        f"an image:        {work.flop / 1e9:.1f} GFLOP forwards and backwards, "
        f"{work.activation_bytes / 2**20:.1f} MiB kept for the backward pass",
        heading("calculated, not measured"),
        f"devices that sustain {machine.tflops:g} TFLOP/s, {machine.memory / GIB:g} GiB each, {machine.per_node} a "
        f"node, {machine.link / 1e9:g} GB/s within it, {machine.network / 1e9:g} GB/s between nodes",
        "",
        f"{'devices':>7} {'strategy':<16} {'images each':>11} {'state GiB':>9} {'peak GiB':>8} {'most images':>11} "
        f"{'images a second':>17} {'efficiency':>11}",
    ]
    for step in steps:
        low, high = step.images_per_second
        worst, best = step.efficiency
        fits = f"{step.peak / GIB:8.1f}" if step.peak <= machine.memory else f"{step.peak / GIB:7.1f}!"
        lines.append(
            f"{step.num_devices:>7} {step.strategy:<16} {step.batch_size:>11} {step.state / GIB:>9.2f} {fits} "
            f"{largest_batch(step, work, machine):>11} {f'{low:,.0f} - {high:,.0f}':>17} "
            f"{f'{worst:.0%} - {best:.0%}':>11}"
        )
    lines += [
        "!: more than a device has. Images a second: from nothing sent while devices compute, to everything.",
        "Left out: reading, validation, sampling, and the launch of kernels, which bounds small models (64 px).",
    ]
    for num in dict.fromkeys(step.num_devices for step in steps):
        best = choice([step for step in steps if step.num_devices == num], machine)
        words = (
            "none fits: fewer images, activation_checkpointing=true" if best is None else f"strategy={best.strategy}"
        )
        lines.append(f"{num} device(s): {words}")
    return "\n".join(lines)
