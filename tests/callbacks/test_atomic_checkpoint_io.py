"""A checkpoint is written beside its place and moved there once it is on the disk."""

import errno
import os
import signal
import threading
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from refusals import refuses
from tiny_fit import fit, read_saved

from callbacks.atomic_checkpoint_io import AsyncAtomicCheckpointIO, AtomicCheckpointIO
from callbacks.shutdown import GracefulShutdown, Interrupted


def test_trainer_writes_and_resumes_through_it(tmp_path):
    path = tmp_path / "new folder" / "a.ckpt"
    trainer, module = fit(tmp_path, plugins=[AtomicCheckpointIO(read_saved)])
    trainer.save_checkpoint(path)
    assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]
    saved = torch.load(path, weights_only=True)
    assert torch.equal(saved["state_dict"]["scale"], module.scale)
    resumed, _ = fit(tmp_path, plugins=[AtomicCheckpointIO(read_saved)], ckpt_path=path, max_epochs=3)
    assert resumed.global_step == 18


def test_it_is_on_the_disk_before_it_is_moved_within_its_folder(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda number: done.append("fsync"))
    replace = os.replace

    def moved(source, target):
        assert torch.load(source, weights_only=True) == {"a": 1}
        done.append((Path(source).parent, Path(target)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", moved)
    AtomicCheckpointIO(read_saved).save_checkpoint({"a": 1}, str(tmp_path / "a.ckpt"))
    assert done == ["fsync", (tmp_path, tmp_path / "a.ckpt")]


def test_what_fails_leaves_the_former_one_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO(read_saved).save_checkpoint({"a": 1}, path)

    def full(checkpoint, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with refuses(OSError, os.strerror(errno.ENOSPC), path):
        AtomicCheckpointIO(read_saved).save_checkpoint({"a": 2}, path)
    assert list(tmp_path.iterdir()) == [path]
    assert torch.load(path, weights_only=True) == {"a": 1}


def test_local_files_have_no_storage_options(tmp_path):
    with refuses(TypeError, "AtomicCheckpointIO", "storage_options"):
        AtomicCheckpointIO(read_saved).save_checkpoint({}, tmp_path / "a.ckpt", storage_options={})


@pytest.fixture
def gate(monkeypatch):
    """Holds up what is being written until it is set."""
    gate, save = threading.Event(), torch.save

    def slowly(checkpoint, file):
        assert gate.wait(20)
        save(checkpoint, file)

    monkeypatch.setattr(torch, "save", slowly)
    yield gate
    gate.set()


def test_meanwhile_what_was_is_written_though_all_of_it_changes(tmp_path, gate):
    """Tensors, and the plain containers about them."""
    path, files = tmp_path / "a.ckpt", AsyncAtomicCheckpointIO(read_saved)
    weight = torch.arange(6.0).view(2, 3).t().requires_grad_()
    state = OrderedDict(weight=weight.detach(), same=weight.detach())
    state._metadata = {"": {"version": 2}}
    checkpoint = {"state_dict": state, "loops": {"progress": [1, {"ready": 2}]}}
    files.save_checkpoint(checkpoint, path)
    with torch.no_grad():
        weight.fill_(float("nan"))
    checkpoint["loops"]["progress"][1]["ready"] = 3
    state["other"] = torch.ones(1)
    assert not path.exists()
    gate.set()
    files.teardown()
    saved = read_saved(path)
    assert saved["loops"] == {"progress": [1, {"ready": 2}]} and list(saved["state_dict"]) == ["weight", "same"]
    assert saved["state_dict"]._metadata == state._metadata
    for tensor in saved["state_dict"].values():
        assert torch.equal(tensor, torch.arange(6.0).view(2, 3).t()) and tensor.stride() == weight.stride()


def test_meanwhile_the_former_one_stays_until_the_next_is_whole(tmp_path, gate):
    path, files = tmp_path / "a.ckpt", AsyncAtomicCheckpointIO(read_saved)
    gate.set()
    files.save_checkpoint({"a": 1}, path)
    files.wait()
    gate.clear()
    files.save_checkpoint({"a": 2}, path)
    assert read_saved(path) == {"a": 1}
    gate.set()
    assert files.load_checkpoint(path) == {"a": 2}  # waits


def test_meanwhile_one_is_written_after_the_other(tmp_path, gate):
    files = AsyncAtomicCheckpointIO(read_saved)
    files.save_checkpoint({"a": 1}, tmp_path / "a.ckpt")
    threading.Timer(0.2, gate.set).start()
    files.save_checkpoint({"a": 2}, tmp_path / "b.ckpt")
    assert read_saved(tmp_path / "a.ckpt") == {"a": 1}
    files.remove_checkpoint(tmp_path / "b.ckpt")
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def test_what_fails_meanwhile_is_raised_by_the_next(tmp_path, monkeypatch):
    def full(checkpoint, file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        for then in ("wait", "teardown"):
            files = AsyncAtomicCheckpointIO(read_saved)
            files.save_checkpoint({"a": 1}, tmp_path / "a.ckpt")
            with refuses(OSError, os.strerror(errno.ENOSPC), "a.ckpt"):
                getattr(files, then)()
        with refuses(OSError, os.strerror(errno.ENOSPC), "1.ckpt"):
            fit(tmp_path, [Saving(tmp_path)], plugins=[AsyncAtomicCheckpointIO(read_saved)])
    assert not list(tmp_path.glob("*.ckpt"))
    files.save_checkpoint({"a": 2}, tmp_path / "a.ckpt")  # torn down: at once
    assert read_saved(tmp_path / "a.ckpt") == {"a": 2}


class Saving(Callback):
    """Saves after each step, under a name of its own."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, *args):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_a_run_saves_the_same_meanwhile(tmp_path, precision):
    for name, kind in (("at once", AtomicCheckpointIO), ("meanwhile", AsyncAtomicCheckpointIO)):
        fit(tmp_path, [Saving(tmp_path / name)], plugins=[kind(read_saved)], precision=precision)
    assert len(list((tmp_path / "meanwhile").iterdir())) == 12
    for path in (tmp_path / "at once").iterdir():
        ours, theirs = read_saved(path), read_saved(tmp_path / "meanwhile" / path.name)
        assert same(ours, theirs), path.name


def same(one, other):
    """Whether two nested containers hold the same, bit by bit, in the same types."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_leaving_on_a_signal_waits_until_it_is_on_the_disk(tmp_path, monkeypatch, gate):
    class Stop(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        def on_exception(self, trainer, pl_module, exception):
            assert read_saved(tmp_path / "checkpoints/last.ckpt")["global_step"] == 3

    threading.Timer(0.5, gate.set).start()
    with pytest.raises(Interrupted):
        fit(tmp_path, [Stop(), GracefulShutdown(str(tmp_path))], plugins=[AsyncAtomicCheckpointIO(read_saved)])
