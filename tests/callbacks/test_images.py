"""SampleGrid and Reconstructions: what is on the sheets, the figures, and that the training does not notice."""

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from refusals import refuses
from tiny_fit import TinyModule, fit

from callbacks.image_sheet import compose
from callbacks.reconstructions import Reconstructions
from callbacks.sample_grid import SampleGrid

FINDINGS = ["dr_grade", "is_amd", "eye_side"]
CONDITIONS = {"healthy": {"dr_grade": 0}, "severe_retinopathy": {"dr_grade": 2, "is_amd": 1}}


def grid(tmp_path, **settings):
    return SampleGrid(CONDITIONS, FINDINGS, str(tmp_path), **({"num_columns": 3} | settings))


def test_labels_follow_conditions_and_defaults(tmp_path):
    assert grid(tmp_path).labels.tolist() == [[0, -1, -1], [2, 1, -1]]
    assert grid(tmp_path, defaults={"eye_side": 1, "dr_grade": 4}).labels.tolist() == [[0, -1, 1], [2, 1, 1]]


def test_same_column_same_seed_whatever_the_batch(tmp_path):
    module = TinyModule()
    images = grid(tmp_path, batch_size=4).images(module)
    assert images.shape == (2, 3, 16, 16, 3)
    # The tiny module adds 0.1 a level to the noise of the seed.
    difference = images[1].astype(int) - images[0].astype(int)
    assert np.abs(difference - 51).max() <= 1
    assert not np.array_equal(images[0, 0], images[0, 1])
    assert np.array_equal(images, grid(tmp_path, batch_size=1).images(module))


class TinyPairs(TinyModule):
    """As TinyModule, with masks of level i in image i; none where asked for."""

    masks = True

    def sample_pairs(self, labels, seeds, num_steps=None, guidance=None):
        images = self.sample(labels, seeds, num_steps, guidance)
        levels = torch.arange(len(images))[:, None, None].expand(-1, *images.shape[2:])
        return images, levels if self.masks else None


def test_masks_stand_at_the_right_of_their_images(tmp_path):
    module = TinyPairs()
    shown = grid(tmp_path).images(module)
    assert shown.shape == (2, 6, 16, 16, 3)
    module.masks = False
    assert np.array_equal(shown[:, ::2], grid(tmp_path).images(module))
    masks = shown[:, 1::2].reshape(6, -1, 3)
    colours = [np.unique(mask, axis=0) for mask in masks]
    assert [len(colour) for colour in colours] == [1] * 6
    assert colours[0].tolist() == [[0, 0, 0]] and colours[1].tolist() == [[255, 255, 255]]
    assert len({tuple(colour[0]) for colour in colours}) == 6


def test_sheets_are_written_and_shown(tmp_path):
    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    callbacks = [grid(tmp_path, every_n_epochs=2), Reconstructions(str(tmp_path), num_images=4)]
    trainer, _ = fit(tmp_path, callbacks, logger=logger, max_epochs=3)
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    expected = ["epoch_0001.png", "epoch_0002.png", *(f"reconstructions_000{epoch}.png" for epoch in range(3))]
    assert names == expected
    sheet = np.asarray(Image.open(tmp_path / "samples" / "epoch_0001.png"))
    assert sheet.shape[0] > 2 * 128  # 16 pixels are enlarged to at least 128
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert set(EventAccumulator(str(tmp_path)).Reload().Tags()["images"]) == {
        "samples/grid",
        "samples/reconstructions",
    }


def test_captions_are_drawn_beside_unchanged_pixels():
    rows = np.random.default_rng(0).integers(0, 256, (2, 2, 32, 32, 3), dtype=np.uint8)
    sheet = compose(rows, ["a", "a long_caption with several words"])
    other = compose(rows, ["b", "a long_caption with several words"])
    left = sheet.shape[1] - 2 * 132
    assert np.array_equal(sheet[4:132, left : left + 128], rows[0, 0].repeat(4, 0).repeat(4, 1))
    assert not np.array_equal(sheet[:132, :left], other[:132, :left])
    assert np.array_equal(sheet[:, left:], other[:, left:])
    with refuses(ValueError, "1 captions", "2 rows"):
        compose(rows, ["a"])


def test_psnr_and_ssim_against_scikit_image(tmp_path):
    metrics = pytest.importorskip("skimage.metrics")
    trainer, module = fit(tmp_path, [Reconstructions(str(tmp_path), batch_size=4)], max_epochs=1)
    originals = trainer.datamodule.images("val").astype(np.float64) / 255
    images = torch.from_numpy(originals).permute(0, 3, 1, 2)
    reconstructed = module.reconstruct(images).permute(0, 2, 3, 1).numpy()
    pairs = list(zip(originals, reconstructed, strict=True))
    psnr = np.mean([metrics.peak_signal_noise_ratio(a, b, data_range=1) for a, b in pairs])
    assert float(trainer.callback_metrics["val/psnr"]) == pytest.approx(psnr, rel=1e-5)
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    ssim = np.mean([metrics.structural_similarity(a, b, channel_axis=-1, **gaussian) for a, b in pairs])
    assert float(trainer.callback_metrics["val/ssim"]) == pytest.approx(ssim, abs=2e-3)


def test_training_does_not_notice(tmp_path):
    without = fit(tmp_path)[1]
    watched = fit(tmp_path, [grid(tmp_path), Reconstructions(str(tmp_path))])[1]
    assert without.losses == watched.losses


def test_errors_name_the_condition_and_the_nearest_finding(tmp_path):
    with refuses(ValueError, "'worse'", "'dr_grad'", "mean dr_grade"):
        SampleGrid({"worse": {"dr_grad": 1}}, FINDINGS, str(tmp_path))
    with refuses(ValueError, "'worse'", "dr_grade", -2):
        SampleGrid({"worse": {"dr_grade": -2}}, FINDINGS, str(tmp_path))
    with refuses(ValueError, "conditions", "{any: {}}"):
        SampleGrid({}, FINDINGS, str(tmp_path))
    with refuses(ValueError, "num_columns", 0):
        grid(tmp_path, num_columns=0)
    with refuses(ValueError, "num_metric_images", 0):
        Reconstructions(str(tmp_path), num_metric_images=0)

    class NoReconstruct(TinyModule):
        reconstruct = property()

    with refuses(ValueError, "pl_module.{reconstruct}", "NoReconstruct"):
        fit(tmp_path, [Reconstructions(str(tmp_path))], module=NoReconstruct())
