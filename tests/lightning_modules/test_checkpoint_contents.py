"""A checkpoint of another shape than a run writes is refused where it is read, with its path and what is wrong."""

import math
from typing import Any

import lightning as L
import pytest
import torch
from refusals import refuses
from torch import nn

from lightning_modules.checkpoint import (
    CONFIG_KEY,
    TRAINED_ON_KEY,
    load_progress,
    load_state,
    load_training,
    load_weights,
)

COUNTER = {"ready": 1, "started": 1, "processed": 1, "completed": 1}
PROGRESS = {"total": COUNTER, "current": COUNTER}
TRAINED_ON = {
    "patients": torch.zeros(3, dtype=torch.int64),
    "labels": torch.zeros(2, 16, dtype=torch.int8),
    "counts": torch.ones(2, dtype=torch.int64),
    "own_patients": 3,
}
GOOD = {
    "epoch": 1,
    "global_step": 5,
    "state_dict": {"weight": torch.ones(1, 1), "bias": torch.ones(1)},
    "loops": {"fit_loop": {"epoch_progress": PROGRESS, "epoch_loop.batch_progress": PROGRESS}},
    "optimizer_states": [{}],
    "lr_schedulers": [],
    "callbacks": {"ModelCheckpoint": {"best_model_path": ""}},
    "pytorch-lightning_version": L.__version__,
    CONFIG_KEY: {"seed": 1, "model": {"sizes": [1, [2.5, None, True]], 3: "x"}},
    TRAINED_ON_KEY: TRAINED_ON,
}


def refused(tmp_path, what: Any, facts: list[str], *readers) -> None:
    torch.save(what, tmp_path / "x.ckpt")
    for read in readers:
        with refuses(ValueError, tmp_path / "x.ckpt", *facts, "Remedy"):
            read(tmp_path / "x.ckpt")


def test_what_a_run_writes_is_read(tmp_path):
    torch.save(GOOD, tmp_path / "x.ckpt")
    for read in (load_state, load_progress, load_training):
        assert read(tmp_path / "x.ckpt").keys() == GOOD.keys()


@pytest.mark.parametrize("what", [None, [], "text", 3, torch.zeros(3), [GOOD]])
def test_something_else_than_a_mapping(tmp_path, what):
    refused(tmp_path, what, ["'state_dict'"], load_state, load_progress, load_training)


@pytest.mark.parametrize(
    "state",
    [None, [], "text", torch.zeros(3), {"a": 1}, {"a": {"b": torch.zeros(1)}}, {"a": [torch.zeros(1)]}, {"a": None},
     {1: torch.zeros(1)}, {"a": torch.zeros(1).to_sparse()}, {"a": torch.zeros(1, device="meta")},
     {"a": torch.zeros(1, dtype=torch.complex64)}],
)  # fmt: skip
def test_a_state_dict_of_another_kind(tmp_path, state):
    refused(tmp_path, GOOD | {"state_dict": state}, ["'state_dict'"], load_state)


@pytest.mark.parametrize(
    "config",
    [None, [], "text", 3, torch.zeros(1), {"a": torch.zeros(1)}, {"a": [{"b": {1, 2}}]}, {("a",): 1}, {None: 1},
     {"a": "${b}"}, {"${a}": 1}, {"a": [[("x${oc.env:HOME}",)]]}],
)  # fmt: skip
def test_a_configuration_of_another_kind(tmp_path, config):
    refused(tmp_path, GOOD | {CONFIG_KEY: config}, [CONFIG_KEY], load_state, load_progress, load_training)


@pytest.mark.parametrize(
    "change",
    [None, "text", [], {}, {"patients": "text"}, {"patients": [1, 2]}, {"patients": torch.zeros(3)},
     {"patients": torch.zeros(3, 2, dtype=torch.int64)}, {"labels": None}, {"labels": torch.zeros(2, dtype=torch.int8)},
     {"labels": torch.zeros(3, 16, dtype=torch.int8)}, {"counts": 3}, {"own_patients": "many"}, {"unknown": "text"},
     {"unknown": [1]}, {"labels": torch.zeros(0, 16, dtype=torch.int8), "counts": torch.zeros(0, dtype=torch.int64)},
     {"counts": torch.tensor([0, 3])}, {"counts": torch.tensor([-1, 3])},
     {"patients": torch.zeros(3, dtype=torch.int64, device="meta")},
     {"patients": torch.zeros(3, dtype=torch.int64).to_sparse()}],
)  # fmt: skip
def test_a_word_on_the_training_data_of_another_kind(tmp_path, change):
    facts = TRAINED_ON | change if isinstance(change, dict) and change else change
    refused(tmp_path, GOOD | {TRAINED_ON_KEY: facts}, [TRAINED_ON_KEY], load_state, load_progress)


@pytest.mark.parametrize(
    ("key", "value"),
    [("loops", None), ("loops", {}), ("loops", []), ("loops", {"fit_loop": None}), ("loops", {"fit_loop": {}}),
     ("loops", {"fit_loop": {"epoch_progress": 3, "epoch_loop.batch_progress": PROGRESS}}),
     ("loops", {"fit_loop": {"epoch_progress": {"total": {"ready": "1"}}, "epoch_loop.batch_progress": PROGRESS}}),
     ("optimizer_states", None), ("optimizer_states", {}), ("lr_schedulers", None), ("epoch", None),
     ("global_step", None), ("callbacks", None), ("callbacks", []), ("callbacks", {"a": None}),
     *(("pytorch-lightning_version", version) for version in (None, 3, "new", "1.9.5", "0.1"))],
)  # fmt: skip
def test_training_does_not_go_on_from_weights_alone(tmp_path, key, value):
    state = {name: held for name, held in GOOD.items() if name != key} | ({} if value is None else {key: value})
    refused(tmp_path, state, [f" {key} ", "resume="], load_training)
    load_state(tmp_path / "x.ckpt")


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_weights_that_are_no_numbers_are_not_loaded(value):
    module = nn.Linear(1, 1)
    state = {"state_dict": GOOD["state_dict"] | {"bias": torch.tensor([value])}}
    with refuses(ValueError, "x.ckpt", "NaN", "bias"):
        load_weights(module, state, "x.ckpt")
    assert not torch.equal(module.weight, torch.ones(1, 1))


@pytest.mark.parametrize(
    ("change", "facts"),
    [({"global_step": "7"}, ["global_step", "'7'"]), ({"epoch": -1}, ["epoch", -1]),
     ({CONFIG_KEY: {"model": [1]}}, [CONFIG_KEY, "model"]), ({CONFIG_KEY: {"data": "x"}}, [CONFIG_KEY, "data"]),
     ({CONFIG_KEY: {"autoencoder": 3}}, [CONFIG_KEY, "autoencoder"]),
     ({CONFIG_KEY: {"model": {"init": "x"}}}, [CONFIG_KEY, "model.init"])],
)  # fmt: skip
def test_a_part_of_another_kind(tmp_path, change, facts):
    refused(tmp_path, GOOD | change, facts, load_state, load_progress)


def test_a_configuration_without_an_end_is_refused(tmp_path):
    """A list within itself can be saved; and one that is nested too deeply ends in a RecursionError elsewhere."""
    endless: list[Any] = []
    endless.append(endless)
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    for config in ({"model": {"sizes": endless}}, {"model": {"sizes": deep}}, {"model": {"sizes": [0] * 100_001}}):
        refused(tmp_path, {**GOOD, CONFIG_KEY: config}, [CONFIG_KEY, "nested"], load_state, load_progress)
