"""Files of weights of others: what is beside the weights does no harm, and what is damaged is said by name."""

import argparse
import collections
import datetime
import errno
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from lightning.fabric.utilities.data import AttributeDict
from omegaconf import OmegaConf
from refusals import refuses
from torch import nn

import callbacks.weights_file
import lightning_modules.weights_file
from lightning_modules.initialisation import CheckpointInit
from lightning_modules.weights_file import KEYS, is_plain, read_plain, read_weights, without_prefix

WEIGHTS = {"0.weight": torch.ones(2, 3), "0.bias": torch.ones(2), "1.weight": torch.ones(1, 2), "1.bias": torch.ones(1)}


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))


def started(path: Path) -> nn.Module:
    backbone = network()
    CheckpointInit(str(path))(backbone)
    return backbone


def test_both_rooms_read_alike():
    rooms = lightning_modules.weights_file, callbacks.weights_file
    assert len({Path(room.__file__).read_text() for room in rooms}) == 1


@pytest.mark.parametrize("prefix", ["", "module.", "module.model.", "_orig_mod.module.", "a.b.c.d."])
@pytest.mark.parametrize("keys", [(), *((key,) for key in KEYS), ("model", "state_dict"), ("net", "module", "params")])
def test_wherever_the_weights_lie(tmp_path, keys, prefix):
    held = {f"{prefix}{name}": tensor for name, tensor in WEIGHTS.items()} | {f"{prefix}head.weight": torch.zeros(9)}
    for key in reversed(keys):
        held = {key: held, "epoch": 3}
    torch.save(held, tmp_path / "w.pth")
    for name, tensor in started(tmp_path / "w.pth").state_dict().items():
        assert torch.equal(tensor, WEIGHTS[name]), name


BESIDE = {
    "arguments": argparse.Namespace(lr=1, folder=Path("/data")),
    "numpy scalars": [np.float64(0.5), np.int64(3), np.float32(1), np.bool_(True)],
    "an array": np.arange(3),
    "times": [datetime.datetime.now(), datetime.datetime.now(datetime.UTC), datetime.timedelta(1)],
    "a path": {Path("/data"): Path("a")},
    "collections": [collections.defaultdict(list, {1: [2]}), collections.deque([1])],
    "omegaconf": OmegaConf.create({"lr": 1, "inner": [1, {"a": "b"}]}),
    "hyper parameters": AttributeDict(lr=1, path=Path("/data")),
}


@pytest.mark.parametrize("beside", BESIDE)
def test_what_is_harmless_beside_weights_is_passed_over(tmp_path, beside):
    torch.save({"args": BESIDE[beside], "model": WEIGHTS, "last": [BESIDE[beside]]}, tmp_path / "w.pth")
    assert started(tmp_path / "w.pth").state_dict().keys() == WEIGHTS.keys()
    found = read_plain(tmp_path / "w.pth", "weights")["args"]
    assert not isinstance(found, argparse.Namespace | np.ndarray | type(OmegaConf.create({}))), "it was not made"


class Harmful:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("called"),)


class Stranger:
    """Of a module that nobody knows."""


@pytest.mark.parametrize("beside", [Harmful(), Stranger()])
def test_what_would_be_called_is_refused_with_its_name(tmp_path, monkeypatch, beside):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": WEIGHTS, "args": [{"a": beside}]}, "w.pth")
    name = "getattr" if isinstance(beside, Harmful) else "Stranger"
    with refuses(ValueError, "model.init.path='w.pth'", name, ".safetensors") as told:
        started(Path("w.pth"))
    assert not Path("called").exists() and "safe_globals" not in str(told.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt", ".bin"])
def test_a_damaged_file_is_named_with_a_remedy(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    large = WEIGHTS | {"large": torch.ones(5000)}
    safetensors.torch.save_file(large, path) if suffix == ".safetensors" else torch.save({"state_dict": large}, path)
    whole = path.read_bytes()
    flipped = bytes(byte ^ 255 if place < 40 else byte for place, byte in enumerate(whole))
    damaged = {"empty": b"", "text": b"hello", "html": b"<html>", "short": whole[:9], "cut": whole[:-100]}
    for how, content in (damaged | {"flipped": flipped, "zeros": bytes(len(whole))}).items():
        path.write_bytes(content)
        with refuses(ValueError, f"model.init.path='{path}'", "containers"):
            started(path)
        assert how


@pytest.mark.parametrize("held", [[1, 2], "text", None, 3, {"epoch": 3}, {"model": [WEIGHTS]}, {"model": {}}, {1: 2}])
def test_what_is_whole_and_holds_no_weights(tmp_path, held):
    torch.save(held, tmp_path / "w.pth")
    with refuses(ValueError, f"weights='{tmp_path / 'w.pth'}'", *KEYS):
        read_weights(tmp_path / "w.pth", "weights")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENOMEM, errno.EACCES])
def test_an_error_that_passes_is_not_the_files_fault(tmp_path, monkeypatch, number):
    torch.save(WEIGHTS, tmp_path / "w.pth")

    def fail(*_, **__):
        raise OSError(number, "the share is away")

    monkeypatch.setattr(torch, "load", fail)
    with refuses(OSError, f"[Errno {number}]", "the share is away"):
        read_weights(tmp_path / "w.pth", "weights")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    torch.save(WEIGHTS | {"1.bias": torch.tensor([value])}, tmp_path / "w.pth")
    with refuses(ValueError, tmp_path / "w.pth", "NaN", "1.bias"):
        started(tmp_path / "w.pth")


ODD = {
    "sparse": torch.ones(1).to_sparse(),
    "meta": torch.ones(1, device="meta"),
    "quantized": torch.quantize_per_tensor(torch.ones(1), 1.0, 0, torch.qint8),
    "complex": torch.ones(1, dtype=torch.complex64),
}


@pytest.mark.parametrize("odd", ODD)
def test_tensors_that_are_not_plain_are_refused(tmp_path, odd):
    torch.save({"model": WEIGHTS | {"1.bias": ODD[odd]}}, tmp_path / "w.pth")
    for read in (lightning_modules.weights_file.read_weights, callbacks.weights_file.read_weights):
        with refuses(ValueError, f"weights='{tmp_path / 'w.pth'}'", "'1.bias'", "dense"):
            read(tmp_path / "w.pth", "weights")
    assert not is_plain(torch.nested.nested_tensor([torch.ones(1)])) and not is_plain([1.0]) and is_plain(torch.ones(1))


def test_the_beginning_that_leaves_most_names(tmp_path):
    named = {"ema.net.0.weight": WEIGHTS["0.weight"], "net.0.weight": torch.zeros(2, 3), "net.0.bias": torch.zeros(2)}
    assert list(without_prefix(named, WEIGHTS)) == ["0.weight", "0.bias"]
    del named["net.0.bias"]
    assert torch.equal(without_prefix(named, WEIGHTS, ["ema.net."])["0.weight"], WEIGHTS["0.weight"])
