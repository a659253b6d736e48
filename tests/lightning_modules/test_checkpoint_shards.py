"""Checkpoints in shares: whole or not there, read back as they were, refused when a part is missing."""

import json
import os
import resource

import pytest
import torch
from refusals import refuses
from safetensors.torch import save_file

from lightning_modules import checkpoint_shards
from lightning_modules.checkpoint import load_progress, load_state, run_of
from lightning_modules.checkpoint_shards import (
    FOLDER,
    REST,
    TENSOR,
    ShardedState,
    close_folder,
    new_folder,
    prune,
    read_rest,
)

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def make(step):
    g = torch.Generator().manual_seed(step)
    weight = torch.randn(3, 2, 4, 4, generator=g).to(memory_format=torch.channels_last)
    return {
        "state_dict": {"network.weight": weight, "again": weight, "num_updates": torch.tensor(step)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(float(step)), "exp_avg": weight.half()}},
                              "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0]}]}],
        "global_step": step, "callbacks": {"best": torch.tensor(0.5), "path": "a"}, "loops": {"fit": [1, None, True]},
    }  # fmt: skip


def save(checkpoint, path):
    folder = new_folder(path, checkpoint["global_step"])
    folder.mkdir(parents=True)
    shares = ShardedState(checkpoint)
    close_folder(shares.rest, [shares.write(folder)], folder, path)
    return folder


def assert_same(a, b):
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert type(a) is type(b) and len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def test_what_is_saved_is_read_back_and_what_it_replaces_is_deleted(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save(make(1), path)  # of a strategy that writes one file
    for step in (2, 3):
        folder = save(make(step), path)
        assert path.is_symlink() and path.resolve() == folder.resolve()
        assert_same(load_state(path), make(step))
        assert list((tmp_path / FOLDER).iterdir()) == [folder]
    progress = load_progress(path)
    assert progress["global_step"] == 3 and progress["loops"] == {"fit": [1, None, True]}


def test_a_crash_before_the_end_leaves_the_checkpoint_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    save(make(1), path)

    def crash(*args):
        raise KeyboardInterrupt

    for owner, name in ((os, "replace"), (torch, "save"), (checkpoint_shards, "_sync")):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, crash)
            save(make(2), path)
        assert load_state(path)["global_step"] == 1
    ShardedState(make(3)).write(new_folder(path, 3))  # killed meanwhile
    prune(tmp_path)
    assert len(list((tmp_path / FOLDER).iterdir())) == 1 and load_state(path)["global_step"] == 1
    save(make(4), path)
    assert load_state(path)["global_step"] == 4


def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    folder = save(make(1), path)
    [file] = folder.glob("*.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with refuses(ValueError, path, file.name, len(content) - 1, len(content)):
        load_state(path)
    file.unlink()
    with refuses(ValueError, path, file.name, "missing"):
        load_progress(path)
    (folder / REST).unlink()
    with refuses(ValueError, path, f"without {REST}"):
        load_state(path)


def test_the_folder_of_a_run_is_told_from_a_broken_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with refuses(ValueError, tmp_path / "checkpoints/best.ckpt"):
        load_state(tmp_path)


def test_the_run_of_a_checkpoint_is_found_whether_it_is_a_file_or_a_link_to_its_shards(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    torch.save(make(1), run / "checkpoints" / "last.ckpt")
    folder = save(make(2), run / "checkpoints" / "best.ckpt")
    (tmp_path / "mine.ckpt").symlink_to(run / "checkpoints" / "best.ckpt")
    (tmp_path / "latest").symlink_to(run)
    for path in (run / "checkpoints" / "last.ckpt", run / "checkpoints" / "best.ckpt", folder, tmp_path / "mine.ckpt"):
        assert run_of(path) == run
    assert run_of(tmp_path / "latest" / "checkpoints" / "best.ckpt") == tmp_path / "latest"
    torch.save(make(1), tmp_path / "moved.ckpt")
    assert run_of(tmp_path / "moved.ckpt") is None


def test_a_file_that_one_process_does_not_see_is_missed_when_it_is_gone(tmp_path):
    path = tmp_path / "last.ckpt"
    folder = new_folder(path, 1)
    folder.mkdir(parents=True)
    shares = ShardedState(make(1))
    sizes = shares.write(folder)
    [(name, size)] = sizes.items()
    close_folder(shares.rest, [{}, {name: size - 8}, sizes], folder, path)
    assert_same(load_state(path), make(1))
    (folder / name).unlink()
    with refuses(ValueError, path, name, "missing"):
        load_state(path)


def test_parts_of_a_tensor_that_are_in_no_file_are_missed(tmp_path):
    """Files of three processes of which the second's was never listed."""
    folder = tmp_path / "shares"
    folder.mkdir()
    for start in (0, 2):
        about = {"DCP_SHARDING_INFO": json.dumps({"state_dict/w": {"saved_offsets": [start]}}), "format": "pt"}
        save_file({"state_dict/w": torch.ones(1)}, folder / f"{start}.safetensors", about)
    torch.save({"rest": {"state_dict": {"w": {TENSOR: "state_dict/w"}}}, "sizes": {}}, folder / REST)
    with refuses(ValueError, folder, "state_dict/w"):
        load_state(folder)


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_anew(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    save(make(1), path)
    seen = []

    def swapped(path, folder):
        seen.append(folder)
        rest = read_rest(path, folder)
        if len(seen) == 1:
            save(make(2), path)
        return rest

    monkeypatch.setattr(checkpoint_shards, "read_rest", swapped)
    assert_same(load_state(path), make(2))
    assert len(seen) == 2 and not seen[0].exists()


def test_nothing_but_tensors_and_plain_containers_is_unpickled(tmp_path):
    path = tmp_path / "last.ckpt"
    folder = save(make(1), path)
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return ran.write_text, ("",)

    torch.save({"rest": Evil(), "sizes": {}}, folder / REST)
    with refuses(ValueError, f"{folder / REST}'", "getattr"):
        load_state(path)
    assert not ran.exists()


@pytest.mark.parametrize(
    "name",
    [3, None, ("a",), "", "..", "/etc/hostname", "../x.safetensors", "a/x.safetensors", "x" * 300, "checkpoint.pt",
     "x\0.safetensors", f"{'x' * 300}.safetensors"],
)  # fmt: skip
def test_a_file_of_shares_has_the_name_of_one(tmp_path, name):
    torch.save({"rest": {"state_dict": {}}, "sizes": {name: 3}}, tmp_path / REST)
    with refuses(ValueError, tmp_path, REST, repr(name)[:100], ".safetensors"):
        load_progress(tmp_path)


@pytest.mark.parametrize("what", ["shares", "rest"])
def test_what_the_disk_refuses_is_raised_as_what_it_was_and_the_checkpoint_before_stays(tmp_path, what):
    """And not as torch.distributed's CheckpointException, which is no Exception, or without the system's words."""
    path = tmp_path / "last.ckpt"
    before = save(make(1), path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoint = make(2) | ({"loops": {"text": "x" * 50_000}} if what == "rest" else {})
    checkpoint["state_dict"]["large"] = torch.zeros(20_000 if what == "shares" else 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(Exception) as caught:
            save(checkpoint, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    chain = f"{caught.value} {caught.value.__context__}"
    assert "File too large" in chain and "ranks:" not in str(caught.value)
    assert path.resolve() == before.resolve()
    assert load_state(path)["global_step"] == 1
