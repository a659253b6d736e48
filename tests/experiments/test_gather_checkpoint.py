"""`+exp=gather_checkpoint`: one file holds what the shares hold."""

import pytest
import torch
from checkpoints import generator, saved
from refusals import refuses

from experiments.composition import compose_config
from experiments.gather_checkpoint import gather, gather_checkpoint
from experiments.loading import load_generator
from experiments.session import Run
from lightning_modules.checkpoint import load_state
from lightning_modules.checkpoint_shards import ShardedState, close_folder, new_folder

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture
def run(tmp_path):
    """A run's folder with a checkpoint in shares."""
    weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    weight[0, 0] = torch.nan  # as it is of a run that broke
    state = {"state_dict": {"network.w": weight, "ema.w": 2 * weight, "n": torch.tensor(4)}, "global_step": 7,
             "best": float("nan"),
             "optimizer_states": [{"state": {0: {"exp_avg": weight - 1}}, "param_groups": [{"lr": 0.5}]}]}  # fmt: skip
    path = tmp_path / "run/checkpoints/best.ckpt"
    folder = new_folder(path, 7)
    folder.mkdir(parents=True)
    shares = ShardedState(state)
    close_folder(shares.rest, [shares.write(folder)], folder, path)
    return tmp_path / "run"


def test_gathered_and_in_shares_paint_the_same(tmp_path):
    state, path = load_state(saved(generator(), tmp_path / "file.ckpt")), tmp_path / "shares.ckpt"
    folder = new_folder(path, 7)
    folder.mkdir(parents=True)
    shares = ShardedState(state)
    close_folder(shares.rest, [shares.write(folder)], folder, path)
    gather(path, tmp_path / "gathered.ckpt")
    models = [load_generator(tmp_path / f"{name}.ckpt") for name in ("file", "shares", "gathered")]
    images = [model.sample(model.network.conditioning.unknown(2), [3, 4]) for model in models]
    assert torch.equal(images[0], images[1]) and torch.equal(images[0], images[2]) and images[0].std() > 0.01


def words(run, *more):
    return compose_config(["+exp=gather_checkpoint", f"ckpt={run}", f"output_dir={run.parent / 'out'}", *more])


def test_one_file_holds_what_the_shares_hold(run):
    metrics = gather_checkpoint(Run(words(run)))
    path = run.parent / "out/best.ckpt"
    assert path.is_file() and not path.is_symlink() and metrics["gather/step"] == 7
    one, shares = torch.load(path, weights_only=True), load_state(run / "checkpoints/best.ckpt")
    assert one.keys() == shares.keys()
    for name, tensor in shares["state_dict"].items():
        torch.testing.assert_close(one["state_dict"][name], tensor, rtol=0, atol=0, equal_nan=True)
    moment = one["optimizer_states"][0]["state"][0]["exp_avg"]
    torch.testing.assert_close(moment, one["state_dict"]["network.w"] - 1, rtol=0, atol=0, equal_nan=True)
    assert one["optimizer_states"][0]["param_groups"] == [{"lr": 0.5}]
    with refuses(ValueError, path, "already", "job.filename"):
        gather_checkpoint(Run(words(run)))


def test_killed_before_it_noted_its_end_it_is_seen_to_be_done(run):
    gather_checkpoint(Run(words(run)))
    path = run.parent / "out/best.ckpt"
    written = path.stat()
    assert gather_checkpoint(Run(words(run, "resume=auto")))["gather/step"] == 7
    assert path.stat().st_mtime_ns == written.st_mtime_ns and path.stat().st_ino == written.st_ino
    torch.save(load_state(path) | {"global_step": 8}, path.with_name("other"))  # what was read is mapped still
    path.with_name("other").replace(path)
    with refuses(ValueError, path, "another checkpoint", "job.filename"):
        gather_checkpoint(Run(words(run, "resume=auto")))


def test_without_the_optimisers_state(run):
    gather_checkpoint(Run(words(run / "checkpoints/best.ckpt", "job.optimizer=false", f"output_dir={run}/out")))
    one = torch.load(run / "out/best.ckpt", weights_only=True)
    assert "optimizer_states" not in one and set(one["state_dict"]) == {"network.w", "ema.w", "n"}


def test_what_cannot_be_gathered(run, tmp_path):
    with refuses(ValueError, "gather_checkpoint", "ckpt="):
        gather_checkpoint(Run(words(run, "ckpt=null")))
    with refuses(ValueError, "job.filename=../a.ckpt", "output_dir"):
        gather_checkpoint(Run(words(run, "job.filename=../a.ckpt")))
    with refuses(FileNotFoundError, f"'{run / 'checkpoints/absent.ckpt'}'", "best.ckpt"):
        gather_checkpoint(Run(words(run / "checkpoints/absent.ckpt")))
    assert not list(tmp_path.glob("out/*.ckpt"))


def test_a_disk_that_forgets_is_seen(run, monkeypatch):
    save = torch.save

    def forgetful(state, path):
        save({**state, "state_dict": {name: tensor * 0 for name, tensor in state["state_dict"].items()}}, path)

    monkeypatch.setattr(torch, "save", forgetful)
    with refuses(OSError, run / ".one.", "written"):
        gather(run / "checkpoints/best.ckpt", run / "one.ckpt")
    assert not (run / "one.ckpt").exists()
