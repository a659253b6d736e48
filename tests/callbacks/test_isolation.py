"""Leaving an evaluation, everything is as it was; files are whole or not there."""

import random

import numpy as np
import pytest
import torch
from refusals import refuses

from callbacks.files import write_atomically, write_text
from callbacks.isolation import demand, isolated, to_uint8


def test_random_streams_are_restored():
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    with isolated(torch.nn.Module()):
        torch.rand(3), np.random.rand(3), random.random()
    assert (torch.rand(1), np.random.rand(), random.random()) == expected


def test_modes_and_gradients_are_restored_even_after_an_error():
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm1d(2))
    module[1].eval()  # frozen on purpose, inside a module that trains
    with pytest.raises(ZeroDivisionError), isolated(module):
        assert not any(part.training for part in module.modules())
        assert not torch.is_grad_enabled()
        module.train()
        raise ZeroDivisionError
    assert [part.training for part in module.modules()] == [True, True, False]
    assert torch.is_grad_enabled()


def test_rounding_is_that_of_a_saved_file():
    images = torch.tensor([-0.1, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.2]).view(1, 1, 2, 3)
    assert to_uint8(images).flatten().tolist() == [0, 0, 0, 1, 255, 255]
    with refuses(ValueError, "images [1]", "batch of 2"):
        to_uint8(torch.tensor([0.5, float("inf")]).view(2, 1, 1, 1))


def test_demand_says_what_is_missing():
    demand("Grid", "thing", "text", "upper")
    with refuses(ValueError, "Grid", "thing.{upper, images}", "without images"):
        demand("Grid", "thing", "text", "upper", "images")


def test_failed_write_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "a" / "file.txt", "old")

    def broken(temporary):
        temporary.write_text("ne")
        raise OSError("disk full")

    with refuses(OSError, "disk full"):
        write_atomically(tmp_path / "a" / "file.txt", broken)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file.txt"]
    assert (tmp_path / "a" / "file.txt").read_text() == "old"
