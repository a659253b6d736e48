"""The classifier by its command: what is measured, what a record says, what a checkpoint may and may not do."""

import json
from pathlib import Path

import pytest
import torch
from refusals import refuses
from tiny_runs import DATA, TRAINER

from callbacks.diagnosis import Diagnosis
from experiments import trainers
from experiments.loading import load_classifier
from lightning_modules.checkpoint import CONFIG_KEY

SMALL = [
    "+exp=classifier_train", *DATA, *TRAINER, "model/backbone=resnet10t", "model/init=random", "data.image_size=32",
    "model.classifier.warmup_steps=1", "job.num_replicates=20", "trainer.max_epochs=1",
]  # fmt: skip
GRADES = "model.findings=[dr_grade]"


def record(folder: str) -> dict:
    return json.loads(Path(folder, "record.json").read_text())


@pytest.mark.slow
def test_a_run_that_breaks_while_it_is_evaluated_is_not_finished_and_goes_on(command, here, monkeypatch):
    """Without findings by name: what is learnt then depends on the data, and is no difference between two commands."""

    def broken(self, trainer):
        raise RuntimeError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Diagnosis, "write", broken)
        assert command(*SMALL).code == 1
    [folder] = Path("runs/classifier_train").iterdir()
    assert record(folder)["status"] == "running" and not (folder / "evaluation.json").exists()
    result = command(*SMALL, "resume=auto")
    assert result.code == 0, result.err
    assert f"going on from {folder}" in result.out and list(Path("runs/classifier_train").iterdir()) == [folder]
    found, evaluation = record(folder), json.loads((folder / "evaluation.json").read_text())
    assert found["status"] == "finished" and [s["status"] for s in found["sessions"]] == ["killed", "finished"]
    assert found["metrics"]["test/accuracy"] == evaluation["test"]["macro"]["accuracy"]["value"]


def test_where_the_monitored_figure_is_never_defined_the_last_epoch_is_measured(command, here):
    words = ["model.findings=[is_pm]", "trainer.max_epochs=2", "data.num_images=64"]
    result = command(*SMALL, *words, "data.fractions={train: 0.94, val: 0.03, test: 0.03}", "output_dir=out")
    assert result.code == 0, result.err
    assert "val/auroc was undefined after every epoch" in result.out
    best, last = (torch.load(f"out/checkpoints/{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert best["global_step"] == last["global_step"]
    assert all(torch.equal(best["state_dict"][name], tensor) for name, tensor in last["state_dict"].items())


@pytest.mark.parametrize(("monitor", "mode"), [("val/ece", "min"), ("val/loss", "min"), ("val/qwk_dr_grade", "max")])
def test_the_best_epoch_is_that_of_the_direction_that_the_metric_declares(command, here, monkeypatch, monitor, mode):
    class Enough(ValueError):
        pass

    def best(*arguments, **settings):
        raise Enough(f"mode={settings['mode']}")

    monkeypatch.setattr(trainers, "BestCheckpoint", best)
    assert f"mode={mode}" in command(*SMALL, f"job.monitor={monitor}").err


@pytest.mark.slow
def test_fewer_labels_learn_the_same_findings(command, here):
    whole = command(*SMALL, "data.num_images=200", "output_dir=whole")
    part = command(*SMALL, "data.num_images=200", "data.train_fraction=0.1", "output_dir=part")
    assert whole.code == part.code == 0, part.err
    told = [json.loads(Path(folder, "evaluation.json").read_text())["test"].keys() for folder in ("whole", "part")]
    assert told[0] == told[1] and len(told[0]) > 10
    rows = [line for line in part.out.splitlines() if line.startswith("in use:")]
    assert len(rows) == 1 and "18 images in train" in rows[0]


def test_a_checkpoint_rebuilds_its_classifier_and_starts_no_other(command, here):
    assert command(*SMALL, GRADES, "output_dir=out").code == 0
    path = "out/checkpoints/best.ckpt"
    images = torch.rand(2, 3, 32, 32)
    module = load_classifier(path)
    [chances] = module.probabilities(images).values()
    assert chances.shape == (2, 5) and torch.allclose(chances.sum(1), torch.ones(2))
    refused = command(*SMALL, "model.findings=[is_gc]", "data.num_images=120", f"ckpt={path}", "output_dir=other")
    assert (
        refused.code == 1
        and "ckpt=out/checkpoints/best.ckpt tells dr_grade, and this run is to tell is_gc" in refused.err
    )
    again = command(*SMALL, GRADES, f"ckpt={path}", "model.classifier.class_weights=true", "output_dir=again")
    assert again.code == 0, again.err
    assert f"weights of backbone and heads: {path}" in again.out
    weights = torch.load("again/checkpoints/last.ckpt", weights_only=True)["state_dict"]["level_weights"]
    assert not (weights == 1).all(), "they are those of this run's data"


@pytest.mark.parametrize(
    "target",
    ["torch.hub.load", "os.system", "lightning_modulesque.Evil", "lightning_modules.checkpoint.torch.hub.load", 3],
)
def test_a_checkpoint_that_names_something_else_to_call_is_refused(command, here, target):
    config = {"seed": 0, "model": {"classifier": {}, "backbone": {"_target_": target}}}
    state = {CONFIG_KEY: config, "state_dict": {}}
    torch.save(state, "evil.ckpt")
    with refuses(ValueError, "evil.ckpt", f"{target!r} (model.backbone._target_)"):
        load_classifier("evil.ckpt")
    state[CONFIG_KEY]["model"]["backbone"] = {"parts": [{"_target_": "torch.hub.load"}]}
    torch.save(state, "evil.ckpt")
    with refuses(ValueError, "evil.ckpt", "'torch.hub.load' (model.backbone.parts.0._target_)"):
        load_classifier("evil.ckpt", trusted=["my_backbones"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("model.findings=[]", "model.findings is empty"),
        ("job.num_replicates=-5", "job.num_replicates=-5 must be at least 0"),
        ("job.monitor=val/aurok", "job.monitor=val/aurok is not logged. Did you mean 'val/auroc'?"),
        ("job.monitor=val/qwk_eye_side", "is not logged"),
    ],
)
def test_settings_that_mean_nothing_are_said_before_the_training(command, here, word, said):
    result = command(*SMALL, word, "output_dir=out")
    assert result.code == 1 and said in result.err, result.err
    assert not list(here.glob("out/checkpoints/*"))


def test_a_linear_probe_says_what_it_learns(command, here):
    result = command(*SMALL, GRADES, "model.classifier.num_frozen=all", "output_dir=out")
    assert result.code == 0, result.err
    assert "frozen: 5 layers; 516 parameters are learnt" in result.out  # 512 directions, 4 offsets
    module = load_classifier("out")
    with refuses(ValueError, "[0, 255]", "[0, 1]"):
        module.probabilities(torch.tensor([0.0, 255.0]).repeat(1, 3, 32, 16))
    for images in (torch.zeros(3, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 1, 32, 32)):
        with refuses(ValueError, f"{images.dtype} {list(images.shape)}", "[B, 3, H, W]"):
            module.probabilities(images)
