"""The benchmark compares like with like, and says what its figures depend on."""

import json

import pytest
from test_smoke import SMALL

from experiments.benchmark import summary


@pytest.mark.parametrize("latents", ["true", "false"], ids=["latents", "images"])
def test_both_loops_end_with_the_same_weights(command, here, latents):
    result = command("+exp=benchmark", *SMALL["benchmark"], f"job.cache_latents={latents}", "output_dir=out")
    assert result.code == 0, result.err
    figures = json.loads((here / "out/benchmark.json").read_text())
    assert figures["same_weights"] is True
    assert len(figures["ratio"]["turns"]) == figures["num_turns"] == 2
    for name in ("seed", "num_threads", "versions", "device", "batch_size", "latent_shape", "code", "precision"):
        assert name in figures
    ratio = figures["ratio"]
    assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]
    assert "median" in result.out and "same weights at the end: yes" in result.out


def test_the_bare_loop_notices_other_mathematics(command, here, monkeypatch):
    from lightning_modules.latent_diffusion import LatentDiffusion

    training_step = LatentDiffusion.training_step
    monkeypatch.setattr(LatentDiffusion, "training_step", lambda self, *step: 1.01 * training_step(self, *step))
    assert command("+exp=benchmark", *SMALL["benchmark"], "trainer.gradient_clip_val=null", "output_dir=out").code == 0
    assert json.loads((here / "out/benchmark.json").read_text())["same_weights"] is False


def test_summary():
    figures = summary([(3.0, 2.0), (1.0, 1.0), (4.0, 2.0)], num_steps=10)
    assert figures["ratio"]["median"] == 1.5 and figures["ratio"]["max"] == 2
    assert figures["tax_ms_per_step"]["turns"] == pytest.approx([100, 0, 200])
    assert figures["ours_ms_per_step"]["min"] == pytest.approx(100)
