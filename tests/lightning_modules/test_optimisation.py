"""The learning rate's course, and AdamW in one pass."""

import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, SingleDeviceStrategy
from refusals import refuses

from lightning_modules.optimisation import adamw, can_fuse, lr_factor, lr_scheduler, unfuse


@pytest.mark.parametrize(
    ("strategy", "precision", "fuses"),
    [(SingleDeviceStrategy(torch.device("cpu")), "32-true", True), (DDPStrategy(), "32-true", True),
     (SingleDeviceStrategy(torch.device("cpu")), "bf16-mixed", False), (ModelParallelStrategy(), "32-true", False),
     (object.__new__(DeepSpeedStrategy), "32-true", False)],
)  # fmt: skip
def test_where_an_optimiser_can_be_fused_and_is_taken_up(strategy, precision, fuses):
    """A resumed one has the flag of its checkpoint: it is taken back where it cannot be."""
    fused = adamw([(torch.nn.Linear(2, 2), 0.0)], 1e-3, (0.9, 0.99), fused=True)
    trainer = SimpleNamespace(strategy=strategy, precision=precision, optimizers=[fused])
    assert can_fuse(trainer) is fuses
    unfuse(trainer)
    assert fused.param_groups[0]["fused"] is (True if fuses else None)


def test_fused_steps_are_those_of_a_loop():
    networks = [torch.nn.Linear(7, 5), torch.nn.Linear(7, 5)]
    networks[1].load_state_dict(networks[0].state_dict())
    loop, fused = (adamw([(network, 0.1)], 1e-2, (0.9, 0.99), fused=one)
                   for network, one in zip(networks, (False, True), strict=True))  # fmt: skip
    x = torch.randn(20, 3, 7, generator=torch.Generator().manual_seed(0))
    for batch in x:
        for network, optimizer in zip(networks, (loop, fused), strict=True):
            network(batch).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert torch.allclose(networks[0].weight, networks[1].weight, atol=1e-6)


def test_course_of_the_rate():
    constant = [lr_factor(step, "constant", 4, 0) for step in range(6)]
    assert constant == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    assert lr_factor(4, "cosine", 4, 12) == 1.0
    assert math.isclose(lr_factor(8, "cosine", 4, 12), 0.5)
    assert lr_factor(12, "cosine", 4, 12) == lr_factor(99, "cosine", 4, 12) == 0.0


def test_vectors_and_embeddings_are_not_drawn_towards_zero():
    network = torch.nn.Sequential(torch.nn.Embedding(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = adamw([(network, 0.5)], 1e-1, (0.9, 0.99), decay_vectors=False)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = [not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)]
    assert moved == [False, False, False, True, False], "the matrix of the linear layer alone"
    torch.testing.assert_close(network[2].weight, before[3] * (1 - 0.1 * 0.5))
    assert len(adamw([(network, 0.5)], 1e-1, (0.9, 0.99)).param_groups) == 1
    assert len(adamw([(network, 0.0)], 1e-1, (0.9, 0.99), decay_vectors=False).param_groups) == 1


def test_errors():
    frozen, free = torch.nn.Parameter(torch.zeros(1), requires_grad=False), torch.nn.Parameter(torch.zeros(1))
    optimizer = adamw([(torch.nn.ParameterList([frozen, free]), 0.0)], 1e-3, (0.9, 0.99))
    assert optimizer.param_groups[0]["params"] == [free]
    with refuses(ValueError, "lr_schedule='linear'", "constant, cosine"):
        lr_scheduler(optimizer, "linear", 0, 10)
    with refuses(ValueError, "decay_steps=inf"):
        lr_scheduler(optimizer, "cosine", 0, math.inf)
    with refuses(ValueError, "warmup_steps=-1"):
        lr_scheduler(optimizer, "constant", -1, 0)
