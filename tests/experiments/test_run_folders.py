"""Where a run writes, and what `resume` goes on from."""

import csv
import errno
import json

import pytest
import torch
import yaml
from tiny_runs import DDPM_TRAIN, DIFFUSION, VAE_TRAIN, column

from callbacks.run_record import RunRecord
from experiments.launch import inherited, is_started_by_a_run
from experiments.runs import differing_keys, settle
from experiments.training import recorded

CONFIG = {"name": "x", "seed": 0, "resume": None, "output_dir": "runs/x/3", "trainer": {"max_epochs": 2},
          "frechet": {"output_dir": "runs/x/3"}}  # fmt: skip


def leave_run(folder, status="running", checkpoint=True, **changes):
    """What a run leaves that got as far as its first checkpoint."""
    config = {**CONFIG, "output_dir": str(folder), "frechet": {"output_dir": str(folder)}, **changes}
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "record.json").write_text(json.dumps({"status": status}))
    if checkpoint:
        (folder / "checkpoints" / "last.ckpt").touch()


def resumed(**changes):
    return settle({**CONFIG, "resume": "auto", **changes}, output_dir_given=False)


# -- settle


def test_a_new_run_has_its_own_folder(here):
    assert str(settle(CONFIG, False).output_dir) == "runs/x/3"
    (here / "runs/x/3").mkdir(parents=True)
    assert str(settle(CONFIG, False).output_dir) == "runs/x/3_2", "of two that start in one second"


def test_a_given_folder_that_holds_a_run_is_refused(here):
    leave_run(here / "runs/x/3", "interrupted")
    with pytest.raises(ValueError, match=r"output_dir=runs/x/3 already holds a run \(interrupted\).*resume=auto"):
        settle(CONFIG, output_dir_given=True)


def test_resume_takes_the_newest_unfinished_run_of_the_same_configuration(here):
    import os

    for number, (name, status) in enumerate([("0", "killed"), ("1", "interrupted"), ("2", "finished")]):
        leave_run(here / "runs/x" / name, status)
        os.utime(here / "runs/x" / name, (number, number))
    found = resumed()
    assert (str(found.output_dir), found.checkpoint) == ("runs/x/1", "runs/x/1/checkpoints/last.ckpt")
    assert found.note == "going on from runs/x/1/checkpoints/last.ckpt"


def test_resume_may_change_how_checkpoints_are_kept_and_activations_computed(here):
    leave_run(here / "runs/x/1", model={"diffusion": {"activation_checkpointing": False}}, checkpoint_keep_last=1)
    changed = {"model": {"diffusion": {"activation_checkpointing": True}}, "checkpoint_async": True}
    found = resumed(**changed, checkpoint_keep_last=3, activation_checkpointing=True)
    assert found.note == "going on from runs/x/1/checkpoints/last.ckpt"


def test_resume_names_what_differs_and_starts_afresh(here):
    leave_run(here / "runs/x/1", trainer={"max_epochs": 3}, seed=1)
    found = resumed()
    assert (str(found.output_dir), found.checkpoint) == ("runs/x/3", "")
    assert found.note == (
        "nothing to go on with in runs/x, starting afresh "
        "(runs/x/1 is unfinished, but differs in seed, trainer.max_epochs: "
        "output_dir=runs/x/1 goes on with it all the same)"
    )


def test_resume_with_nothing_there_says_so(here):
    assert resumed().note == "nothing to go on with in runs/x, starting afresh"


def test_resume_of_a_run_that_had_no_checkpoint_yet(here):
    leave_run(here / "runs/x/1", checkpoint=False)
    found = resumed()
    assert (str(found.output_dir), found.checkpoint) == ("runs/x/1", "")
    assert "which has no checkpoint, with what is finished there" in found.note


def test_resume_of_a_run_killed_before_it_had_a_record(here):
    leave_run(here / "runs/x/1")
    (here / "runs/x/1/record.json").unlink()
    assert str(resumed().output_dir) == "runs/x/1"


def test_resume_in_a_given_folder_says_what_changed(here):
    leave_run(here / "runs/x/3", "finished", trainer={"max_epochs": 1})
    found = settle({**CONFIG, "resume": "auto"}, output_dir_given=True)
    assert found.checkpoint == "runs/x/3/checkpoints/last.ckpt"
    assert found.note.endswith("(changed since: trainer.max_epochs)")


def test_resume_from_a_path_that_is_not_there_lists_the_others(here):
    (here / "kept").mkdir()
    for name in ("best.ckpt", "last.ckpt"):
        (here / "kept" / name).touch()
    with pytest.raises(FileNotFoundError, match="no such checkpoint. Checkpoints in that folder: best.ckpt, last.ckpt"):
        settle({**CONFIG, "resume": "kept/lost.ckpt"}, False)


def test_resume_from_a_path_writes_into_a_new_folder(here):
    (here / "kept.ckpt").touch()
    found = settle({**CONFIG, "resume": "kept.ckpt"}, False)
    assert (str(found.output_dir), found.checkpoint) == ("runs/x/3", "kept.ckpt")


def test_processes_that_a_run_starts_take_its_folder(here, monkeypatch):
    first = settle(CONFIG, False)
    first.output_dir.mkdir(parents=True)
    assert not is_started_by_a_run()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert is_started_by_a_run() and inherited() == first


def test_paths_differ_only_outside_the_runs_folder():
    there = {**CONFIG, "output_dir": "runs/x/1", "frechet": {"output_dir": "runs/x/1"}, "ckpt": "runs/y/1/last.ckpt"}
    assert differing_keys({**CONFIG, "ckpt": "runs/y/2/last.ckpt"}, there) == ["ckpt"]


def test_a_finished_run_is_not_said_to_have_something_left(tmp_path):
    config = {**CONFIG, "output_dir": str(tmp_path)}
    for status, said in (("finished", "Give another. Or, where something is left"), ("interrupted", "Go on with it")):
        (tmp_path / "record.json").write_text(json.dumps({"status": status}))
        with pytest.raises(ValueError, match=rf"\({status}\)\. {said}.*resume=auto"):
            settle(config, output_dir_given=True)


# -- runs


def test_a_used_folder_is_refused_by_the_command(command):
    words = [*VAE_TRAIN, "output_dir=out", "trainer.max_epochs=1"]
    assert command(*words).code == 0
    again = command(*words)
    assert again.code == 1 and "error: output_dir=out already holds a run (finished)" in again.err


def test_a_checkpoint_of_another_architecture_is_refused(command, here):
    assert command(*DDPM_TRAIN, "output_dir=out", "trainer.max_epochs=1", "~callbacks.frechet").code == 0
    wider = [word for word in DDPM_TRAIN if "dim=16" not in word]
    other = command(*wider, "model.conditioning.dim=24", "output_dir=other", "resume=out/checkpoints/last.ckpt")
    assert other.code == 1
    assert "the checkpoint is of another architecture" in other.err
    assert "model.conditioning.dim: 24 here, 16 there" in other.err
    assert "model.conditioning.dim=16" in DIFFUSION


def test_a_finished_run_goes_on_for_more_epochs(command, here):
    """As if it had been so many from the start, at a rate that does not depend on their number."""
    words = [*DDPM_TRAIN, "model.diffusion.lr_schedule=constant", "~callbacks.frechet", "~callbacks.sample_grid"]
    assert command(*words, "output_dir=whole", "trainer.max_epochs=2").code == 0
    assert command(*words, "output_dir=parts", "trainer.max_epochs=1").code == 0
    result = command(*words, "output_dir=parts", "trainer.max_epochs=2", "resume=auto")
    assert result.code == 0 and "(changed since: trainer.max_epochs)" in result.out
    assert column(here / "whole", "train/loss") == column(here / "parts", "train/loss")
    assert column(here / "whole", "val/loss") == column(here / "parts", "val/loss")
    ends = [torch.load(here / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "parts")]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 8
    for name, tensor in ends[0]["state_dict"].items():
        assert torch.equal(tensor, ends[1]["state_dict"][name]), name
    with open(here / "parts" / "metrics.csv") as file:
        assert len(list(csv.DictReader(file))) > 8


def test_going_on_with_a_run_that_has_ended_changes_nothing(command, here):
    words = [*VAE_TRAIN, "output_dir=out", "trainer.max_epochs=1"]
    assert command(*words).code == 0
    before = (here / "out/metrics.csv").read_text()
    weights = torch.load(here / "out/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    again = command(*words, "resume=auto")
    assert again.code == 0, again.err
    assert (here / "out/metrics.csv").read_text() == before
    now = torch.load(here / "out/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weights[name], now[name]) for name in weights)
    assert json.loads((here / "out/record.json").read_text())["status"] == "finished"


def test_where_the_record_cannot_be_written_the_error_itself_is_told(tmp_path, monkeypatch, capsys):
    """As on a full disk."""
    record = RunRecord(str(tmp_path), CONFIG)

    def refuse():
        raise OSError(errno.ENOSPC, "no space left")

    with pytest.raises(ValueError, match="what happened"), recorded(record):
        monkeypatch.setattr(record, "_write", refuse)
        raise ValueError("what happened")
    assert "record.json could not be written" in capsys.readouterr().err
