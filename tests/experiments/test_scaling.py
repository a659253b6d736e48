"""The model of training on many devices: closed forms, and what is counted of a network."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses
from tiny_runs import DATA, UNET
from torch import nn

from experiments.composition import compose_config
from experiments.scaling import kept_bytes, scaling
from experiments.scaling_model import (
    STRATEGIES,
    Machine,
    Work,
    choice,
    largest_batch,
    sent_bytes,
    state_bytes,
    step_of,
    steps_of,
)
from experiments.session import Run

MACHINE = Machine(tflops=100, memory=80e9, per_node=8, link=300e9, network=40e9)
WORK = Work(num_trained=10**9, num_frozen=10**8, num_block=10**7, flop=1e12, activation_bytes=1e8, fixed_bytes=2e9)


def test_bytes_of_a_weight():
    """AdamW in float32 with averages: 20 bytes a weight on one device; Rajbhandari et al. 2020, figure 1, plus 4."""
    each = {name: sum(state_bytes(name, 1000, 10).values()) / 1000 for name in STRATEGIES}
    assert each == pytest.approx({
        "single": 20, "ddp": 24, "fsdp2": 2.0, "deepspeed_zero1": 4 + 4 + 4 + 1.2, "deepspeed_zero2": 8 + 0.4 + 1.2,
        "deepspeed_zero3": 0.8 + 0.4 + 1.2,
    })  # fmt: skip


@pytest.mark.parametrize("num", [2, 3, 8])
def test_bytes_sent_are_those_of_a_ring(num):
    """Each of num devices sends num - 1 times one num-th part of the tensor, to add up and again to hand on."""
    numel, sent = num * 5, 0
    for _ in ("add up and scatter", "gather"):
        for _round in range(num - 1):
            sent += 4 * numel // num
    assert sent_bytes("ddp", numel, num) == sent
    assert sent_bytes("fsdp2", numel, num) == sent_bytes("deepspeed_zero1", numel, num) == sent * 3 / 2


def test_a_step():
    step = step_of("ddp", 8, 32, WORK, MACHINE)
    assert step.computing == pytest.approx(32 / 100)
    assert step.sending == pytest.approx(8e9 * 7 / 8 / 300e9)
    assert step.peak == pytest.approx(24e9 + 4e8 + 2e9 + 32e8)
    assert step.images_per_second == pytest.approx((256 / (0.32 + 7 / 300), 256 / 0.32))
    assert step_of("ddp", 16, 32, WORK, MACHINE).sending == pytest.approx(8e9 * 15 / 16 / 40e9)
    assert step_of("single", 1, 32, WORK, MACHINE).efficiency == (1, 1)


@given(st.sampled_from(STRATEGIES[1:]), st.integers(2, 64), st.integers(1, 500), st.floats(5e9, 2e11))
def test_the_largest_batch_fits_and_one_more_does_not(strategy, num, batch_size, memory):
    machine = Machine(100, memory, 8, 300e9, 40e9)
    most = largest_batch(step_of(strategy, num, batch_size, WORK, machine), WORK, machine)
    assert step_of(strategy, num, most + 1, WORK, machine).peak > memory * (1 - 1e-9)
    assert most == 0 or step_of(strategy, num, most, WORK, machine).peak <= memory * (1 + 1e-9)


def test_what_is_chosen_fits_and_is_the_fastest():
    def chosen(memory):
        machine = Machine(100, memory, 8, 300e9, 40e9)
        step = choice(steps_of(WORK, machine, 8, 32), machine)
        return step and step.strategy

    # Peaks: 29.6, 19.5, 16.0, 8.57, 8.22 GB; all but ddp send as much, and the first of them that fits is taken.
    assert [chosen(size) for size in (30e9, 28e9, 16.5e9, 9e9, 8.3e9, 8e9)] == [
        "ddp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3", "fsdp2", None,
    ]  # fmt: skip


def test_what_a_network_keeps_for_the_backward_pass():
    """A linear layer keeps its input, a sigmoid its output; weights are there anyway, in bfloat16 they are not."""
    network, x = nn.Sequential(nn.Linear(5, 7), nn.Sigmoid(), nn.Linear(7, 3)), torch.zeros(11, 5)
    assert kept_bytes(network, [x], "32-true") == 4 * 11 * (5 + 7)
    assert kept_bytes(network, [x], "bf16-mixed") == 2 * 11 * (5 + 7) + 2 * 7 * 3


def test_the_job_says_what_it_counts(tmp_path, capsys):
    words = ["+exp=ddpm_train", "job=scaling", *DATA, *UNET, "job.devices=[1,2]", f"output_dir={tmp_path}"]
    scaling(Run(compose_config(words)))
    figures = json.loads((tmp_path / "scaling.json").read_text())
    assert [step["strategy"] for step in figures["steps"]] == list(STRATEGIES)
    out = capsys.readouterr().out
    assert "1 device(s): strategy=single" in out and f"{figures['work']['flop'] / 1e9:.1f} GFLOP" in out


@pytest.mark.parametrize("word, facts", [
    ("job.tflops=0", ["job.tflops=0"]), ("job.devices=[0]", ["job.devices=[0]"]),
    ("ckpt=a.ckpt", ["scaling", "weights", "ckpt"]),
])  # fmt: skip
def test_numbers_that_mean_nothing(tmp_path, word, facts):
    with refuses(ValueError, *facts):
        scaling(Run(compose_config(["+exp=scaling", f"output_dir={tmp_path}", word])))


@pytest.mark.parametrize("name", ["vae_train", "classifier_train"])
def test_what_is_no_generator_is_not_counted(tmp_path, name):
    with refuses(ValueError, f"+exp={name}", "+exp=ddpm_train"):
        scaling(Run(compose_config([f"+exp={name}", "job=scaling", f"output_dir={tmp_path}"])))
