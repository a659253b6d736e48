"""`job.case=latents`: what cached latents save, training images a second with them over those without.

Both take turns in one run of the Trainer, an epoch each: one trains on cached latents, the next encodes every batch.
Network, batches and callbacks are the same. A turn is timed from the end of its first batch, so that opening the loader
is in neither; there is no validation between. Making the cache is not in the figure: it is done once, in
`preparing_seconds`, with the building of the model.
"""

from typing import Any

import lightning as L

from datamodules.fundus import FundusDataModule
from datamodules.latents import LatentCache
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

NAMES = ("ratio", "cached_images_per_second", "encoding_images_per_second")


def compare_latents(run: Run) -> dict[str, float]:
    """Take `num_turns` pairs of turns of `num_steps` steps, after a pair to warm up; writes benchmark.json."""
    num_steps, num_turns, batch_size = run.job["num_steps"], run.job["num_turns"], run.cfg.data.batch_size
    check_fresh(run)
    an_epoch_a_turn = {"epoch_size": (num_steps + 1) * batch_size}
    run = run.but({"data": an_epoch_a_turn, "job": {"cache_latents": True}})
    output_dir, num_epochs = run.output_dir, 2 * (num_turns + 1)
    preview(run)
    datamodule = prepare_data(run)
    datamodule.setup("fit")
    start = now()
    module = build_module(run, datamodule)
    seconds = now() - start
    say(heading(f"{num_turns} pairs of turns of {num_steps} steps, after one to warm up"))
    turns = LatentTurns(datamodule, num_steps)
    overrides = {"max_epochs": num_epochs, "max_steps": -1, "accumulate_grad_batches": 1, "limit_val_batches": 1}
    overrides |= {"check_val_every_n_epoch": num_epochs, "reload_dataloaders_every_n_epochs": 1}
    trainer = build_trainer(run, "val/loss", {}, ["val/loss"], [turns], **overrides)
    trainer.fit(module, datamodule=datamodule)
    figures = summary(turns.pairs[1:], num_steps * batch_size) | {"preparing_seconds": seconds}
    facts = {"num_steps": num_steps, "num_turns": num_turns, "num_training_images": len(datamodule.dataset("train"))}
    module.to(trainer.strategy.root_device)
    write_figures(output_dir, {"case": "latents", **figures, **facts, **circumstances(run, module)})
    say("\n".join([heading("done"), spread_table(figures, NAMES), f"everything:   {output_dir / FILE}"]))
    return {"benchmark/latents_ratio": figures["ratio"]["median"]}


class LatentTurns(L.Callback):
    """Let the epochs train on cached latents and on images by turns, latents first.

    Attributes:
        pairs: seconds of `num_steps` batches, the first of an epoch left out, on latents and on images.
    """

    def __init__(self, datamodule: FundusDataModule, num_steps: int):
        self.datamodule, self.num_steps = datamodule, num_steps
        self.cache: LatentCache | None = datamodule.latents
        self.pairs: list[tuple[float, float]] = []
        self._seconds: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock after the first batch, stop it after the last, before any validation."""
        if batch_idx == 0:
            self._start = now()
        elif batch_idx == self.num_steps:
            self._seconds.append(now() - self._start)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Change over: the Trainer asks for a new loader."""
        if len(self._seconds) == 2:
            self.pairs.append((self._seconds[0], self._seconds[1]))
            self._seconds = []
        self.datamodule.attach_latents(self.cache if self.datamodule.latents is None else None)


def summary(pairs: list[tuple[float, float]], num_images: int) -> dict[str, Any]:
    """How many times faster with latents, a ratio a pair, and images a second of each; `num_images` are of a turn."""
    return {
        "ratio": spread([images / latents for latents, images in pairs]),
        "cached_images_per_second": spread([num_images / latents for latents, _ in pairs]),
        "encoding_images_per_second": spread([num_images / images for _, images in pairs]),
    }
