"""A classifier that is killed and resumed by the command ends as the one that never stopped: bit for bit."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tiny_runs import DATA, TRAINER, column

from lightning_modules.classifier import Classifier

WORDS = [
    "+exp=classifier_train", *DATA, *TRAINER, "model/backbone=resnet10t", "model/init=random", "data.image_size=32",
    "augment=camera", "data.balance=[dr_grade]", "model.findings=[dr_grade,eye_side]", "model.classifier.mixup=0.2",
    "model.classifier.dropout=0.1", "model.backbone.drop_path=0.1", "model.classifier.ema_decay=0.9",
    "model.classifier.layer_decay=0.8", "model.classifier.class_weights=true", "model.classifier.label_smoothing=0.1",
    "model.classifier.warmup_steps=2", "job.num_replicates=20", "checkpoint_every_n_steps=3", "trainer.max_epochs=3",
]  # fmt: skip
STEPS_PER_EPOCH = 4


@pytest.mark.slow
def test_killed_in_mid_epoch(command, here, monkeypatch):
    assert command(*WORDS, "output_dir=whole").code == 0
    step = Classifier.training_step

    def die(self, batch, batch_idx):
        if self.global_step == STEPS_PER_EPOCH + 3:
            raise SystemError("the machine went away")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", die)
        stopped = command(*WORDS, "output_dir=stopped")
    assert stopped.code == 1 and "the machine went away" in stopped.err
    left = torch.load("stopped/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert left == STEPS_PER_EPOCH + 2, "the checkpoint of every third step, within an epoch"
    assert command(*WORDS, "output_dir=stopped", "resume=auto").code == 0
    for name in ("train/loss", "val/loss", "val/auroc", "val/qwk_dr_grade", "lr-AdamW"):
        assert column(here / "stopped", name) == column(here / "whole", name), name
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = (torch.load(f"{run}/checkpoints/{name}", weights_only=True) for run in ("stopped", "whole"))
        assert ours["global_step"] == theirs["global_step"]
        assert ours["state_dict"].keys() == theirs["state_dict"].keys()
        for key, tensor in ours["state_dict"].items():
            assert torch.equal(tensor, theirs["state_dict"][key]), key
    ours, theirs = (pq.read_table(f"{run}/predictions.parquet") for run in ("stopped", "whole"))
    assert ours.equals(theirs)
    assert Path("stopped/evaluation.json").read_text() == Path("whole/evaluation.json").read_text()
