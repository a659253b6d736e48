"""Where a run writes, and what `resume` goes on from."""

import csv
import errno
import json
import os
import re
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from refusals import refuses
from tiny_runs import DDPM_TRAIN, DIFFUSION, VAE_TRAIN, column

from callbacks.locks import HeldError, alone
from callbacks.run_record import RunRecord
from experiments import runs
from experiments.launch import inherited, is_started_by_a_run
from experiments.runs import differing_keys, resolve_run_folder
from experiments.session import Run
from experiments.training import say_changed_data

CONFIG = {"name": "x", "seed": 0, "resume": None, "output_dir": "runs/x/3", "trainer": {"max_epochs": 2},
          "frechet": {"output_dir": "runs/x/3"}}  # fmt: skip


def leave_run(folder, status="running", checkpoint=True, **changes):
    """What a run leaves that got as far as its first checkpoint."""
    config = {**CONFIG, "output_dir": str(folder), "frechet": {"output_dir": str(folder)}, **changes}
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "record.json").write_text(json.dumps({"status": status}))
    if checkpoint:
        leave_checkpoint(folder / "checkpoints/last.ckpt", 8)


COUNTER = dict.fromkeys(("total", "current"), {"ready": 1, "completed": 1})
TRAINING = {"epoch": 1, "loops": {"fit_loop": {"epoch_progress": COUNTER, "epoch_loop.batch_progress": COUNTER}},
            "optimizer_states": [], "lr_schedulers": [], "callbacks": {},
            "pytorch-lightning_version": "2.6.6"}  # fmt: skip


def leave_checkpoint(path, step):
    torch.save({"state_dict": {}, "global_step": step, **TRAINING}, path)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def settle(config, output_dir_given):
    """Where a run with this configuration would write."""
    with resolve_run_folder(config, output_dir_given) as folder:
        return folder


def resumed(**changes):
    return settle({**CONFIG, "resume": "auto", **changes}, output_dir_given=False)


# -- settle


def test_a_new_run_has_its_own_folder(here):
    assert str(settle(CONFIG, False).output_dir) == "runs/x/3"
    (here / "runs/x/3").mkdir(parents=True)
    assert str(settle(CONFIG, False).output_dir) == "runs/x/3_2", "of two that start in one second"


def test_what_a_killed_run_left_half_written_in_the_cache_goes_a_day_later(here):
    for number, folder in enumerate(("cache/features", "cache/autoencoders")):
        path = here / folder / f".x.{number}.part.npz"
        path.parent.mkdir(parents=True)
        path.touch()
        (path.parent / "x.npz").touch()
        os.utime(path, (path.stat().st_mtime - 90_000 * number,) * 2)
    settle({**CONFIG, "cache_dir": "cache"}, False)
    assert sorted(str(path) for path in Path("cache").rglob("*.npz")) == [
        "cache/autoencoders/x.npz", "cache/features/.x.0.part.npz", "cache/features/x.npz"]  # fmt: skip


def test_a_given_folder_that_holds_a_run_is_refused(here):
    leave_run(here / "runs/x/3", "interrupted")
    with refuses(ValueError, "output_dir=runs/x/3", "(interrupted)", "resume=auto"):
        settle(CONFIG, output_dir_given=True)


def test_resume_takes_the_newest_unfinished_run_of_the_same_configuration(here):
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
    with refuses(FileNotFoundError, "resume=kept/lost.ckpt", "best.ckpt, last.ckpt"):
        settle({**CONFIG, "resume": "kept/lost.ckpt"}, False)


def test_resume_from_a_path_writes_into_a_new_folder(here):
    leave_checkpoint(here / "kept.ckpt", 3)
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
    short = {**CONFIG, "output_dir": "a", "frechet": {"output_dir": "a"}, "data": {"root": "data"}}
    moved = {**short, "output_dir": "b", "frechet": {"output_dir": "b"}, "data": {"root": "data"}}
    assert differing_keys(moved, short) == [], "a short name of a folder is part of other words"
    assert differing_keys({**moved, "frechet": {"output_dir": "b/inside"}}, short) == ["frechet.output_dir"]


def test_a_finished_run_is_not_said_to_have_something_left(tmp_path):
    config = {**CONFIG, "output_dir": str(tmp_path)}
    for status, word in (("finished", "left"), ("interrupted", "Go on")):
        (tmp_path / "record.json").write_text(json.dumps({"status": status}))
        with refuses(ValueError, f"output_dir={tmp_path}", f"({status})", word, "resume=auto"):
            settle(config, output_dir_given=True)


def test_a_cache_in_another_place_is_no_other_run(here):
    leave_run(here / "runs/x/1", cache_dir="/old/cache", data={"cache_dir": "/old/cache"})
    assert str(resumed(cache_dir="/new/cache", data={"cache_dir": "/new/cache"}).output_dir) == "runs/x/1"


def test_other_data_than_a_run_has_seen_are_told_before_it_goes_on(tmp_path, capsys):
    RunRecord(str(tmp_path), CONFIG, {"data": "0123456789", "split": "same"}).start()
    say_changed_data(tmp_path, SimpleNamespace(fingerprint="0123456789", split_fingerprint="same"))
    assert capsys.readouterr().out == ""
    say_changed_data(tmp_path, SimpleNamespace(fingerprint="abcdefghij", split_fingerprint="same"))
    assert re.search(r"other data than .*data 01234567 then, abcdefgh now.*learns from these", capsys.readouterr().out)


def test_a_folder_is_one_runs(here):
    leave_run(here / "runs/x/1", "interrupted")
    given = {**CONFIG, "output_dir": "runs/x/1", "resume": "auto"}
    with resolve_run_folder(given, True):
        for config, is_given in ((given, True), ({**CONFIG, "resume": "auto"}, False)):
            with refuses(HeldError, "'runs/x/1'", f"process {os.getpid()}", "output_dir"):
                settle(config, is_given)
    assert settle(given, True).checkpoint == "runs/x/1/checkpoints/last.ckpt"


def test_two_new_runs_of_one_second_have_a_folder_each(here, monkeypatch):
    with resolve_run_folder(CONFIG, False) as first, resolve_run_folder(CONFIG, False) as second:
        assert [str(folder.output_dir) for folder in (first, second)] == ["runs/x/3", "runs/x/3_2"]
    seen = []

    def slow(config, output_dir_given, decide=runs._decide):
        seen.append(decide(config, output_dir_given))
        if len(seen) == 1:  # meanwhile another takes it
            stack.enter_context(alone(seen[0].output_dir))
        return seen[-1]

    monkeypatch.setattr(runs, "_decide", slow)
    with ExitStack() as stack:
        assert str(settle(CONFIG, False).output_dir) == "runs/x/3_2"
    assert not (here / "runs").exists(), "nothing was written"


DAMAGED = ["", "{", "[1, 2]", "text", "null", "a: [", "\x00", '{"sessions": 3}']


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_configuration_of_another_run_stops_nobody(here, text):
    leave_run(here / "runs/x/1")
    leave_run(here / "runs/x/2")
    (here / "runs/x/2/config.yaml").write_text(text)
    os.utime(here / "runs/x/2", (2e9, 2e9))
    assert str(resumed().output_dir) == "runs/x/1"
    (here / "runs/x/1/record.json").write_text('{"status": "finished"}')
    assert "runs/x/2" in resumed().note and "starting afresh" in resumed().note


@pytest.mark.parametrize("name, texts", [("config.yaml", DAMAGED[:-1]), ("record.json", DAMAGED)])
def test_a_damaged_file_of_the_run_itself_is_told_with_a_remedy(here, name, texts):
    leave_run(here / "runs/x/1")
    for text in texts:
        (here / "runs/x/1" / name).write_text(text)
        with refuses(ValueError, f"runs/x/1/{name}", "Remedy"):
            settle({**CONFIG, "output_dir": "runs/x/1", "resume": "auto"}, True)
    (here / "runs/x/1" / name).unlink()
    assert settle({**CONFIG, "output_dir": "runs/x/1", "resume": "auto"}, True).checkpoint


@pytest.mark.parametrize("spoil", [cut, lambda path: path.write_bytes(b""), lambda path: path.unlink()])
def test_where_the_last_checkpoint_is_not_whole_the_newest_that_is_whole_is_gone_on_from(here, spoil):
    leave_run(here / "runs/x/1")
    folder = Path("runs/x/1/checkpoints")
    for name, step in (("best.ckpt", 4), ("step-00000006.ckpt", 6), ("step-00000007.ckpt", 7)):
        leave_checkpoint(folder / name, step)
    cut(folder / "step-00000007.ckpt")
    torch.save({"state_dict": {}}, folder / "one.ckpt")  # weights alone
    torch.save({"state_dict": {}, "loops": {}}, folder / "foreign.ckpt")
    torch.save({"state_dict": {}, **TRAINING, "global_step": "many"}, folder / "other.ckpt")
    spoil(folder / "last.ckpt")
    found = resumed()
    assert found.checkpoint == "runs/x/1/checkpoints/step-00000006.ckpt"
    assert "last.ckpt" in found.note and "of step 6: going on from runs/x/1/checkpoints/step-0" in found.note


def test_where_no_checkpoint_is_whole_nothing_is_begun_anew_over_it(here):
    leave_run(here / "runs/x/1")
    cut(here / "runs/x/1/checkpoints/last.ckpt")
    with refuses(ValueError, "runs/x/1/checkpoints/last.ckpt", "containers", "output_dir"):
        resumed()


def test_a_damaged_checkpoint_that_is_named_is_refused_with_those_that_are_whole(here):
    for name, step in (("last.ckpt", 9), ("best.ckpt", 8), ("step-00000006.ckpt", 6)):
        leave_checkpoint(here / name, step)
    cut(here / "last.ckpt")
    with refuses(ValueError, "'last.ckpt'", "resume=step-00000006.ckpt (step 6)", "resume=best.ckpt (step 8)"):
        settle({**CONFIG, "resume": "last.ckpt"}, False)


def test_an_error_of_the_disk_is_not_a_damaged_checkpoint(here, monkeypatch):
    leave_run(here / "runs/x/1")
    leave_checkpoint(here / "runs/x/1/checkpoints/best.ckpt", 4)

    def gone(*arguments, **settings):
        raise OSError(errno.ENOTCONN, "the share is away")

    monkeypatch.setattr(torch, "load", gone)
    with refuses(OSError, f"[Errno {errno.ENOTCONN}]", "the share is away"):
        resumed()


def test_what_a_killed_run_left_half_written_is_gone_when_it_goes_on(here):
    leave_run(here / "runs/x/1")
    left = here / "runs/x/1/checkpoints/.last.4711.part.ckpt"
    left.touch()
    resumed()
    assert not left.exists() and (here / "runs/x/1/checkpoints/last.ckpt").exists()


# -- runs


def test_a_used_folder_is_refused_by_the_command(command):
    words = [*VAE_TRAIN, "output_dir=out", "trainer.max_epochs=1"]
    assert command(*words).code == 0
    again = command(*words)
    assert again.code == 1 and "error: output_dir=out already holds a run (finished)" in again.err


def test_a_checkpoint_of_another_architecture_is_refused(command, here):
    assert (
        command(
            *DDPM_TRAIN, "output_dir=out", "trainer.max_epochs=1", "~callbacks.frechet", "~callbacks.agreement"
        ).code
        == 0
    )
    wider = [word for word in DDPM_TRAIN if "dim=16" not in word]
    other = command(*wider, "model.conditioning.dim=24", "output_dir=other", "resume=out/checkpoints/last.ckpt")
    assert other.code == 1
    assert "the checkpoint is of another architecture" in other.err
    assert "model.conditioning.dim: 24 here, 16 there" in other.err
    assert "model.conditioning.dim=16" in DIFFUSION


def test_a_finished_run_goes_on_for_more_epochs(command, here):
    """As if it had been so many from the start, at a rate that does not depend on their number."""
    words = [
        *DDPM_TRAIN,
        "model.diffusion.lr_schedule=constant",
        "~callbacks.frechet",
        "~callbacks.agreement",
        "~callbacks.sample_grid",
    ]
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

    def refuse():
        raise OSError(errno.ENOSPC, "no space left")

    run = Run(OmegaConf.create({**CONFIG, "output_dir": str(tmp_path)}))
    with refuses(ValueError, "what happened"), run.recorded() as record:
        monkeypatch.setattr(record, "_write", refuse)
        raise ValueError("what happened")
    assert "record.json could not be written" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["checkpoints", "samples", "tensorboard"])
def test_a_link_in_the_place_of_a_folder_of_a_run_is_not_written_through(here, name):
    (here / "run").mkdir()
    (here / "mine").mkdir()
    (here / "run" / name).symlink_to(here / "mine")
    with refuses(ValueError, here / "run" / name, f"'{here / 'mine'}'"):
        Run.of(OmegaConf.create({"name": "x"}), runs.RunFolder(here / "run", "", ""))
    assert list((here / "mine").iterdir()) == []
