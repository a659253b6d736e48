"""DeepSpeed's strategy: precision inside an engine that switches autocast off, and teardown that moves nothing."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from torch import nn

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
from lightning_modules.strategies.zero import Zero


class Engine(nn.Module):
    """As DeepSpeed's, with no autocast of its own configuration, treats one that is entered around it."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args):
        with torch.autocast("cpu", enabled=False):
            return self.module(*args)


class Module(L.LightningModule):
    """Tells in which type its step multiplies."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def training_step(self, x):
        return self.layer(x).dtype, self.layer.weight.dtype


def strategy_in(precision):
    strategy = Zero(stage=2)
    strategy.parallel_devices = [torch.device("cpu")]
    plugin = Precision()
    plugin.precision = precision
    strategy.precision_plugin = plugin
    return strategy


@pytest.mark.parametrize("precision, computed", [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
def test_steps_are_computed_in_the_precision_that_is_asked_for(precision, computed):
    strategy, module = strategy_in(precision), Module()
    with strategy.precision_plugin.train_step_context():
        redirected = strategy._forward_redirection(Engine(module), module, "training_step", torch.ones(1, 2))
    assert redirected == (computed, torch.float32)
    assert "training_step" not in vars(module) and module.training_step(torch.ones(1, 2))[0] == torch.float32


def test_teardown_leaves_the_module_on_its_device():
    """Lightning's moves it to the processor, from where nothing can be put together for a checkpoint."""
    strategy, module = strategy_in("32-true"), Module()
    moved, ended = [], []
    module.cpu = lambda: moved.append(True)
    strategy._lightning_module = module
    part = SimpleNamespace(teardown=lambda: ended.append(True))
    strategy.cluster_environment = strategy.accelerator = strategy.checkpoint_io = part
    strategy.teardown()
    assert not moved and len(ended) == 3
