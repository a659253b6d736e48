"""Diagnosis: what is logged, what is left, undefined figures, several batches."""

import json
import math

import lightning as L
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from torch.utils.data import DataLoader

from callbacks.diagnosis import Diagnosis
from callbacks.diagnosis_figures import figures_of

COLUMNS = {"dr_grade": 0, "is_gc": 2}


class Told(L.LightningModule):
    """Says of each image what the batch holds."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        return {name: batch[name] for name in ("probabilities", "labels", "id")}

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def images(num=40, seed=0):
    stream = np.random.default_rng(seed)
    labels = np.stack([stream.integers(-1, 5, num), stream.integers(-1, 2, num), stream.integers(-1, 2, num)], axis=1)
    grade = stream.dirichlet(np.ones(5), num)
    chance = stream.random(num)
    return [
        {"probabilities": {"dr_grade": torch.tensor(grade[i]), "is_gc": torch.tensor([1 - chance[i], chance[i]])},
         "labels": torch.tensor(labels[i]), "id": f"i{i:03d}"}
        for i in range(num)
    ]  # fmt: skip


def run(tmp_path, rows, batch_size=7, **settings):
    diagnosis = Diagnosis(str(tmp_path), COLUMNS, **settings)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", enable_checkpointing=False, callbacks=[diagnosis], max_epochs=1,
                        limit_train_batches=1, **quiet)  # fmt: skip
    loader = DataLoader(rows, batch_size)
    module = Told()
    trainer.fit(module, DataLoader(rows, batch_size), loader)
    return trainer, module, loader, diagnosis


@pytest.mark.parametrize("batch_size", [7, 40])
def test_what_is_logged_is_measured_over_the_known_rows_of_all_batches(tmp_path, batch_size):
    rows = images()
    trainer, *_ = run(tmp_path, rows, batch_size)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    known = [row for row in rows if row["labels"][2] >= 0]
    labels = [int(row["labels"][2]) for row in known]
    scores = [float(row["probabilities"]["is_gc"][1]) for row in known]
    assert logged["val/auroc_is_gc"] == pytest.approx(roc_auc_score(labels, scores))
    assert {"val/auroc", "val/aupr", "val/f1", "val/accuracy", "val/ece", "val/auroc_dr_grade", "val/qwk_dr_grade",
            "val/auroc_dr_grade_referable"} <= set(logged)  # fmt: skip
    graded = [row for row in rows if row["labels"][0] >= 0]
    decided = [int((1 - row["probabilities"]["dr_grade"].cumsum(0)[:-1] > 0.5).sum()) for row in graded]
    kappa = cohen_kappa_score([int(r["labels"][0]) for r in graded], decided, weights="quadratic", labels=range(5))
    assert logged["val/qwk_dr_grade"] == pytest.approx(kappa)
    assert logged["val/auroc"] == pytest.approx((logged["val/auroc_is_gc"] + logged["val/auroc_dr_grade"]) / 2)


def test_what_is_undefined_is_not_logged_and_the_macro_is_nan(tmp_path):
    rows = images()
    for row in rows:
        row["labels"] = torch.tensor([2, 0, -1])
    logged = run(tmp_path, rows)[0].callback_metrics
    assert math.isnan(logged["val/auroc"]) and "val/auroc_is_gc" not in logged and "val/auroc_dr_grade" not in logged
    assert "val/accuracy" in logged


def test_examined_predictions_are_left_with_their_intervals(tmp_path):
    rows = images()
    trainer, module, loader, diagnosis = run(tmp_path, rows, num_replicates=100)
    assert diagnosis.evaluations == {}, "no interval in training"
    diagnosis.examine({row["id"]: f"p{int(row['id'][1:]) // 2}" for row in rows})
    trainer.validate(module, loader, verbose=False)
    trainer.test(module, DataLoader(rows[:30], 9), verbose=False)
    diagnosis.write(trainer)
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    assert set(evaluation) == {"val", "test"} and evaluation["test"]["macro"]["num_images"] <= 30
    gc = evaluation["val"]["is_gc"]
    assert gc["auroc"]["low"] < gc["auroc"]["value"] < gc["auroc"]["high"] and gc["num_patients"] <= 20
    table = pq.read_table(tmp_path / "predictions.parquet").to_pydict()
    assert len(table["id"]) == 70 and table["split"].count("test") == 30
    for place, name in enumerate(table["id"]):
        row = rows[int(name[1:])]
        assert table["patient"][place] == f"p{int(name[1:]) // 2}"
        assert table["label_dr_grade"][place] == row["labels"][0] and table["label_is_gc"][place] == row["labels"][2]
        found = [table[f"p_dr_grade_{level}"][place] for level in range(5)]
        assert found == pytest.approx(row["probabilities"]["dr_grade"].tolist(), abs=1e-6)
    for split in ("val", "test"):
        for name in ("confusion", "roc", "reliability"):
            assert (tmp_path / "samples" / f"{split}_{name}.png").stat().st_size > 5000
    assert diagnosis.figures()["test/auroc"] == pytest.approx(float(trainer.callback_metrics["test/auroc"]))
    assert "undefined" not in diagnosis.table() and "is_gc" in diagnosis.table()


def test_nothing_known_leaves_no_figures():
    assert figures_of(np.full((3, 1), -1), {"is_gc": np.full((3, 2), 0.5)}) == {}
