"""FSDP2: weights, gradients, averages and the optimiser's state in equal shares on all processes."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lightning_modules.blocks import blocks
from lightning_modules.strategies.sharded import ShardedCheckpoints, whole


class FSDP2(ShardedCheckpoints, ModelParallelStrategy):
    """Each process keeps a share of every trained tensor, and puts blocks together for the time that they compute.

    Source: Zhao et al. 2023 (arXiv 2304.11277), by torch's `fully_shard`. Precision is that of the Trainer, by
    autocast: shares, gradients and averages are float32. On CUDA devices, and on processors through gloo.

    Args:
        timeout_minutes: after which a process that waits for another gives up.
    """

    def __init__(self, timeout_minutes: float = 30):
        super().__init__(tensor_parallel_size=1, timeout=timedelta(minutes=timeout_minutes))

    def setup_environment(self) -> None:
        """Shares as many as processes, over nodes and devices alike."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def teardown(self) -> None:
        """As Lightning's, and wait for what is written."""
        self.checkpoint_io.teardown()
        super().teardown()

    def shard(self, network: nn.Module) -> None:
        """Spread a network block by block, and the rest of it as one more."""
        if isinstance(network, FSDPModule) or not any(True for _ in network.parameters()):
            return
        for tensor in network.parameters():
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)  # not channels-last: shares are rows
        settings = {"mesh": self.mesh, "reshard_after_forward": True}
        for block in blocks(network):
            fully_shard(block, **settings)
        fully_shard(network, **settings)

    @property
    def mesh(self) -> DeviceMesh:
        """All processes in a row."""
        return self.device_mesh["data_parallel"]

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The module's tensors, those in shares as DTensors."""
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state of an optimiser, in shares."""
        return getattr(optimizer, "optimizer", optimizer).state_dict()

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take the weights of a checkpoint."""
        own, state = self.lightning_module.state_dict(), {}
        for name, value in checkpoint["state_dict"].items():
            state[name] = self.share(value) if isinstance(own.get(name), DTensor) else whole(value)
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the states of the optimisers of a checkpoint."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            state = {
                number: {name: self.share(value) for name, value in values.items()}
                for number, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})
