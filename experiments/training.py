"""The steps that the training jobs share."""

from pathlib import Path

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from callbacks.atomic import write_text
from datamodules.fundus import FundusDataModule
from experiments.assembly import build_datamodule, plain
from experiments.report import config_text, data_text, heading, say


def prepare_data(cfg: DictConfig, output_dir: Path) -> FundusDataModule:
    """Index the data, say what there is, read every image once, and list what is rejected.

    Raises:
        ValueError: rejected images beyond data.max_rejected; they are in `rejected.csv` all the same.
    """
    datamodule = build_datamodule(cfg)
    say(heading("data, by the index"))
    say(data_text(datamodule.preview()))
    if rank_zero_only.rank == 0:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_text(output_dir / "config.yaml", config_text(plain(cfg)) + "\n")
        try:
            datamodule.prepare_data()
        finally:
            datamodule.write_rejected(output_dir)
    return datamodule


def describe_data(datamodule: FundusDataModule, output_dir: Path) -> None:
    """After the set-up: keep the index, and say what was rejected."""
    if rank_zero_only.rank == 0:
        datamodule.write_index(output_dir)
    if datamodule.rejected:
        say(f"{len(datamodule.rejected)} images are rejected: {output_dir / 'rejected.csv'}")


def fit(trainer: L.Trainer, module: L.LightningModule, datamodule: FundusDataModule, checkpoint: str) -> None:
    """Train from `checkpoint` ("" from the start); only tensors and plain containers are read from it."""
    trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint or None, weights_only=True)
