"""A generator is trained with clusters: found once, kept in the checkpoint, taken from it on going on."""

import numpy as np
import pytest
import torch
from tiny_runs import DDPM_TRAIN

from datamodules.dataset import FundusDataset
from experiments.clusters import features_of
from experiments.loading import load_generator
from lightning_modules.checkpoint import load_state

WORDS = [*DDPM_TRAIN, "data.masks=[disc]", "model/masks=condition", "model.clusters=3", "~callbacks.frechet",
         "~callbacks.agreement", "~callbacks.sample_grid", "output_dir=out"]  # fmt: skip


def test_clusters_are_found_once_and_kept(command, here):
    result = command(*WORDS, "trainer.max_epochs=1")
    assert result.code == 0, result.err
    first = load_generator(here / "out/checkpoints/last.ckpt")
    clusters, images = first.ema.network.clusters, first.trained_on["counts"].sum()
    assert clusters.centres.shape == (3, 2560) and clusters.counts.sum() == images and (clusters.counts > 0).all()
    labels = torch.zeros(2, 16, dtype=torch.int64)
    assert torch.equal(first.sample(labels, [1, 2]), first.sample(labels, [1, 2]))
    counts = ", ".join(map(str, clusters.counts.tolist()))
    assert counts in result.out
    result = command(*WORDS, "trainer.max_epochs=2", "resume=out/checkpoints/last.ckpt")
    assert result.code == 0, result.err
    state = load_state(here / "out/checkpoints/last.ckpt")["state_dict"]
    assert torch.equal(state["network.clusters.centres"], clusters.centres) and counts in result.out


def test_features_are_those_of_the_image_and_of_the_mask_as_grey():
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    masks = np.zeros((5, 8, 8, 1), dtype=np.uint8)
    masks[1], masks[2], masks[3] = 1, 2, 255
    dataset = FundusDataset(images, torch.zeros(5, 16), list("abcde"), np.array([4, 1, 2, 3, 0]), masks)
    extractor = lambda x: x.flatten(2).mean(2)  # noqa: E731
    wrapped = type("E", (), {"__call__": staticmethod(extractor), "mean": torch.zeros(1)})()
    found = features_of(dataset, wrapped, 2)
    assert found.shape == (5, 6)
    assert found[:, :3].numpy() == pytest.approx(images[[4, 1, 2, 3, 0]].mean((1, 2)) / 255, abs=1e-5)
    assert found[:, 3].tolist() == [0.0, 0.5, 1.0, 0.0, 0.0]
    assert torch.equal(features_of(dataset, wrapped, 0), found[:, :3])


@pytest.mark.parametrize(("words", "facts"), [(["model.clusters=1"], ["model.clusters=1"]),
                                              (["model.clusters=999"], ["model.clusters=999"])])  # fmt: skip
def test_numbers_of_clusters_that_cannot_be_are_refused(command, words, facts):
    result = command(*WORDS, *words)
    assert result.code != 0 and all(fact in result.err for fact in facts) and "Traceback" not in result.err
