"""Regions are painted from the command line: what is written, what stays, what is asked for, what is refused."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from datamodules.findings import NAMES
from experiments.assembly import build_datamodule
from experiments.composition import compose_config
from experiments.inpainting.requests import pixels_of
from lightning_modules.regions import dilated

WORDS = ["data.masks=[disc,cup]", "data.num_images=60", "data.cache_workers=1", "trainer.accelerator=cpu"]
BIG = ["job.dilation=1", "job.num_resamples=1"]


@pytest.fixture
def inpaint(command, mask_generator):
    return lambda *words: command("+exp=inpaint", f"ckpt={mask_generator}", *WORDS, *BIG, *words)


@pytest.fixture(scope="module")
def photographs_of():
    """The validation images of the phantoms with their masks, by their ids."""

    def read(here):
        words = ["+exp=inspect_data", *WORDS, "data.image_size=16", f"cache_dir={here}/cache"]
        datamodule = build_datamodule(compose_config(words))
        datamodule.prepare_data()
        datamodule.setup()
        data = datamodule.dataset("val")
        return {name: (data.images[n], data.masks[n][..., 0], data.labels[n]) for n, name in enumerate(data.ids)}

    return read


def pairs_of(out):
    """The rows of the table, with what their files hold."""
    rows = pq.read_table(out / "pairs.parquet").to_pylist()
    return [
        row | {name: np.asarray(Image.open(out / row[name])) for name in ("image", "mask", "region")} for row in rows
    ]


def test_pairs_and_where_they_come_from(inpaint, here, photographs_of):
    result = inpaint("output_dir=out", "job.num_per_image=2")
    assert result.code == 0, result.err
    rows, real = pairs_of(here / "out"), photographs_of(here)
    assert len({row["seed"] for row in rows}) == len({row["id"] for row in rows}) == len(rows)
    assert len(rows) == 2 * len({row["source_id"] for row in rows})
    for row in rows:
        image, mask, labels = real[row["source_id"]]
        inside = row["region"] > 0
        assert np.array_equal(row["image"][~inside], image[~inside]) and not np.array_equal(row["image"], image)
        assert np.array_equal(row["mask"], mask) and row["mask_id"] == row["source_id"]
        assert np.array_equal(inside, dilated_by(mask > 0, 1)) and row["region_pixels"] == inside.sum()
        assert [row[name] for name in NAMES] == labels.tolist() and row["split"] == "val"
    first, second = (row["image"] for row in rows[:2])
    assert not np.array_equal(first, second), "another seed is another image"
    told = json.loads((here / "out/inpainting.json").read_text(), parse_constant=pytest.fail)
    assert told["num_pairs"] == len(rows) and told["dilation"] == 1
    assert told["num_skipped"] == len(real) - len({row["source_id"] for row in rows})
    assert set(told["copies"]) == {"nearer_share", "nearest", "nearest_held_out"}
    record = json.loads((here / "out/record.json").read_text())
    assert record["metrics"]["copies/nearest"] == told["copies"]["nearest"]["value"]
    for name in ("pairs.png", "nearest.png"):
        assert Image.open(here / "out/samples" / name).size[0] > 200
    again = inpaint("output_dir=again", "job.num_per_image=2", "job.batch_size=3")
    assert again.code == 0
    for row, other in zip(rows, pairs_of(here / "again"), strict=True):
        assert np.abs(row["image"].astype(int) - other["image"]).max() <= 1 and row["seed"] == other["seed"]


def dilated_by(where, radius):
    import torch

    return dilated(torch.from_numpy(where)[None], radius)[0].numpy()


def test_the_mask_of_another_patient_and_labels_of_one_s_own(inpaint, here, photographs_of):
    result = inpaint("output_dir=out", "job.mask=other", "+job.labels.is_gc=1", "job.levels=[cup]", "job.style=0.5")
    assert result.code == 0, result.err
    rows, real = pairs_of(here / "out"), photographs_of(here)
    assert len({row["source_id"] for row in rows}) == len(real), "also images that show none"
    for row in rows:
        (image, own, _), (_, given, _) = real[row["source_id"]], real[row["mask_id"]]
        assert np.array_equal(row["mask"], np.where(given == 2, 2, own))
        assert np.array_equal(row["region"] > 0, dilated_by(given == 2, 1)) and row["is_gc"] == 1
        assert np.array_equal(row["image"][row["region"] == 0], image[row["region"] == 0])


def test_a_region_becomes_background(inpaint, here, photographs_of):
    result = inpaint("output_dir=out", "job.mask=background", "job.levels=[cup]", "job.max_images=2")
    assert result.code == 0, result.err
    rows, real = pairs_of(here / "out"), photographs_of(here)
    assert len(rows) == 2
    for row in rows:
        own = real[row["source_id"]][1]
        assert np.array_equal(row["mask"], np.where(own == 2, 0, own)) and (own == 2).any()


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["job.mask=mine"], ["job.mask='mine'", "same", "other", "background"]),
        (["job.dilation=40"], ["job.dilation", "40 pixels", "job.mask=same"]),
        (["job.dilation=1.5"], ["job.dilation=1.5"]),
        (["job.dilation=-1"], ["job.dilation=-1"]),
        (["job.feather=3"], ["job.feather=3", "job.dilation=1"]),
        (["job.levels=[cap]"], ["job.levels", "cap", "cup"]),
        (["+job.labels.is_gk=1"], ["is_gk", "is_gc"]),
        (["job.split=vall"], ["job.split='vall'"]),
        (["job.num_per_image=0"], ["job.num_per_image=0"]),
        (["job.num_resamples=0"], ["num_resamples=0"]),
        (["job.style=2.0"], ["style=2.0"]),
        (["data.masks=[vessel]"], ["vessel", "disc", "cup"]),
        (["data.masks=[]"], ["none", "disc"]),
    ],
)
def test_what_cannot_be_painted_is_refused(inpaint, words, facts):
    result = inpaint("output_dir=out", *words)
    assert result.code != 0 and "Traceback" not in result.err
    assert all(fact in result.err for fact in facts), result.err


def test_a_generator_without_masks_or_none_is_refused(command, generator):
    for words, facts in (([f"ckpt={generator}"], ["masks", "model/masks=condition"]), ([], ["ckpt"])):
        result = command("+exp=inpaint", *WORDS, *words)
        assert result.code != 0 and all(fact in result.err for fact in facts), result.err


def test_lengths_are_shares_or_pixels():
    assert [pixels_of(size, 128, "x") for size in (0, 0.05, 0.999, 1, 7.0)] == [0, 6, 128, 1, 7]
