"""A callback that writes down what each process trained on."""

import json
from pathlib import Path

import lightning as L


class RankSpy(L.Callback):
    """Writes `<folder>/rank<r>.json`: ids of every batch, and the sum of the noise that each was given."""

    def __init__(self, folder: str):
        self.folder, self.ids, self.noise = folder, [], []

    def on_fit_start(self, trainer, pl_module):
        """Listen to the noise."""
        q_sample = pl_module.objective.q_sample

        def heard(x_0, eps, t):
            if pl_module.training:
                self.noise.append(float(eps.double().sum()))
            return q_sample(x_0, eps, t)

        pl_module.objective.q_sample = heard

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Note the ids."""
        self.ids += batch["id"]

    def on_train_end(self, trainer, pl_module):
        """Write."""
        found = {"ids": self.ids, "noise": self.noise, "world_size": trainer.world_size}
        Path(self.folder, f"rank{trainer.global_rank}.json").write_text(json.dumps(found))
