"""Two datasets are compared from the command line: figures, pages, and what is refused."""

import json

import numpy as np
import pytest
import torch
from checkpoints import saved, segmenter

from callbacks.metrics.segmentation import compare_masks
from datamodules import phantom
from experiments.evaluate import dice_notes
from lightning_modules.segmenter import Segmenter

DATA = ["data.num_images=60", "data.image_size=16", "job.extractor.image_size=32", "job.num_halvings=3",
        "trainer.accelerator=cpu"]  # fmt: skip


def test_other_data_against_real_ones(command, here):
    other = "job.other=['data=phantom','data.num_images=40','seed=5']"
    result = command("+exp=evaluate", *DATA, other, "output_dir=out")
    assert result.code == 0, result.err
    found = json.loads((here / "out/evaluation.json").read_text(), parse_constant=pytest.fail)
    assert found["num_images"] == 20 and found["num_halvings"] == 3 and found["extractor"] == "efficientnet_lite0"
    assert set(found["figures"]) == {"fd", "kd", "coverage"} and set(found["sets"]) == {"ms_ssim"}
    assert "mask_shapes" not in found and not (here / "out/masks.png").exists()
    for sides in [*found["figures"].values(), *found["sets"].values()]:
        assert all(side["low"] <= side["value"] <= side["high"] for side in sides.values())
    page, text = ((here / "out" / name).read_text() for name in ("evaluation.html", "evaluation.md"))
    assert "<script" not in page and "Fréchet distance" in page and "num_halvings=3" in page
    assert f"{found['figures']['fd']['other']['value']:.4g}" in text and "evaluation.png" in text
    record = json.loads((here / "out/record.json").read_text())
    assert record["metrics"]["fd/other"] == found["figures"]["fd"]["other"]["value"]
    assert record["metrics"]["ms_ssim/real"] == found["sets"]["ms_ssim"]["real"]["value"]
    assert set(record["fingerprints"]) == {"data", "compared"}
    again = command("+exp=evaluate", *DATA, other, "output_dir=again")
    assert again.code == 0 and json.loads((here / "again/evaluation.json").read_text())["figures"] == found["figures"]


MASKS = [*DATA, "data.masks=[disc,cup]", "data.image_size=32"]


def levels_of(seed, index):
    """Levels of the mask of a phantom, disc 1 and cup 2, and its image [1, 3, 32, 32] in [0, 1]."""
    shown = phantom.render(seed, index, 32)
    image = torch.from_numpy(shown.image).permute(2, 0, 1)[None].float() / 255
    return np.where(shown.masks["cup"] > 0, 2, np.where(shown.masks["disc"] > 0, 1, 0)), image


def test_masks_are_compared_and_a_segmenter_finds_them_on_both_sides(command, here, monkeypatch):
    """Areas and Dice again, from the phantoms themselves; the segmenter calls bright pixels disc."""
    saved(segmenter(), here / "segmenter.ckpt")
    monkeypatch.setattr(Segmenter, "segment", lambda self, images: (images[:, 0] > 0.75).long())
    other = "job.other=['data=phantom','data.num_images=40','seed=5','data.masks=[disc,cup]']"
    result = command("+exp=evaluate", *MASKS, other, "job.segmenter=segmenter.ckpt", "output_dir=out")
    assert result.code == 0, result.err
    found = json.loads((here / "out/evaluation.json").read_text(), parse_constant=pytest.fail)
    pairs = [levels_of(5, index) for index in range(40)]
    areas = [(levels == 2).mean() for levels, _ in pairs if (levels == 2).any()]
    shapes = found["mask_shapes"]
    assert shapes["area_cup_mean"]["other"]["value"] == pytest.approx(np.mean(areas))
    assert shapes["area_cup_deviation"]["other"]["value"] == pytest.approx(np.std(areas, ddof=1))
    assert shapes["presence_cup_mean"]["other"]["value"] == pytest.approx(len(areas) / 40)
    dice = [compare_masks((image[0, 0] > 0.75).numpy(), levels == 1)["dice"] for levels, image in pairs]
    assert found["sets"]["dice_disc"]["other"]["value"] == pytest.approx(np.mean(dice), abs=1e-6)
    assert set(found["sets"]) == {"ms_ssim", "dice", "dice_disc", "dice_cup"}
    assert {name for name in found["mask_distances"] if name.endswith("_cup")} == {
        f"wasserstein_{name}_cup" for name in ("presence", "area", "perimeter", "num_components", "row", "column")
    }
    text = (here / "out/evaluation.md").read_text()
    assert (here / "out/masks.png").stat().st_size > 1000 and "(masks.png)" in text
    page = (here / "out/evaluation.html").read_text()
    assert page.count("<img ") == 2 and page.count("<table") == 4
    metrics = json.loads((here / "out/record.json").read_text())["metrics"]
    assert metrics["dice_disc/other"] == found["sets"]["dice_disc"]["other"]["value"]


def test_masks_that_do_not_compare_are_left_out_or_refused(command, here):
    saved(segmenter(), here / "segmenter.ckpt")
    other = "job.other=['data=phantom','data.num_images=40','data.masks=[vessel]']"
    result = command("+exp=evaluate", *MASKS, other, "output_dir=out")
    assert result.code == 0 and "Masks are not compared" in (here / "out/evaluation.md").read_text()
    assert "mask_distances" not in json.loads((here / "out/evaluation.json").read_text())
    for words, said in ((other, "vessel"), ("job.other=['data=phantom','data.num_images=40']", "no masks")):
        refused = command("+exp=evaluate", *MASKS, words, "job.segmenter=segmenter.ckpt", f"output_dir=no_{len(said)}")
        assert refused.code != 0 and "job.segmenter=segmenter.ckpt" in refused.err and said in refused.err


def test_what_makes_dice_on_real_images_too_good_is_said():
    assert dice_notes(0, 90, 64, 64) == []
    assert "7 of 90" in dice_notes(7, 90, 64, 64)[0] and len(dice_notes(7, 90, 64, 64)) == 1
    assert len(dice_notes(None, 90, 128, 64)) == 2 and "128" in dice_notes(None, 90, 128, 64)[1]


def test_a_dataset_against_itself_is_no_farther_than_the_floor(command, here):
    result = command("+exp=evaluate", *DATA, "job.other=['data=phantom','data.num_images=60']", "output_dir=out")
    assert result.code == 0, result.err
    assert "told apart: yes" not in result.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name one dataset that is compared"),
        (["job.dataset=a", "job.other=['data=idrid']"], "name one dataset that is compared"),
        (["job.other=['data=phantom']", "ckpt=x.ckpt"], "evaluate has no weights"),
        (["job.other=['data=phantom','data.num_images=40']", "job.split=tran"], "job.split='tran'"),
        (["job.other=['data=phantom','data.num_images=40']", "job.other_split=vall"], "job.other_split='vall'"),
        (["job.other=['data=phantom','data.num_images=40']", "job.num_pairs=0"], "0 pairs"),
        (["job.other=['data=phantom','data.num_images=4']"], "the smallest half has 2 images"),
        (["job.other=['data=phantom']", "job.max_images=1"], "job.max_images=1"),
        (["job.other=['data=nowhere']"], "nowhere"),
        (["job.dataset=there_is_none"], "there_is_none"),
    ],
)
def test_what_cannot_be_compared_is_refused(command, words, said):
    result = command("+exp=evaluate", *DATA, *words, "output_dir=out")
    assert result.code != 0 and said in result.err and "Traceback" not in result.err
