"""The last few states and the few best epochs are kept, whole, at any time and over a resume."""

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from refusals import refuses
from tiny_fit import ResumableModule, TinyData, read_saved

from callbacks.atomic_checkpoint_io import AtomicCheckpointIO
from callbacks.due import BestCheckpoint
from callbacks.kept_checkpoints import BestCheckpoints, KeepingTrainer, MovedFolder
from callbacks.metrics_csv import MetricsCSV, resume_step
from callbacks.stamp_metric import MEASURED_KEY, StampMetric
from callbacks.step_checkpoint import StepCheckpoint

VALUES = [5.0, 3.0, 4.0, 1.0, 2.0, 6.0]  # val/loss of each epoch


class Scripted(ResumableModule):
    """Its val/loss is known."""

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", VALUES[self.current_epoch])


class Kill(Callback):
    """Stops before a step, as a kill would."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise InterruptedError


def run(
    folder, keep_last=1, keep_best=1, mode="min", resume=False, kill=None, measured_every=1, logger=False, **settings
):
    """Six batches an epoch, a checkpoint every two steps."""
    torch.manual_seed(0)
    every = {"dirpath": folder, "enable_version_counter": False}
    best = {"monitor": "val/loss", "mode": mode, "measured_every_n_epochs": measured_every, **every}
    callbacks = [BestCheckpoint(filename="best", **best)]
    callbacks += [StampMetric("val/loss", measured_every), MovedFolder(read_progress)]
    callbacks += [BestCheckpoints(save_top_k=keep_best, **best)] if keep_best > 1 else []
    callbacks += [StepCheckpoint(filename="last", every_n_train_steps=2, **every)]
    callbacks += [Kill(kill)] if kill else []
    trainer = KeepingTrainer(
        keep_last, read_progress, accelerator="cpu", devices=1, logger=logger, callbacks=callbacks,
        num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False,
        plugins=[AtomicCheckpointIO(read_saved)], **({"max_epochs": 6} | settings),
    )  # fmt: skip
    checkpoint = folder / ("last.ckpt" if resume is True else resume) if resume else None
    trainer.fit(Scripted(), datamodule=TinyData(), ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / "last.ckpt")
    trainer.save_checkpoint(folder / "last.ckpt")  # as the autoencoder does, at the same step
    return trainer


def read_progress(path):
    """As the house does."""
    try:
        return read_saved(path)
    except RuntimeError as error:
        raise ValueError("not whole") from error


def names(folder, pattern="step-*"):
    return sorted(path.name for path in folder.glob(pattern))


def test_the_last_few_are_kept_and_hold_their_steps(tmp_path):
    trainer = run(tmp_path, keep_last=3)
    assert names(tmp_path, "*") == ["best.ckpt", "last.ckpt", "step-00000032.ckpt", "step-00000034.ckpt"]
    assert [read_saved(tmp_path / name)["global_step"] for name in names(tmp_path)] == [32, 34]
    assert read_saved(tmp_path / "last.ckpt")["global_step"] == trainer.global_step == 36


def test_one_keeps_nothing_beside_and_deletes_nothing(tmp_path):
    (tmp_path / "step-00000001.ckpt").write_text("of another run with this folder")
    run(tmp_path)
    assert names(tmp_path, "*") == ["best.ckpt", "last.ckpt", "step-00000001.ckpt"]


@pytest.mark.parametrize("step", [3, 9, 16, 17])
def test_resumed_goes_on_counting(tmp_path, step):
    run(tmp_path / "whole", keep_last=4, keep_best=3)
    with pytest.raises(InterruptedError):
        run(tmp_path / "killed", keep_last=4, keep_best=3, kill=step)
    run(tmp_path / "killed", keep_last=4, keep_best=3, resume=True)
    assert names(tmp_path / "killed", "*") == names(tmp_path / "whole", "*")
    for name in names(tmp_path / "whole", "*"):
        ours, theirs = (read_saved(tmp_path / at / name) for at in ("whole", "killed"))
        assert ours["global_step"] == theirs["global_step"], name
        assert torch.equal(ours["state_dict"]["scale"], theirs["state_dict"]["scale"]), name


def test_a_save_that_fails_loses_none(tmp_path, monkeypatch):
    with pytest.raises(InterruptedError):
        run(tmp_path, keep_last=3, kill=9)
    before = read_saved(tmp_path / "last.ckpt")["global_step"]

    def full(checkpoint, file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with refuses(OSError, os.strerror(errno.ENOSPC), "last.ckpt"):
        run(tmp_path, keep_last=3, resume=True)
    assert read_saved(tmp_path / "last.ckpt")["global_step"] == before == 8
    assert [read_saved(tmp_path / name)["global_step"] for name in names(tmp_path)] == [7, 8]


def test_without_links_it_is_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    run(tmp_path, keep_last=2)
    assert [read_saved(tmp_path / name)["global_step"] for name in names(tmp_path)] == [34]


@pytest.mark.parametrize("mode, kept", [("min", {1: 3.0, 3: 1.0, 4: 2.0}), ("max", {0: 5.0, 2: 4.0, 5: 6.0})])
def test_the_best_few_carry_epoch_and_value(tmp_path, mode, kept):
    trainer = run(tmp_path, keep_best=3, mode=mode)
    assert names(tmp_path, "best-*") == [f"best-{epoch:04d}-{value:.6g}.ckpt" for epoch, value in kept.items()]
    best = (min if mode == "min" else max)(kept, key=kept.get)
    assert read_saved(tmp_path / "best.ckpt")["epoch"] == best
    assert trainer.checkpoint_callback.best_model_path == str(tmp_path / "best.ckpt")


def told(path):
    """What a checkpoint says was measured of it."""
    return read_saved(path).get(MEASURED_KEY)


def test_a_checkpoint_holds_the_figure_of_its_own_step(tmp_path):
    """Also where it is not the best, and where the best was saved before the few best were counted."""
    run(tmp_path, keep_best=3, keep_last=2)
    epochs = {"best.ckpt": 3, "best-0001-3.ckpt": 1, "best-0003-1.ckpt": 3, "best-0004-2.ckpt": 4, "last.ckpt": 5}
    for name, epoch in epochs.items():
        assert told(tmp_path / name) == {"monitor": "val/loss", "value": VALUES[epoch]}, name
    [within] = names(tmp_path)
    assert told(tmp_path / within) is None, "nothing was measured within an epoch"


@pytest.mark.parametrize(("epoch", "told"), [(2, False), (3, True), (4, False), (5, True)])
def test_a_figure_of_an_earlier_epoch_is_not_told(epoch, told):
    measured, checkpoint = StampMetric("val/loss", every_n_epochs=4), {}
    trainer = SimpleNamespace(current_epoch=epoch, max_epochs=6, max_steps=-1, global_step=6 * (epoch + 1),
                              sanity_checking=False, callback_metrics={"val/loss": 1.0})  # fmt: skip
    measured.on_validation_end(trainer, None)
    measured.on_save_checkpoint(trainer, None, checkpoint)
    assert checkpoint == ({MEASURED_KEY: {"monitor": "val/loss", "value": 1.0}} if told else {})


@pytest.mark.parametrize(
    ("measured_every", "length", "best"),
    [(4, {"max_epochs": 1}, 0), (4, {"max_epochs": 2}, 1), (4, {"max_epochs": 6}, 3), (5, {"max_epochs": 3}, 2),
     (4, {"max_steps": 12}, 1), (3, {"max_epochs": 5}, 4), (2, {"max_epochs": 5, "check_val_every_n_epoch": 2}, 3)],
)  # fmt: skip
def test_the_last_epoch_is_looked_at_whatever_its_number(tmp_path, measured_every, length, best):
    run(tmp_path, measured_every=measured_every, keep_best=9, keep_last=9, **length)
    assert told(tmp_path / "best.ckpt") == {"monitor": "val/loss", "value": VALUES[best]}
    assert read_saved(tmp_path / "best.ckpt")["global_step"] == 6 * (best + 1)
    assert f"best-{best:04d}-{VALUES[best]:g}.ckpt" in names(tmp_path, "best-*")


def test_the_best_of_a_run_begun_with_lightnings_own_callback_is_known(tmp_path):
    """Before, best.ckpt was kept by a ModelCheckpoint: what it says of itself is under that name."""
    ours, theirs = BestCheckpoint("val/loss", 3), ModelCheckpoint(monitor="val/loss", every_n_epochs=1)
    assert ours.state_key == theirs.state_key
    assert BestCheckpoints("val/loss").state_key.startswith("BestCheckpoints{")


def test_fewer_best_than_before_keep_the_best_of_them(tmp_path):
    with pytest.raises(InterruptedError):
        run(tmp_path, keep_best=3, kill=20)
    assert names(tmp_path, "best-*") == ["best-0000-5.ckpt", "best-0001-3.ckpt", "best-0002-4.ckpt"]
    run(tmp_path, keep_best=2, resume=True)
    assert names(tmp_path, "best-*") == ["best-0003-1.ckpt", "best-0004-2.ckpt"]


def test_going_on_from_another_than_the_last_overwrites_a_damaged_one(tmp_path):
    """And ends as if nothing had happened."""
    whole = run(tmp_path / "whole").lightning_module.scale
    stopped_at_its_best(tmp_path / "cut", keep_last=2)
    last = tmp_path / "cut/last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    trainer = run(tmp_path / "cut", keep_last=2, resume="best.ckpt")
    assert torch.equal(trainer.lightning_module.scale, whole)
    assert read_saved(last)["global_step"] == 36
    assert names(tmp_path / "cut") == ["step-00000034.ckpt"]


def stopped_at_its_best(folder, **settings):
    """A run that is killed after its best epoch, the fourth; returns what its best checkpoints were then."""
    with pytest.raises(InterruptedError):
        run(folder, kill=27, **settings)
    assert read_saved(folder / "best.ckpt")["epoch"] == 3
    return {name: read_saved(folder / name)["epoch"] for name in names(folder, "best*")}


def test_a_folder_is_looked_through_once_for_all_who_keep_checkpoints_in_it(tmp_path, monkeypatch):
    stopped_at_its_best(tmp_path, keep_best=2)
    read, whole = [], MovedFolder._whole
    monkeypatch.setattr(MovedFolder, "_whole", lambda self, folder: read.append(folder) or whole(self, folder))
    run(tmp_path, keep_best=2, resume=True)
    assert read == [tmp_path]


@pytest.mark.parametrize("way", ["moved", "link", "relative"])
def test_the_best_stays_the_best_where_the_folder_is_reached_otherwise(tmp_path, monkeypatch, way):
    first, now = tmp_path / "first", tmp_path / "now"
    stopped_at_its_best(first, keep_best=2)
    if way == "moved":
        first.rename(now)
    elif way == "link":
        first.rename(tmp_path / "elsewhere")
        now.symlink_to(tmp_path / "elsewhere")
    else:
        monkeypatch.chdir(tmp_path)
        now = Path("first")
    trainer = run(now, keep_best=2, resume=True)
    assert read_saved(now / "best.ckpt")["epoch"] == 3
    assert names(now, "best-*") == ["best-0003-1.ckpt", "best-0004-2.ckpt"], "the second was beaten, and is gone"
    assert Path(trainer.checkpoint_callback.best_model_path) == (now / "best.ckpt").resolve()
    assert float(trainer.checkpoint_callback.best_model_score) == 1.0
    assert not (tmp_path / "first").is_dir() or way == "relative"


def test_a_copy_changes_nothing_in_the_folder_that_it_was_made_of(tmp_path):
    before = stopped_at_its_best(tmp_path / "first", keep_best=2)
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    run(tmp_path / "copy", keep_best=2, resume=True)
    assert {
        name: read_saved(tmp_path / "first" / name)["epoch"] for name in names(tmp_path / "first", "best*")
    } == before
    assert read_saved(tmp_path / "copy/best.ckpt")["epoch"] == 3


@pytest.mark.parametrize("lost", ["gone", "cut", "other folder"])
def test_what_is_no_longer_there_is_not_the_best(tmp_path, lost):
    """So another epoch takes its place, and a run that begins with another's checkpoint has a best one of its own."""
    stopped_at_its_best(tmp_path / "first")
    new = tmp_path / ("new" if lost == "other folder" else "first")
    new.mkdir(exist_ok=True)
    if lost == "gone":
        (new / "best.ckpt").unlink()
    elif lost == "cut":
        (new / "best.ckpt").write_bytes((new / "best.ckpt").read_bytes()[:1000])
    else:
        shutil.copy(tmp_path / "first/last.ckpt", new)
    trainer = run(new, resume=True)
    assert read_saved(new / "best.ckpt")["epoch"] == 4
    assert float(trainer.checkpoint_callback.best_model_score) == 2.0


ODD = [None, [], "text", {"best_k_models": None}, {"best_k_models": {"a.ckpt": None}}, {"best_k_models": {5: 1}},
       {"best_k_models": {"a.ckpt": torch.ones(2)}}, {"best_model_path": None}, {"last_model_path": 3}]  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_a_state_of_another_kind_is_forgotten(tmp_path, caplog, odd):
    """And the best epoch of those that follow is kept."""
    stopped_at_its_best(tmp_path)
    state = read_saved(tmp_path / "last.ckpt")
    key = next(key for key in state["callbacks"] if "'monitor': 'val/loss'" in key)
    state["callbacks"][key] = {**state["callbacks"][key], **odd} if isinstance(odd, dict) else odd
    torch.save(state, tmp_path / "last.ckpt")
    trainer = run(tmp_path, resume=True)
    assert "is not what a run writes" in caplog.text
    assert float(trainer.checkpoint_callback.best_model_score) == 2.0 and trainer.global_step == 36


def test_a_folder_is_read_once_for_all_that_keep_checkpoints_there(tmp_path, monkeypatch):
    stopped_at_its_best(tmp_path, keep_best=2)
    found, seen = MovedFolder._whole, []
    monkeypatch.setattr(MovedFolder, "_whole", lambda self, folder: seen.append(folder) or found(self, folder))
    run(tmp_path, keep_best=2, resume=True)
    assert seen == [tmp_path]


@pytest.mark.parametrize("full_at", [0, 1, 2, 3, 5, 6, 7, 11])
def test_a_checkpoint_vouches_for_no_row_that_is_not_written(tmp_path, monkeypatch, full_at):
    """The disk is full at the row of a step, once a checkpoint of that step has taken the room or just before."""
    whole, folder = tmp_path / "whole", tmp_path / "run"
    run(whole, logger=[MetricsCSV(str(whole))], log_every_n_steps=1)
    written = MetricsCSV.log_metrics

    def full(self, metrics, step=None):
        if step == full_at:
            raise OSError(errno.ENOSPC, "full")
        written(self, metrics, step)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsCSV, "log_metrics", full)
        with refuses(OSError, "full"):
            run(folder, logger=[MetricsCSV(str(folder))], log_every_n_steps=1)
    last = folder / "last.ckpt"
    first = resume_step(read_saved(last)) if last.exists() else 0
    run(folder, resume=last.exists(), logger=[MetricsCSV(str(folder), first_step=first)], log_every_n_steps=1)
    assert (folder / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
