"""config.yaml and record.json at the start, the end and after a failure; the hparams line; the time left."""

import json
import subprocess

import pytest
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from refusals import refuses
from tiny_fit import TinyData, fit

from callbacks.progress import TimeLeftProgressBar, num_batches
from callbacks.run_record import HParams, RunRecord, changed_data, code_revision

CONFIG = {"seed": 0, "data": {"image_size": 16, "fractions": [0.8, 0.2]}, "name": "Fréchet"}


def record_of(folder):
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))


class At(Callback):
    """Does something at the first training batch."""

    def __init__(self, action):
        self.action = action

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 1:
            self.action()


def test_finished_run(tmp_path):
    during = []
    fit(tmp_path, [RunRecord(str(tmp_path), CONFIG, {"model": "abc"}), At(lambda: during.append(record_of(tmp_path)))])
    assert during[0]["status"] == "running"
    assert yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8")) == CONFIG
    record = record_of(tmp_path)
    assert record["status"] == "finished"
    assert record["seed"] == 0
    assert record["fingerprints"] == {"model": "abc", "data": "tiny data", "split": "tiny split"}
    assert record["device"] == "cpu"
    assert record["num_processes"] == 1
    assert {"val/loss", "train/loss"} <= record["metrics"].keys()
    assert {"python", "torch", "lightning", "diffusers"} <= record["versions"].keys()
    [session] = record["sessions"]
    assert (session["first_step"], session["last_step"], session["status"]) == (0, 12, "finished")
    assert record["wall_seconds"] == session["wall_seconds"] > 0
    assert 50 < record["peak_memory_mib"]["process"] < 100_000


@pytest.mark.parametrize(("error", "status"), [(ValueError("broken"), "failed"), (SystemExit(143), "interrupted")])
def test_failed_and_interrupted_runs(tmp_path, error, status):
    def stop():
        raise error

    with pytest.raises(type(error)):
        fit(tmp_path, [RunRecord(str(tmp_path), CONFIG), At(stop)])
    record = record_of(tmp_path)
    assert record["status"] == record["sessions"][0]["status"] == status
    assert record.get("error") == ("ValueError: broken" if status == "failed" else None)


def test_what_fails_alone_asks_nothing_of_the_other_processes(tmp_path, monkeypatch):
    """After an exception nobody may be there to answer."""

    class Fails(Callback):
        failed = False

        def on_validation_epoch_end(self, trainer, pl_module):
            with monkeypatch.context() as patch:
                patch.setattr(type(trainer._accelerator_connector), "is_distributed", True)
                pl_module.log("val/figure", 1.0, sync_dist=True)
            if trainer.current_epoch == 1:
                self.failed = True
                raise ValueError("here alone")

    def reduce(strategy, tensor, *args, **kwargs):
        asked.append(fails.failed)
        return tensor

    fails, asked = Fails(), []
    monkeypatch.setattr(SingleDeviceStrategy, "reduce", reduce)
    logger = TensorBoardLogger(str(tmp_path), name="", version="", default_hp_metric=False)
    callbacks = [RunRecord(str(tmp_path), CONFIG), HParams({"lr": 0.1}, ["val/loss"]), fails]
    with refuses(ValueError, "here alone"):
        fit(tmp_path, callbacks, logger=logger)
    assert asked and not any(asked)
    record = record_of(tmp_path)
    assert record["status"] == "failed" and record["error"] == "ValueError: here alone"
    assert {"val/loss", "val/figure", "train/loss"} <= record["metrics"].keys()
    assert list(tmp_path.glob("events*"))


def test_resumed_run_keeps_its_earlier_sessions(tmp_path):
    first = RunRecord(str(tmp_path), CONFIG)
    first.start()  # and never finished: killed
    second = RunRecord(str(tmp_path), CONFIG)
    second.start(step=6)
    second.finish("finished", {"val/loss": float("nan")})
    record = record_of(tmp_path)
    assert [session["status"] for session in record["sessions"]] == ["killed", "finished"]
    assert record["metrics"] == {"val/loss": None}


def test_config_must_be_plain(tmp_path):
    with refuses(ValueError, "config", repr(tmp_path)):
        RunRecord(str(tmp_path), {"path": tmp_path})


def test_code_revision_is_that_of_the_checkout(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert code_revision(tmp_path) is None
    revision = code_revision()
    assert revision is None or len(revision["commit"]) == 40


def test_hparams_line_up_under_the_same_tags(tmp_path):
    logger = TensorBoardLogger(str(tmp_path), name="", version="", default_hp_metric=False)
    callback = HParams({"backbone": "convnext", "lr": 0.1, "sizes": [1, 2]}, ["val/loss", "val/fd_absent"])
    trainer, _ = fit(tmp_path, [callback], logger=logger)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Scalars("hp/val_loss")[-1].value == pytest.approx(float(trainer.callback_metrics["val/loss"]))
    assert "hp/val_fd_absent" in events.Tags()["scalars"]
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_time_left_counts_down_to_nought(tmp_path):
    class Watch(Callback):
        left = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.left.append(trainer.progress_bar_callback.seconds_left(trainer))

    trainer, module = fit(tmp_path, [bar := TimeLeftProgressBar(), Watch()], enable_progress_bar=True)
    assert Watch.left[0] > 0
    assert Watch.left[-1] == 0
    assert num_batches(trainer) == 12
    assert bar.get_metrics(trainer, module)["left"] == "0:00:00"
    trainer, _ = fit(tmp_path, max_epochs=-1, max_steps=4, accumulate_grad_batches=2)
    assert num_batches(trainer) == 8


def test_a_run_that_goes_on_within_an_epoch_says_in_which(tmp_path):
    class Watch(Callback):
        shown = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            bar = trainer.progress_bar_callback.train_progress_bar
            self.shown.append((bar.desc, bar.total))

    fit(tmp_path, [ModelCheckpoint(tmp_path, "middle", every_n_train_steps=10)], enable_checkpointing=True)
    bars = [TimeLeftProgressBar(), Watch()]
    fit(tmp_path, bars, ckpt_path=tmp_path / "middle.ckpt", enable_progress_bar=True)
    assert Watch.shown == [("Epoch 1: ", 6), ("Epoch 1: ", 6)]


class OtherData(TinyData):
    fingerprint = "other data"


def test_every_fingerprint_that_a_run_has_seen_is_kept(tmp_path):
    RunRecord(str(tmp_path), CONFIG, {"data": "other data"}).start()
    fit(tmp_path, [RunRecord(str(tmp_path), CONFIG)], max_epochs=1, limit_train_batches=1)
    sessions = record_of(tmp_path)["sessions"]
    assert [session["fingerprints"]["data"] for session in sessions] == ["other data", "tiny data"]


def test_data_that_changed_since_the_last_session_are_told(tmp_path):
    assert changed_data(tmp_path, OtherData()) == {}, "of no run"
    old = {"fingerprints": {"data": "tiny data", "split": "tiny split"}, "sessions": [{"status": "finished"}]}
    (tmp_path / "record.json").write_text(json.dumps(old))  # of an earlier version
    assert changed_data(tmp_path, OtherData()) == {"data": ("tiny data", "other data")}
    assert changed_data(tmp_path, TinyData()) == {}
    record = RunRecord(str(tmp_path), CONFIG, {"data": "other data"})
    record.start()
    assert changed_data(tmp_path, OtherData()) == {}
