"""A datamodule of a few photographs, and short trainings on it that keep what they are given."""

import lightning as L
import pytest
import torch

from datamodules.fundus import FundusDataModule
from datamodules.sources.csv import CsvSource

HALVES = {"train": 0.5, "val": 0.25, "test": 0.25}


@pytest.fixture
def make(photographs, tmp_path):
    """`make(**options)` is a datamodule of 24 photographs of 12 patients with eyes annotated, set up."""
    rows = [f"{path.name},{path.name[:3]},{int('_L' in path.name)}" for path in sorted(photographs.iterdir())]
    (photographs / "labels.csv").write_text("\n".join(["path,patient,eye_side", *rows]))

    def make(ready=True, **options):
        plain = {"image_size": 16, "batch_size": 4, "cache_dir": tmp_path / "cache", "fractions": HALVES, "seed": 3}
        data = FundusDataModule(CsvSource(photographs, "labels.csv"), **{**plain, **options})
        if ready:
            data.prepare_data()
            data.setup()
        return data

    return make


class Watch(L.LightningModule):
    """Keeps the training batches it is given, and the ids of the validation batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.batches, self.val_ids = [], []

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        self.val_ids += batch["id"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data, tmp_path, callbacks=(), ckpt_path=None, **flags):
    model = Watch()
    plain = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
        enable_checkpointing=bool(callbacks),
        **{**plain, **flags},
    )
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return model
