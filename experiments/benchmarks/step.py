"""`job.case=step`: what the framework costs, a training step of ours over the same step in a bare PyTorch loop.

Both take turns in one process: the Trainer trains `num_steps` batches, then the bare loop trains the same batches, held
in memory, from the same initial weights with the same noise. The figure is ours over bare, a ratio for each pair of
turns. Ours includes loading the batches, logging, progress bar, gradient clipping and EMA; neither includes
validation and checkpoints. On a processor both must end with the same weights, so that they did the same mathematics.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from experiments.benchmarks.common import (
    FILE,
    build_module,
    check_fresh,
    circumstances,
    spread,
    spread_table,
    write_figures,
)
from experiments.preview import preview
from experiments.report import heading, say
from experiments.run_time import now
from experiments.session import Run
from experiments.trainers import build_trainer
from experiments.training import prepare_data
from lightning_modules.conditioning import UNKNOWN
from lightning_modules.latent_diffusion import GUIDE_WEIGHT, LatentDiffusion
from lightning_modules.optimisation import lr_scheduler
from lightning_modules.randomness import step_generator

Batch = Mapping[str, Any]
NAMES = ("ratio", "ours_ms_per_step", "bare_ms_per_step", "tax_ms_per_step")


def compare_step(run: Run) -> dict[str, float]:
    """Take `num_turns` pairs of turns of `num_steps` steps, after a pair to warm up; writes benchmark.json."""
    num_steps, num_turns = run.job["num_steps"], run.job["num_turns"]
    check_fresh(run)
    total = num_steps * (num_turns + 1)
    run = run.but({"data": {"epoch_size": total * run.cfg.data.batch_size}})  # one epoch: no validation between
    cfg, output_dir = run.cfg, run.output_dir
    preview(run)
    datamodule = prepare_data(run)
    datamodule.setup("fit")
    module = build_module(run, datamodule)
    say(heading(f"{num_turns} pairs of turns of {num_steps} steps, after one to warm up"))
    turns = Turns(lambda trainer: BareLoop(module, trainer), num_steps)
    overrides = {"max_epochs": 1, "max_steps": -1, "accumulate_grad_batches": 1}
    trainer = build_trainer(run, "val/loss", {}, ["val/loss"], [turns], **overrides)
    trainer.fit(module, datamodule=datamodule)
    figures = summary(turns.pairs[1:], num_steps) | {"same_weights": turns.same_weights}
    facts = {"num_steps": num_steps, "num_turns": num_turns, "cached_latents": cfg.job.cache_latents}
    facts |= {"log_every_n_steps": cfg.trainer.log_every_n_steps}
    module.to(trainer.strategy.root_device)
    write_figures(output_dir, {"case": "step", **figures, **facts, **circumstances(run, module)})
    say("\n".join([heading("done"), spread_table(figures, NAMES),
                   f"  same weights at the end: {'yes' if figures['same_weights'] else 'no'}",
                   f"everything:   {output_dir / FILE}"]))  # fmt: skip
    return {"benchmark/ratio": figures["ratio"]["median"]}


class BareLoop:
    """The training step of latent diffusion as a script would have it, on a copy of the module's network."""

    def __init__(self, module: LatentDiffusion, trainer: L.Trainer):
        self.module = module  # for what is not learnt: autoencoder, objective, seed
        self.network = _copy(module.network, like=module.network)
        self.average = _copy(module.network, like=module.ema.network).eval()
        self.clip = trainer.gradient_clip_val
        self.forward_context = trainer.precision_plugin.forward_context
        self.optimizer = module.optimizer_of(self.network)
        steps = trainer.estimated_stepping_batches
        self.scheduler = lr_scheduler(
            self.optimizer, module.optimisation.lr_schedule, module.optimisation.warmup_steps, steps
        )
        self.num_updates = 0

    def __call__(self, batches: list[tuple[int, Batch]]) -> None:
        """Train on (index, batch) pairs."""
        for index, batch in batches:
            with self.forward_context():
                loss = self._loss(batch, step_generator(self.module.device, "diffusion", self.module.seed, 0, 0, index))
            self.optimizer.zero_grad()
            loss.backward()
            if self.clip:
                nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
            self.optimizer.step()
            self.scheduler.step()
            self._update_average()

    def _loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        module, objective = self.module, self.module.objective
        if "latent_mean" in batch:
            mean, std = batch["latent_mean"], batch["latent_std"]
        else:
            mean, std = module.autoencoder.encode(batch["image"])
        x_0 = module.autoencoder.standardise(mean + std * _noise(mean, generator))
        t = objective.draw_timesteps(len(x_0), generator)
        eps = _noise(x_0, generator)
        x_t = objective.q_sample(x_0, eps, t)
        labels = batch["labels"].masked_fill(module.network.conditioning.draw_hidden(len(x_0), generator), UNKNOWN)
        loss = objective.loss(self.network(x_t, t, labels), x_0, eps, t).mean()
        if self.network.guide is not None:
            loss = loss + GUIDE_WEIGHT * self.network.guide_loss(x_t, t, batch["labels"])
        return loss

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.module.ema.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        self.num_updates += 1

    def has_weights_of(self, module: LatentDiffusion) -> bool:
        """Whether weights and averaged weights equal the module's, bit for bit."""
        pairs = ((self.network, module.network), (self.average, module.ema.network))
        return all(
            torch.equal(weight, same)
            for mine, other in pairs
            for weight, same in zip(mine.parameters(), other.parameters(), strict=True)
        )


class Turns(L.Callback):
    """After each `num_steps` batches of the Trainer give them to the bare loop.

    Attributes:
        pairs: seconds of each turn, ours and bare.
        same_weights: whether both ended with the same, bit for bit.
    """

    def __init__(self, build_bare: Callable[[L.Trainer], BareLoop], num_steps: int):
        self.build_bare, self.num_steps = build_bare, num_steps
        self.pairs: list[tuple[float, float]] = []
        self._batches: list[tuple[int, Batch]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Copy the initial weights, start the clock."""
        self.bare = self.build_bare(trainer)
        self._start = now()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the batch; at the end of a turn stop the clock and let the other have its turn."""
        self._batches.append((batch_idx, batch))
        if len(self._batches) == self.num_steps:
            end = now()
            self.bare(self._batches)
            self._batches = []
            start = now()
            self.pairs.append((end - self._start, start - end))
            self._start = start

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare what came of it."""
        self.same_weights = self.bare.has_weights_of(pl_module)


def summary(pairs: list[tuple[float, float]], num_steps: int) -> dict[str, Any]:
    """Ratios and milliseconds a step: least, median and largest, and each turn."""
    columns = {
        "ratio": [ours / bare for ours, bare in pairs],
        "ours_ms_per_step": [1000 * ours / num_steps for ours, _ in pairs],
        "bare_ms_per_step": [1000 * bare / num_steps for _, bare in pairs],
        "tax_ms_per_step": [1000 * (ours - bare) / num_steps for ours, bare in pairs],
    }
    return {name: spread(values) for name, values in columns.items()}


def _copy(network: nn.Module, like: nn.Module) -> nn.Module:
    other = copy.deepcopy(like)
    other.load_state_dict(network.state_dict())
    return other


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device)
