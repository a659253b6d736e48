"""Two datasets are compared from the command line: figures, pages, and what is refused."""

import json

import pytest

DATA = ["data.num_images=60", "data.image_size=16", "job.extractor.image_size=32", "job.num_halvings=3",
        "trainer.accelerator=cpu"]  # fmt: skip


def test_other_data_against_real_ones(command, here):
    other = "job.other=['data=phantom','data.num_images=40','seed=5']"
    result = command("+exp=evaluate", *DATA, other, "output_dir=out")
    assert result.code == 0, result.err
    found = json.loads((here / "out/evaluation.json").read_text(), parse_constant=pytest.fail)
    assert found["num_images"] == 20 and found["num_halvings"] == 3 and found["extractor"] == "efficientnet_lite0"
    assert set(found["figures"]) == {"fd", "kd", "coverage"}
    for sides in found["figures"].values():
        assert all(side["low"] <= side["value"] <= side["high"] for side in sides.values())
    page, text = ((here / "out" / name).read_text() for name in ("evaluation.html", "evaluation.md"))
    assert "<script" not in page and "Fréchet distance" in page and "num_halvings=3" in page
    assert f"{found['figures']['fd']['other']['value']:.4g}" in text and "evaluation.png" in text
    record = json.loads((here / "out/record.json").read_text())
    assert record["metrics"]["fd/other"] == found["figures"]["fd"]["other"]["value"]
    assert set(record["fingerprints"]) == {"data", "compared"}
    again = command("+exp=evaluate", *DATA, other, "output_dir=again")
    assert again.code == 0 and json.loads((here / "again/evaluation.json").read_text())["figures"] == found["figures"]


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
        (["job.other=['data=phantom','data.num_images=4']"], "the smallest half has 2 images"),
        (["job.other=['data=phantom']", "job.max_images=1"], "job.max_images=1"),
        (["job.other=['data=nowhere']"], "nowhere"),
        (["job.dataset=there_is_none"], "there_is_none"),
    ],
)
def test_what_cannot_be_compared_is_refused(command, words, said):
    result = command("+exp=evaluate", *DATA, *words, "output_dir=out")
    assert result.code != 0 and said in result.err and "Traceback" not in result.err
