"""A callback that writes down what this process holds of what is learnt, once the training is over."""

import json
from pathlib import Path

import lightning as L
import torch

from lightning_modules.ema import local_part


class BytesSpy(L.Callback):
    """Writes bytes<rank>.json: bytes of weights, averages and the optimiser's state."""

    def __init__(self, folder: str):
        self.folder = Path(folder)

    def on_train_end(self, trainer, pl_module):
        """Count; of DeepSpeed's own copy of the weights too."""
        [optimizer] = trainer.optimizers
        copies = []
        if "deepspeed" in type(optimizer).__module__:
            third = hasattr(optimizer, "fp32_partitioned_groups_flat")
            copies = optimizer.fp32_partitioned_groups_flat if third else optimizer.single_partition_of_fp32_groups
            optimizer = optimizer.optimizer
        moments = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
        kept = {"weights": pl_module.network.parameters(), "averages": pl_module.ema.network.parameters(),
                "optimizer": [*moments, *copies]}  # fmt: skip
        figures = {name: _bytes(map(local_part, tensors)) for name, tensors in kept.items()}
        sizes = [getattr(tensor, "ds_numel", tensor.numel()) for tensor in pl_module.network.parameters()]
        figures["num_trained"] = sum(sizes)
        (self.folder / f"bytes{trainer.global_rank}.json").write_text(json.dumps(figures))


def _bytes(tensors):
    """Of tensors that are no views of one another."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
