"""How long a training is going to take, as it is foretold."""

import re
import time

import pytest
from tiny_runs import DDPM_TRAIN

from experiments import run_time
from experiments.composition import compose_config

EXPECTED = re.compile(r"expected: +about (\d+\.?\d*) minutes .*\((.*)\)")


def parts(out: str) -> dict[str, float]:
    """Minutes of each part that was said."""
    [(_, listed)] = EXPECTED.findall(out)
    return {name: float(minutes) for name, minutes in (part.rsplit(" ", 1) for part in listed.split(", "))}


def test_the_parts_are_told_what_is_there_costs_nothing_and_training_is_as_without(command, here, monkeypatch):
    words = [*DDPM_TRAIN, "trainer.max_epochs=1"]
    first = command(*words, "output_dir=a")
    assert first.code == 0, first.err
    assert list(parts(first.out)) == ["reading", "autoencoder", "denoiser", "evaluation"]
    monkeypatch.setattr("experiments.ddpm_train.foretell", lambda *all_of_it: None)
    assert command(*words, "output_dir=b", "cache_dir=other").code == 0
    monkeypatch.undo()
    monkeypatch.chdir(here)
    same = ["metrics.csv", "autoencoder/metrics.csv"]
    assert [(here / "a" / name).read_text() for name in same] == [(here / "b" / name).read_text() for name in same]
    [kept] = (here / "cache/autoencoders").glob("*.ckpt")
    again = command(*words, "output_dir=c", f"autoencoder.pretrained={kept}")
    assert parts(again.out).keys() == {"reading", "denoiser", "evaluation"} and parts(again.out)["reading"] == 0
    assert command(*words, "output_dir=d", "trainer.max_epochs=null", "trainer.max_steps=4").code == 0
    assert command(*words, "output_dir=e", "job.repeat_threshold=5").err.startswith("error: job.repeat_threshold=5")


@pytest.mark.parametrize(
    ("words", "world_size", "steps", "epochs"),
    [
        ([], 1, 3750 // 16, 8),
        ([], 4, 3750 // 64, 8),
        (["data.epoch_size=null"], 1, 1000 // 16, 8),
        (["trainer.max_epochs=3", "data.batch_size=10", "data.epoch_size=95"], 1, 9, 3),
        (["trainer.max_epochs=null", "trainer.max_steps=500"], 1, 234, 500 / 234),
        (["trainer.max_epochs=-1", "trainer.max_steps=500", "trainer.accumulate_grad_batches=2"], 1, 234, 1000 / 234),
        (["trainer.max_epochs=2", "trainer.max_steps=5000"], 1, 234, 2),
        (["trainer.limit_train_batches=7"], 1, 7, 8),
        (["trainer.limit_train_batches=0.5"], 1, 117, 8),
    ],
)
def test_steps_are_those_of_whole_batches(words, world_size, steps, epochs):
    cfg = compose_config(["+exp=ddpm_train_plain", "output_dir=x", *words])
    num_images, limit = cfg.data.epoch_size or 1000, cfg.trainer.get("limit_train_batches", 1.0)
    assert run_time.steps_of_an_epoch(num_images, cfg.data.batch_size * world_size, limit) == steps
    accumulated = cfg.trainer.accumulate_grad_batches or 1
    assert run_time.num_epochs(steps / accumulated, cfg.trainer.max_epochs, cfg.trainer.max_steps) == pytest.approx(
        epochs
    )


def test_a_step_is_timed_without_its_first():
    calls = []

    def step():
        calls.append(1)
        time.sleep(0.5 if len(calls) == 1 else 0.02)

    assert 0.02 <= run_time.timed(step) < 0.2 and len(calls) == 1 + run_time.NUM_TIMED
