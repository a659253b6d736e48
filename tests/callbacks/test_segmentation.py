"""SegmentationEvaluation: the threshold that it chooses, what it logs at it, and what it leaves."""

import json
import math

import lightning as L
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks.metrics.segmentation import THRESHOLDS, compare_masks
from callbacks.segmentation import SegmentationEvaluation

LEVELS = ("background", "optic disc", "vessel")


class Told(L.LightningModule):
    """Says of each image what the batch holds."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.register_buffer("threshold", torch.tensor(0.5))

    def levels(self, probabilities):
        shows = 1 - probabilities[:, 0] >= self.threshold
        return torch.where(shows, 1 + probabilities[:, 1:].argmax(dim=1), 0)

    def training_step(self, batch, batch_idx):
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        return {name: batch[name] for name in ("probabilities", "mask", "id")}

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def told(num=9):
    """Squares, of probability 0.3 in them and 0.1 around: a threshold of 0.5 finds nothing. The last one is unknown."""
    rows = []
    for number in range(num):
        mask = torch.zeros(16, 16, dtype=torch.int64)
        mask[number : number + 4, 2:8] = 1 + number % 2
        shown = torch.where(mask > 0, 0.3, 0.1)
        probabilities = torch.stack([1 - shown, *(torch.where(mask == level, 0.9, 0.1) * shown for level in (1, 2))])
        if number == num - 1:
            mask = torch.full_like(mask, -1)
        rows.append({"probabilities": probabilities, "mask": mask, "id": f"i{number}", "image": torch.rand(3, 16, 16)})
    return rows


def run(tmp_path, rows, batch_size):
    evaluation = SegmentationEvaluation(str(tmp_path), LEVELS, ("vessel",), num_replicates=20, num_shown=3)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", enable_checkpointing=False, callbacks=[evaluation], max_epochs=1,
                        limit_train_batches=1, **quiet)  # fmt: skip
    module = Told()
    trainer.fit(module, DataLoader(rows, batch_size), DataLoader(rows, batch_size))
    return trainer, module, evaluation


@pytest.mark.parametrize("batch_size", [4, 9])
def test_the_threshold_of_the_greatest_dice_is_set_and_logged_at(tmp_path, batch_size):
    trainer, module, _ = run(tmp_path, told(), batch_size)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert found["val/threshold"] == pytest.approx(0.3) == pytest.approx(float(module.threshold))
    for name in ("val/dice", "val/iou", "val/dice_optic_disc", "val/dice_vessel"):
        assert found[name] == 1.0, name
    assert list((tmp_path / "samples").iterdir()) == [tmp_path / "samples" / "masks_0000.png"]


def test_examined_at_the_threshold_that_is_there_with_what_each_image_shows(tmp_path):
    rows = told()
    trainer, module, evaluation = run(tmp_path, rows, 4)
    module.threshold.fill_(0.05)
    evaluation.examine({row["id"]: f"p{int(row['id'][1:]) // 2}" for row in rows})
    trainer.validate(module, DataLoader(rows, 4), verbose=False)
    trainer.test(module, DataLoader(rows[:3], 2), verbose=False)
    assert float(module.threshold) == pytest.approx(0.05)
    evaluation.write()
    table = pq.read_table(tmp_path / "masks.parquet").to_pylist()
    assert len(table) == 2 * (9 + 3)
    for row in table:
        own = rows[int(row["id"][1:])]
        level = LEVELS.index(row["level"])
        if (own["mask"] < 0).any():
            assert row["dice"] is None and row["drawn_area"] is None
            continue
        levels = module.levels(own["probabilities"][None])[0]
        wanted = compare_masks((levels == level).numpy(), (own["mask"] == level).numpy(), level == 2)
        assert {name: row[name] for name in wanted} == pytest.approx(wanted)
        assert row["drawn_num_components"] == len(row["drawn_row"]) == int((own["mask"] == level).any())
    figures, left = evaluation.figures(), json.loads((tmp_path / "evaluation.json").read_text())
    for split, number in (("val", 8), ("test", 3)):
        dice = [row["dice"] for row in table if row["split"] == split and row["dice"] is not None]
        assert figures[f"{split}/dice"] == pytest.approx(np.mean(dice))
        assert left[split]["macro"]["num_images"] == number
        assert left[split]["vessel"]["num_positive"] == number // 2
    assert left["val"]["vessel"]["cldice"]["low"] <= left["val"]["vessel"]["cldice"]["value"]
    assert "cldice" not in left["val"]["optic disc"] and set(evaluation.dice("val")) == {f"i{n}" for n in range(8)}


def test_where_no_image_has_a_mask_the_figures_are_undefined_and_seen_so(tmp_path):
    trainer, module, _ = run(tmp_path, told()[-1:], 1)
    assert math.isnan(trainer.callback_metrics["val/dice"])
    assert float(module.threshold) in np.float32(THRESHOLDS)
