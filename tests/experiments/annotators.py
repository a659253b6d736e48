"""Runs of classifier_train without the training: a tiny network's weights at random, and predictions that are given."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from datamodules.findings import NUM_LEVELS
from experiments.assembly import build_classifier, plain
from experiments.backbone_names import spelt_out
from experiments.composition import compose_config
from lightning_modules.checkpoint import CONFIG_KEY


def write_run(folder: Path, findings: Sequence[str], image_size: int = 32, seed: int = 0) -> Path:
    """The folder of a run with `checkpoints/best.ckpt`, a classifier that says something else of every image."""
    words = ["+exp=classifier_train", "model/backbone=resnet10t", "model/init=random", f"data.image_size={image_size}",
             f"model.findings=[{','.join(findings)}]", f"seed={seed}"]  # fmt: skip
    cfg = compose_config(spelt_out(words))
    module = build_classifier(cfg)
    torch.nn.init.normal_(module.network.heads.directions.weight, std=0.3)
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": module.state_dict(), CONFIG_KEY: plain(cfg)}, folder / "checkpoints" / "best.ckpt")
    return folder


def write_predictions(
    folder: Path, ids: Sequence[str], labels: Mapping[str, Sequence[int]], seed: int = 0, split: str = "test"
) -> dict[str, np.ndarray]:
    """`predictions.parquet` of a run, two images a patient; returns the probabilities [N, K] of each finding."""
    stream = np.random.default_rng(seed)
    columns = {"id": list(ids), "patient": [f"p{name[:-1]}" for name in ids], "split": [split] * len(ids)}
    chances = {}
    for name, levels in labels.items():
        values = stream.dirichlet(np.ones(NUM_LEVELS[name]), size=len(ids)).astype(np.float32)
        chances[name], columns[f"label_{name}"] = values, pa.array(levels, pa.int8())
        columns |= {f"p_{name}_{level}": pa.array(values[:, level]) for level in range(values.shape[1])}
    pq.write_table(pa.table(columns), folder / "predictions.parquet")
    return chances
