"""The learning rate's course."""

import math

import pytest
import torch

from lightning_modules.optimisation import adamw, lr_factor, lr_scheduler


def test_course_of_the_rate():
    constant = [lr_factor(step, "constant", 4, 0) for step in range(6)]
    assert constant == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    assert lr_factor(4, "cosine", 4, 12) == 1.0
    assert math.isclose(lr_factor(8, "cosine", 4, 12), 0.5)
    assert lr_factor(12, "cosine", 4, 12) == lr_factor(99, "cosine", 4, 12) == 0.0


def test_errors():
    frozen, free = torch.nn.Parameter(torch.zeros(1), requires_grad=False), torch.nn.Parameter(torch.zeros(1))
    optimizer = adamw([frozen, free], 1e-3, (0.9, 0.99), 0.0)
    assert optimizer.param_groups[0]["params"] == [free]
    with pytest.raises(ValueError, match="lr_schedule='linear'.*constant, cosine"):
        lr_scheduler(optimizer, "linear", 0, 10)
    with pytest.raises(ValueError, match="decay_steps=inf"):
        lr_scheduler(optimizer, "cosine", 0, math.inf)
    with pytest.raises(ValueError, match="warmup_steps=-1"):
        lr_scheduler(optimizer, "constant", -1, 0)
