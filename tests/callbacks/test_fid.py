"""FrechetDistance: the figure, what is recorded beside it, the cache, and that the training does not notice."""

import csv

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from refusals import refuses
from tiny_fit import TinyData, TinyModule, fit, tiny_extractor

from callbacks.csv_table import CsvTable
from callbacks.fid import FrechetDistance
from callbacks.metrics.coverage import coverage
from callbacks.metrics.frechet import frechet_distance
from callbacks.metrics.kernel import kernel_distance


def distance(tmp_path, **settings):
    settings = {"extractor": tiny_extractor(), "num_images": 11, "batch_size": 4} | settings
    return FrechetDistance(output_dir=str(tmp_path), **settings)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def expected_figures(module, data, num_images, seed, extractor):
    """The same by hand: the split's labels in random order, one seed an image, rounded to 8 bits."""
    labels = data.labels("train")
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(len(labels), generator=generator) for _ in range(3)])[:num_images]
    with torch.no_grad():
        images = [module.sample(labels[[i]], [seed + n])[0] for n, i in enumerate(order.tolist())]
    generated = extractor(torch.stack(images).mul(255).round() / 255)
    real = extractor(torch.from_numpy(data.images("train")).permute(0, 3, 1, 2) / 255)
    return generated, real


@pytest.mark.parametrize("num_images", [11, 30])
def test_figure_is_that_of_the_images_by_hand(tmp_path, num_images):
    """11 images keep their rows; 30 are more than four times the five features, and are streamed as moments."""
    callback = distance(tmp_path, num_images=num_images, seed=5)
    trainer, module = fit(tmp_path, [callback], max_epochs=1)
    generated, real = expected_figures(module, trainer.datamodule, num_images, 5, tiny_extractor())
    figures = trainer.callback_metrics
    assert float(figures["val/fd_tiny"]) == pytest.approx(frechet_distance(generated, real), rel=1e-5)
    assert callback.record["fd"] == pytest.approx(frechet_distance(generated, real), rel=1e-5)
    assert callback.record["kd"] == pytest.approx(kernel_distance(generated, real), rel=1e-4)
    assert callback.record["coverage"] == coverage(real, generated) == float(figures["val/coverage_tiny"])


def test_a_part_of_the_reals_is_drawn_from_all_of_them(tmp_path):
    callback = distance(tmp_path, num_real=9)
    trainer, module = fit(tmp_path, [callback], max_epochs=1)
    generated, real = expected_figures(module, trainer.datamodule, 11, 0, tiny_extractor())
    drawn = torch.randperm(24, generator=torch.Generator().manual_seed(0))[:9]
    assert callback.record["fd"] == pytest.approx(frechet_distance(generated, real[drawn]), rel=1e-5)
    assert callback.record["num_real"] == 9


def test_batch_size_changes_nothing(tmp_path):
    a, b = distance(tmp_path / "a", batch_size=3), distance(tmp_path / "b", batch_size=100)
    fit(tmp_path, [a, b], max_epochs=1)
    assert a.record["fd"] == pytest.approx(b.record["fd"], rel=1e-6)


def test_training_does_not_notice(tmp_path):
    without = fit(tmp_path / "without")[1]
    measured = fit(tmp_path / "with", [distance(tmp_path / "with", evaluate_at_start=True)])[1]
    assert without.losses == measured.losses
    assert torch.equal(without.scale, measured.scale)


def test_records_every_setting_beside_the_figure(tmp_path):
    callback = distance(tmp_path, num_steps=3, evaluate_at_start=True)
    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    fit(tmp_path, [callback], logger=logger)
    rows = rows_of(tmp_path / "frechet.csv")
    assert [(row["epoch"], row["global_step"]) for row in rows] == [("-1", "0"), ("0", "6"), ("1", "12")]
    assert float(rows[-1]["fd"]) == callback.record["fd"]
    wanted = {"num_images": 11, "num_real": 24, "num_steps": 3, "guidance": 1.5, "scheduler": "tiny", "weights": "ema"}
    wanted |= {"seed": 0, "extractor": "tiny", "data_fingerprint": "tiny data", "rounding": "8 bit"}
    assert {name: callback.record[name] for name in wanted} == wanted
    assert float(rows[-1]["seconds"]) > 0
    assert 0 < float(rows[-1]["unix_time"]) - float(rows[0]["unix_time"]) < 60
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    assert "val/fd_tiny/settings/text_summary" in events.Tags()["tensors"]
    assert [event.value for event in events.Scalars("val/fd_tiny")] == pytest.approx([float(r["fd"]) for r in rows])


def test_checkpoint_monitors_the_figure(tmp_path):
    checkpoint = ModelCheckpoint(str(tmp_path), monitor="val/fd_tiny", filename="best")
    fit(tmp_path, [distance(tmp_path), checkpoint], enable_checkpointing=True)
    best = min(float(row["fd"]) for row in rows_of(tmp_path / "frechet.csv"))
    assert float(checkpoint.best_model_score) == pytest.approx(best, rel=1e-6)


def test_checkpoint_that_would_use_old_figures_is_refused(tmp_path):
    checkpoint = ModelCheckpoint(str(tmp_path), monitor="val/fd_tiny")
    with refuses(ValueError, "val/fd_tiny", "every_n_epochs", 2):
        fit(tmp_path, [distance(tmp_path, every_n_epochs=2), checkpoint], enable_checkpointing=True)
    with refuses(ValueError, "every_n_epochs", "check_val_every_n_epoch", 6):
        fit(tmp_path, [distance(tmp_path, every_n_epochs=2)], check_val_every_n_epoch=3)


def test_resume_drops_later_rows_and_measures_the_start_once(tmp_path):
    first = distance(tmp_path, evaluate_at_start=True)
    trainer, _ = fit(tmp_path, [first], max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    fit(tmp_path, [distance(tmp_path)], max_epochs=3, ckpt_path=str(tmp_path / "one.ckpt"))
    fit(tmp_path, [distance(tmp_path, evaluate_at_start=True)], max_epochs=2, ckpt_path=str(tmp_path / "one.ckpt"))
    assert [row["epoch"] for row in rows_of(tmp_path / "frechet.csv")] == ["-1", "0", "1"]
    fit(tmp_path, [distance(tmp_path)], max_epochs=1)
    assert [row["epoch"] for row in rows_of(tmp_path / "frechet.csv")] == ["0"]


def test_a_row_that_tells_no_step_is_dropped_on_resuming(tmp_path):
    trainer, _ = fit(tmp_path, [distance(tmp_path)], max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    CsvTable(tmp_path / "frechet.csv").append({"figure": "val/fd_tiny", "epoch": 0, "fd": 1.0})
    fit(tmp_path, [distance(tmp_path)], max_epochs=2, ckpt_path=str(tmp_path / "one.ckpt"))
    assert [(row["epoch"], row["global_step"]) for row in rows_of(tmp_path / "frechet.csv")] == [
        ("0", "6"),
        ("1", "12"),
    ]


class CountingExtractorData(TinyData):
    """Counts how often real images are read."""

    num_reads = 0

    def images(self, split):
        CountingExtractorData.num_reads += 1
        return super().images(split)


@pytest.mark.parametrize("num_real", [24, 9])
def test_real_features_are_cached_by_all_they_depend_on(tmp_path, num_real):
    def run(data=None, **settings):
        callback = distance(tmp_path, cache_dir=str(tmp_path / "cache"), num_real=num_real, **settings)
        fit(tmp_path, [callback], max_epochs=1, data=data)
        return callback.record["fd"], sorted((tmp_path / "cache" / "features").iterdir())

    fresh, files = run()
    assert len(files) == 1
    assert run() == (fresh, files)
    other_data = TinyData()
    other_data.fingerprint = "other"
    assert len(run(other_data)[1]) == 2
    assert len(run(extractor=tiny_extractor(dim=4))[1]) == 3
    other_split = TinyData()
    other_split.split_fingerprint = "other"
    assert len(run(other_split)[1]) == 4, "the training split of another seed is other images"
    saved = dict(np.load(files[0]))
    saved["identity"] = np.array(str(saved["identity"]).replace("tiny data", "old data"))
    np.savez(files[0], **saved)
    with refuses(ValueError, files[0], "old data", "tiny data"):
        run()
    files[0].write_bytes(files[0].read_bytes()[:100])
    with refuses(ValueError, files[0], "whole"):
        run()


def test_cached_rows_are_used_instead_of_the_images(tmp_path):
    callback = distance(tmp_path, cache_dir=str(tmp_path / "cache"))
    fit(tmp_path, [callback], max_epochs=1)
    second = distance(tmp_path, cache_dir=str(tmp_path / "cache"))
    data = TinyData()
    data.parts["train"] = (data.parts["train"][0] * 0, data.parts["train"][1])  # same fingerprint: never looked at
    fit(tmp_path, [second], max_epochs=1, data=data, module=TinyModule(lr=0))
    third = distance(tmp_path)
    fit(tmp_path, [third], max_epochs=1, module=TinyModule(lr=0))
    assert second.record["fd"] == third.record["fd"]


def test_errors_come_before_the_training(tmp_path):
    class NoSampler(TinyModule):
        sample = property()

    with refuses(ValueError, "FrechetDistance", "num_images", 1):
        distance(tmp_path, num_images=1)
    with refuses(ValueError, "pl_module.{sample}", "NoSampler"):
        fit(tmp_path, [distance(tmp_path)], module=NoSampler())

    class NoImages(TinyData):
        images = property()

    with refuses(ValueError, "NoImages", "without images"):
        fit(tmp_path, [distance(tmp_path)], data=NoImages())

    class NoSplit(TinyData):
        split_fingerprint = property()

    with refuses(ValueError, "NoSplit", "without split_fingerprint"):
        fit(tmp_path, [distance(tmp_path)], data=NoSplit())


def test_images_that_are_not_finite_are_refused(tmp_path):
    class Diverged(TinyModule):
        def sample(self, labels, seeds, num_steps=None, guidance=None):
            return super().sample(labels, seeds) * float("nan")

    with refuses(ValueError, "[0, 1, 2, 3]", "finite"):
        fit(tmp_path, [distance(tmp_path)], module=Diverged())


def test_fid_has_its_name_only_with_its_own_network(tmp_path):
    extractor = tiny_extractor()
    extractor.is_fid = True
    assert distance(tmp_path, extractor=extractor).tag == "val/fid"
    assert distance(tmp_path).tag == "val/fd_tiny"
