"""One of the two gloo processes that test_two_ranks.py starts: `python two_ranks.py FOLDER`."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback
from tiny_fit import TinyData, TinyModule, fit, tiny_extractor

from callbacks.fid import FrechetDistance
from callbacks.metrics_csv import MetricsCSV
from callbacks.ranks import Ranks
from callbacks.reconstructions import Reconstructions
from callbacks.run_record import RunRecord
from callbacks.sample_grid import SampleGrid
from callbacks.shutdown import GracefulShutdown


class NumberOfCalls(TinyModule):
    """Notes the size of each batch that is sampled: under sharding all ranks must make the same calls."""

    sampled = []

    def sample(self, labels, seeds, num_steps=None, guidance=None):
        self.sampled.append(len(seeds))
        return super().sample(labels, seeds)


class SignalToRankOne(Callback):
    """Sends the signal that only one rank gets."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == 1 and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def uneven_data():
    """Nothing here is divisible by two."""
    return TinyData(num_images=25, num_val=7)


def measuring_callbacks(folder):
    """Few images keep rows, many are streamed; the cache is made by one and used by another."""
    few = FrechetDistance(tiny_extractor(), 11, 2, folder, cache_dir=folder)
    many = FrechetDistance(tiny_extractor(name="many"), 31, 5, folder, num_real=23, num_kernel_images=9)
    again = FrechetDistance(tiny_extractor(name="again"), 2, 8, folder, seed=3)
    grid = SampleGrid({"any": {}}, ["dr_grade", "is_amd", "eye_side"], folder, num_columns=3)
    return [few, many, again, grid, Reconstructions(folder, batch_size=2)]


def main(folder: str) -> None:
    """Measure in a whole run, then stop a second one by a signal to rank 1."""
    two = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    callbacks = [*measuring_callbacks(folder), RunRecord(folder, {"seed": 3})]
    trainer, module = fit(folder, callbacks, module=NumberOfCalls(lr=0), data=uneven_data(), max_epochs=1, **two)
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    ranks = Ranks.of(trainer)
    result = {"figures": figures, "sampled": module.sampled, "gathered": {}}
    for num_items in (1, 4, 5):
        result["gathered"][num_items] = ranks.gather(torch.tensor(ranks.share(num_items)), num_items).tolist()
    (Path(folder) / f"rank_{trainer.global_rank}.json").write_text(json.dumps(result))
    callbacks = [GracefulShutdown(folder), SignalToRankOne(), RunRecord(f"{folder}/stopped", {"seed": 3})]
    fit(folder, callbacks, data=uneven_data(), logger=MetricsCSV(folder), **two)


if __name__ == "__main__":
    main(sys.argv[1])
