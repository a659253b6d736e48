"""A checkpoint is written beside its place and moved there once it is on the disk."""

import errno
import os
from pathlib import Path

import pytest
import torch
from tiny_fit import fit, read_saved

from callbacks.whole_files import WholeFiles


def test_trainer_writes_and_resumes_through_it(tmp_path):
    path = tmp_path / "new folder" / "a.ckpt"
    trainer, module = fit(tmp_path, plugins=[WholeFiles(read_saved)])
    trainer.save_checkpoint(path)
    assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]
    saved = torch.load(path, weights_only=True)
    assert torch.equal(saved["state_dict"]["scale"], module.scale)
    resumed, _ = fit(tmp_path, plugins=[WholeFiles(read_saved)], ckpt_path=path, max_epochs=3)
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
    WholeFiles(read_saved).save_checkpoint({"a": 1}, str(tmp_path / "a.ckpt"))
    assert done == ["fsync", (tmp_path, tmp_path / "a.ckpt")]


def test_what_fails_leaves_the_former_one_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    WholeFiles(read_saved).save_checkpoint({"a": 1}, path)

    def full(checkpoint, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        WholeFiles(read_saved).save_checkpoint({"a": 2}, path)
    assert list(tmp_path.iterdir()) == [path]
    assert torch.load(path, weights_only=True) == {"a": 1}


def test_local_files_have_no_storage_options(tmp_path):
    with pytest.raises(TypeError, match="no storage_options"):
        WholeFiles(read_saved).save_checkpoint({}, tmp_path / "a.ckpt", storage_options={})
