"""What the project writes, the project reads: a shape that is too narrow would pass it over, and say nothing."""

import json

import numpy as np

from callbacks.metrics.consistency import agreement
from callbacks.metrics.estimate import to_json
from callbacks.metrics.evaluation import evaluate
from callbacks.run_record import RunRecord
from datamodules.files import read_json
from experiments.card.facts import SHAPES
from experiments.cells import Cell
from experiments.runs import status_of
from experiments.synthesis.recipe import _fingerprints
from experiments.transfer.cells import FineTuning
from experiments.transfer.outcome import outcomes, pretraining_facts

LEVELS = np.array([[0, 0], [0, 1], [1, 2], [1, -1]])
FINDINGS = {"is_gc": 2, "dr_grade": 5}
CHANCES = {"is_gc": np.array([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.1, 0.9]]), "dr_grade": np.full((4, 5), 0.2)}
FINGERPRINTS = {"data": "0123", "split": "4567"}


def recorded(folder):
    record = RunRecord(str(folder), {"seed": 1, "output_dir": str(folder)}, FINGERPRINTS)
    record.start()
    record.finish("finished", {"val/auroc": 0.5, "val/none": float("nan")})


def test_a_record_of_a_run(tmp_path):
    recorded(tmp_path)
    assert status_of(tmp_path) == Cell(tmp_path, ()).status == "finished"
    assert _fingerprints(tmp_path / "checkpoints/best.ckpt") == FINGERPRINTS
    assert read_json(tmp_path / "record.json", SHAPES["record.json"])["sessions"][0]["status"] == "finished"


def test_an_evaluation_of_a_cell(tmp_path):
    recorded(tmp_path)
    found = evaluate(LEVELS, CHANCES, FINDINGS, list("abcd"), num_replicates=5)
    (tmp_path / "evaluation.json").write_text(json.dumps({"test": to_json(found)}))
    cell = FineTuning("resnet", "random", 1.0, 0, Cell(tmp_path, ()))
    assert outcomes([cell], {}, "test/is_gc/auroc")[0].value == found["is_gc"]["auroc"].value == 0.75
    assert pretraining_facts(tmp_path) == {"test/auroc": found["macro"]["auroc"].value}


def test_consistency_of_a_set(tmp_path):
    synthetic = to_json(agreement(LEVELS, CHANCES, FINDINGS, list("abcd"), {"is_gc": 0.5}, num_replicates=0, seed=0))
    told = {"synthetic": {"findings": synthetic}, "real": {"findings": {}, "sources": ["x"]}, "notes": ["none"]}
    path = tmp_path / next(name for name in SHAPES if name.startswith("consistency"))
    path.write_text(json.dumps(told))
    assert read_json(path, SHAPES[path.name]) == told and synthetic["is_gc"]["auroc"]["value"] == 0.75
