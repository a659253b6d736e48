"""LabelAgreement: the figures by hand, the ceiling, the table, and that the training does not notice."""

import csv
import time

import numpy as np
import pytest
import torch
from refusals import refuses
from tiny_fit import ResumableModule, TinyData, TinyModule, fit, tiny_extractor

from callbacks.agreement import LabelAgreement
from callbacks.metrics.probe import LinearProbe, agreement, balanced_rows

FINDINGS = ["bright", "b", "c"]


class Told(TinyData):
    """Of which the first finding is how bright an image is."""

    def __init__(self):
        super().__init__(num_images=60, num_val=30)
        for images, labels in self.parts.values():
            images.div_(2, rounding_mode="floor").add_((25 * (labels[:, 0] + 1))[:, None, None, None].byte())


def callback(tmp_path, **settings):
    settings = {"extractor": tiny_extractor(), "num_images": 40, "batch_size": 7, "num_replicates": 50} | settings
    return LabelAgreement(findings=FINDINGS, output_dir=str(tmp_path), **settings)


TIMES = ("seconds", "unix_time")


def rows_of(tmp_path, without=()):
    with open(tmp_path / "agreement.csv", newline="") as file:
        return [{name: cell for name, cell in row.items() if name not in without} for row in csv.DictReader(file)]


def test_figures_are_those_by_hand(tmp_path):
    trainer, module = fit(tmp_path, [callback(tmp_path, seed=5)], module=TinyModule(lr=1e-3), data=Told(), max_epochs=1)
    data, extractor = trainer.datamodule, tiny_extractor()

    def seen(images):
        return extractor(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).numpy()

    probe = LinearProbe(seen(data.images("train")), data.labels("train").numpy())
    labels = data.labels("train")[balanced_rows(data.labels("train").numpy(), 40, 5)]
    with torch.no_grad():
        generated = torch.cat([module.sample(labels[[i]], [5 + i]) for i in range(40)]).mul(255).round() / 255
    asked = agreement(labels.numpy(), probe.scores(extractor(generated).numpy()), 50, 5)
    real = agreement(data.labels("val").numpy(), probe.scores(seen(data.images("val"))), 50, 5)
    found = {name: float(value) for name, value in trainer.callback_metrics.items() if "agreement" in name}
    for tag, figures in (("val/agreement", asked), ("val/agreement_real", real)):
        for name, figure in zip(FINDINGS, figures, strict=True):
            assert found[f"{tag}_{name}"] == pytest.approx(figure.value, abs=1e-6), name
        assert found[tag] == pytest.approx(np.mean([figure.value for figure in figures]), abs=1e-6)
    assert found["val/agreement_bright"] > 0.9 and found["val/agreement_real_bright"] > 0.9
    assert found["val/agreement_b"] < 0.8


def test_the_table_has_intervals_and_goes_on_where_a_run_is_resumed(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fit(whole, [callback(whole)], module=ResumableModule(), data=Told(), max_epochs=3)
    first, _ = fit(cut, [callback(cut)], module=ResumableModule(), data=Told(), max_epochs=1)
    first.save_checkpoint(tmp_path / "a.ckpt")
    fit(cut, [callback(cut)], module=ResumableModule(), data=Told(), max_epochs=2)  # which a kill would leave behind
    fit(cut, [callback(cut)], module=ResumableModule(), data=Told(), max_epochs=3, ckpt_path=tmp_path / "a.ckpt")
    rows = rows_of(cut, without=TIMES)
    assert rows == rows_of(whole, without=TIMES) and len(rows) == 3 * 3
    assert [row["finding"] for row in rows[:3]] == FINDINGS and [row["epoch"] for row in rows[::3]] == ["0", "1", "2"]
    bright = rows[0]
    assert float(bright["low"]) <= float(bright["asked"]) <= float(bright["high"]) and bright["num_images"] == "40"
    assert float(rows[1]["real_low"]) < float(rows[1]["real_high"])


def test_the_table_tells_when_and_how_long(tmp_path):
    older = "epoch,global_step,finding,asked,low,high,real,real_low,real_high,num_images\n"
    (tmp_path / "agreement.csv").write_text(older + "0,6,bright,0.5,0.4,0.6,0.7,0.6,0.8,40\n")
    before = time.time()
    first, _ = fit(tmp_path / "first", module=ResumableModule(), data=Told(), max_epochs=1)
    first.save_checkpoint(tmp_path / "a.ckpt")
    resumed = {"module": ResumableModule(), "data": Told(), "ckpt_path": tmp_path / "a.ckpt"}
    fit(tmp_path, [callback(tmp_path)], max_epochs=2, **resumed)
    old, *rows = rows_of(tmp_path)
    assert old["asked"] == "0.5" and old["unix_time"] == "", "a file of an earlier version goes on"
    assert {(row["epoch"], row["seconds"], row["unix_time"]) for row in rows} == {
        ("1", rows[0]["seconds"], rows[0]["unix_time"])
    }
    assert before < float(rows[0]["unix_time"]) < time.time() and 0 < float(rows[0]["seconds"]) < time.time() - before


def test_the_training_does_not_notice(tmp_path):
    plain, measured = TinyModule(), TinyModule()
    fit(tmp_path, module=plain, data=Told())
    fit(tmp_path, [callback(tmp_path, every_n_epochs=1)], module=measured, data=Told())
    assert plain.losses == measured.losses


def test_a_finding_that_nobody_told_is_left_out(tmp_path):
    data = Told()
    for _, labels in data.parts.values():
        labels[:, 2] = -1
    trainer, _ = fit(tmp_path, [callback(tmp_path)], data=data, max_epochs=1)
    assert "val/agreement_c" not in trainer.callback_metrics and "val/agreement_b" in trainer.callback_metrics
    assert rows_of(tmp_path)[2]["asked"] == "nan"


def test_errors(tmp_path):
    with refuses(ValueError, "LabelAgreement", "num_images", 0):
        callback(tmp_path, num_images=0)
    with refuses(ValueError, "LabelAgreement", "pl_module.{sample}", "Unable"):
        fit(tmp_path, [callback(tmp_path)], module=Unable())


class Unable(TinyModule):
    sample = property()
