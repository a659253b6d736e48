"""The cases step, latents, sampling and guidance compare like with like, and say what their figures depend on."""

import json

import pytest
from PIL import Image
from test_smoke import SMALL
from tiny_runs import DATA

from experiments.benchmarks import latents, sampling
from experiments.benchmarks.step import summary


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


def test_a_case_that_is_none_is_refused(command):
    result = command("+exp=benchmark", "job.case=stpe", "output_dir=out")
    assert (
        result.code == 1 and "job.case=stpe" in result.err and "step, latents, sampling, guidance, recipe" in result.err
    )


def test_latents_and_images_take_turns(command, here, monkeypatch):
    from lightning_modules.latent_diffusion import LatentDiffusion

    training_step, seen = LatentDiffusion.training_step, []

    def spy(self, batch, index):
        seen.append("latent_mean" in batch)
        return training_step(self, batch, index)

    monkeypatch.setattr(LatentDiffusion, "training_step", spy)
    result = command("+exp=benchmark", "job.case=latents", *SMALL["benchmark"], "output_dir=out")
    assert result.code == 0, result.err
    assert seen == ([True] * 4 + [False] * 4) * 3, "a pair to warm up, then two; the first batch of a turn is not timed"
    figures = json.loads((here / "out/benchmark.json").read_text())
    assert len(figures["ratio"]["turns"]) == figures["num_turns"] == 2 and figures["preparing_seconds"] > 0
    for turn, ratio in enumerate(figures["ratio"]["turns"]):
        cached, encoding = (figures[f"{name}_images_per_second"]["turns"][turn] for name in ("cached", "encoding"))
        assert ratio == pytest.approx(cached / encoding)
    assert figures["case"] == "latents" and figures["device"] == "cpu" and "cached_images_per_second" in result.out


def test_latents_summary():
    figures = latents.summary([(1.0, 2.0), (1.0, 4.0), (2.0, 6.0)], num_images=12)
    assert figures["ratio"]["turns"] == [2, 4, 3] and figures["ratio"]["median"] == 3
    assert figures["cached_images_per_second"]["min"] == 6 and figures["encoding_images_per_second"]["max"] == 6


TINY_SAMPLING = ["job.num_turns=2", "job.num_images=64", "job.num_real=40", "job.extractor.image_size=32",
                 "job.reference.num_steps=4", "trainer.accelerator=cpu"]  # fmt: skip


def test_sampling_against_the_reference(command, here, generator):
    words = [*DATA, *TINY_SAMPLING, "data.num_images=80", f"ckpt={generator}", "output_dir=out"]
    result = command("+exp=benchmark", "job.case=sampling", *words)
    assert result.code == 0, result.err
    figures = json.loads((here / "out/benchmark.json").read_text(), parse_constant=pytest.fail)
    ours, reference = figures["ours"], figures["reference"]
    assert ours["sampling"]["scheduler"] == "dpm_solver" and ours["sampling"]["classifier_scale"] > 0
    wanted = {"scheduler": "ddim", "num_steps": 4, "guidance": 1.5, "classifier_scale": 0, "spacing": "trailing"}
    assert wanted.items() <= reference["sampling"].items()
    assert ours[figures["distance"]] != reference[figures["distance"]] and ours["agreement"] != reference["agreement"]
    for turn, ratio in enumerate(figures["times_faster"]["turns"]):
        seconds = [way["seconds_per_image"]["turns"][turn] for way in (ours, reference)]
        assert ratio == pytest.approx(seconds[1] / seconds[0])
    assert len(figures["times_faster"]["turns"]) == 2 and 0 < figures["agreement_real"] <= 1
    assert ours["agreements"]["eye_side"] is not None and "ddim 4, guidance 1.5" in result.out
    assert json.loads((here / "out/record.json").read_text())["status"] == "finished"


def test_sampling_needs_a_generator_and_its_size(command, generator):
    result = command("+exp=benchmark", "job.case=sampling", "output_dir=out")
    assert result.code == 1 and "ckpt is not given" in result.err
    result = command("+exp=benchmark", "job.case=sampling", f"ckpt={generator}", "output_dir=out")
    assert result.code == 1 and "makes images of 16 pixels. Remedy: data.image_size=16" in result.err


def test_guidance_over_its_scale(command, here, generator):
    words = [
        *DATA,
        "data.num_images=80",
        *TINY_SAMPLING[1:4],
        "job.scales=[6,0,2]",
        f"ckpt={generator}",
        "output_dir=out",
    ]
    result = command("+exp=benchmark", "job.case=guidance", "trainer.accelerator=cpu", *words)
    assert result.code == 0, result.err
    found = json.loads((here / "out/benchmark.json").read_text(), parse_constant=pytest.fail)
    assert [point["scale"] for point in found["points"]] == [0, 2, 6]
    distances = [point[found["distance"]] for point in found["points"]]
    assert len(set(distances)) == 3 and all(0 <= point[found["coverage"]] <= 1 for point in found["points"])
    assert found["own"]["classifier_scale"] == 8 and "| 6 |" in (here / "out/benchmark.md").read_text()
    with Image.open(here / "out/benchmark.png") as drawn:
        assert drawn.width > drawn.height > 100
    alone = command("+exp=benchmark", "job.case=guidance", *words[:-1], "job.scales=[2]", "output_dir=alone")
    assert alone.code == 0, alone.err
    again = json.loads((here / "alone/benchmark.json").read_text())["points"][0]
    assert again == found["points"][1], "a scale's figures do not depend on the others"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("job.scales=[]", "job.scales is empty"),
        ("job.scales=[-1]", "classifier_scale"),
        ("job.vary=scale", "job.vary='scale'"),
    ],
)
def test_scales_that_mean_nothing_are_refused(command, generator, words, said):
    size = ("data.image_size=16", "job.extractor.image_size=32")
    result = command("+exp=benchmark", "job.case=guidance", words, f"ckpt={generator}", "output_dir=out", *size)
    assert result.code == 1 and said in result.err


def test_the_guidance_of_the_reference():
    wanted = {"scheduler": "ddim", "num_steps": 50, "guidance": None}
    assert sampling.reference({"guidance": 1.0}, wanted)["guidance"] == 1.5
    assert sampling.reference({"guidance": 2.5}, wanted)["guidance"] == 2.5
    assert sampling.reference({"guidance": 2.5}, {**wanted, "guidance": 1.0})["guidance"] == 1.0
