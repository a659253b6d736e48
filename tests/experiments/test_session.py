"""A run: the machine is tried once, parts share it, and the record of a job."""

import json
import traceback
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from refusals import refuses
from tiny_runs import DDPM_TRAIN

from experiments import devices, session
from experiments.session import Run
from lightning_modules.latent_diffusion import LatentDiffusion

ROOMS = ("lightning_modules", "datamodules", "callbacks", "experiments")


@pytest.mark.slow
def test_a_run_tries_the_machine_once_and_few_frames_lead_to_a_step(command, monkeypatch):
    tried, stacks, step = [], [], LatentDiffusion.training_step

    def seen(module, batch, batch_idx):
        stacks.append(traceback.extract_stack())
        return step(module, batch, batch_idx)

    monkeypatch.setattr(session, "trial_trainer", lambda cfg: tried.append(1) or devices.trial_trainer(cfg))
    monkeypatch.setattr(LatentDiffusion, "training_step", seen)
    result = command(*DDPM_TRAIN, "trainer.max_epochs=1", "output_dir=out")
    assert result.code == 0, result.err
    assert len(tried) == 1, "the autoencoder within it included"
    root = Path(session.__file__).parents[1]
    files = [Path(frame.filename) for frame in stacks[0]]
    ours = [file.name for file in files if file.is_relative_to(root) and file.relative_to(root).parts[0] in ROOMS]
    ways = ["run.py", "run.py", "errors.py", "run.py", "session.py", "ddpm_train.py", "training.py"]
    assert ours[:7] == ways and len(ours) <= 8, ours


def run_in(folder, **keys):
    job = {"_target_": "experiments.evaluate.evaluate", "size": 3}
    return Run(OmegaConf.create({"seed": 0, "ckpt": None, "output_dir": str(folder), "job": job, **keys}))


def test_a_part_has_settings_and_a_folder_of_its_own(tmp_path):
    run = run_in(tmp_path, data={"batch_size": 4})
    run.trial = object()
    part = run.but({"data": {"batch_size": 2}}).within(tmp_path / "part", "a.ckpt")
    assert part.cfg.data.batch_size == 2 and run.cfg.data.batch_size == 4 and part.trial is run.trial
    assert (part.output_dir, part.checkpoint) == (tmp_path / "part", "a.ckpt") and run.checkpoint == ""
    assert run.name == "evaluate" and run.job["size"] == 3


@pytest.mark.parametrize(("error", "status"), [(ValueError("no"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_a_job_that_does_not_end_is_recorded_as_such(tmp_path, error, status):
    run = run_in(tmp_path)
    with pytest.raises(type(error)), run.recorded() as record:
        assert json.loads((tmp_path / "record.json").read_text())["status"] == "running"
        record.record["found"] = 5
        raise error
    kept = json.loads((tmp_path / "record.json").read_text())
    assert kept["status"] == status and kept["found"] == 5 and ("error" in kept) == (status == "failed")


def test_weights_are_refused_where_they_mean_nothing(tmp_path):
    run_in(tmp_path).refuse_weights()
    for run in (run_in(tmp_path, ckpt="x.ckpt"), Run(run_in(tmp_path).cfg, "x.ckpt")):
        with refuses(ValueError, "evaluate", "weights", "ckpt"):
            run.refuse_weights()
