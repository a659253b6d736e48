"""The loader under real Lightning: what a resumed run sees is what the uninterrupted one would have seen."""

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from refusals import refuses
from stopping import Stop
from torch.utils.data import DataLoader, DistributedSampler

from datamodules.dataset import FundusDataset
from datamodules.findings import NAMES
from datamodules.loader import EpochBatches, ResumableLoader

NUM_ROWS, BATCH_SIZE = 23, 4  # five batches of four; three rows are dropped in each epoch


def as_it_is(batch):
    return batch


def make_loader(num_rows=NUM_ROWS, num_workers=0, training=True, **options) -> ResumableLoader:
    images = np.zeros((num_rows, 8, 8, 3), dtype=np.uint8)
    labels = torch.full((num_rows, len(NAMES)), -1, dtype=torch.int64)
    dataset = FundusDataset(images, labels, [str(i) for i in range(num_rows)], np.arange(num_rows))
    settings = {"batch_size": BATCH_SIZE, "shuffle": training, "flip": training, "drop_last": training, **options}
    batches = EpochBatches(num_rows, **settings)
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=batches,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=as_it_is,
    )
    return ResumableLoader(loader, batches)


class Recorder(L.LightningModule):
    """Notes (epoch, batch, ids, flips) of every training batch in a list outside itself."""

    def __init__(self, seen: list) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = seen

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch_idx, tuple(batch["id"]), tuple(batch["flip"].tolist())))
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", float(len(batch["id"])), batch_size=len(batch["id"]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    """Saves a checkpoint in the hook of this name, at its n-th call."""

    def __init__(self, hook: str, call: int, path: Path) -> None:
        self.path, self.call, self.count = path, call, 0
        setattr(self, hook, self._save)

    def _save(self, trainer, *args):
        self.count += not trainer.sanity_checking
        if self.count == self.call and not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)


def fit(tmp_path, seen, callbacks=(), ckpt_path=None, num_workers=0, length=None, **flags):
    length = length or {"max_epochs": 4}
    trainer = L.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        **length,
        **flags,
    )
    loaders = make_loader(num_workers=num_workers), make_loader(training=False)
    trainer.fit(Recorder(seen), *loaders, ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    seen = []
    fit(tmp_path_factory.mktemp("whole"), seen)
    return seen


def test_an_epoch_is_shuffled_anew_and_drops_the_rest(uninterrupted):
    assert len(uninterrupted) == 4 * 5
    epochs = [[i for e, _, ids, _ in uninterrupted if e == epoch for i in ids] for epoch in range(4)]
    assert all(len(set(ids)) == 20 for ids in epochs)
    assert len({tuple(ids) for ids in epochs}) == 4
    flips = [flip for *_, batch in uninterrupted for flip in batch]
    assert 20 < sum(flips) < 60


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("steps", [2, 7])
def test_resumed_within_an_epoch_sees_the_same_batches(tmp_path, uninterrupted, steps, num_workers):
    save = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=steps, save_top_k=-1)
    with pytest.raises(SystemExit):
        fit(tmp_path, [], [save, Stop(steps + 2)], num_workers=num_workers)
    seen = []
    fit(tmp_path, seen, ckpt_path=tmp_path / f"step={steps}.ckpt", num_workers=num_workers)
    assert seen == uninterrupted[steps:]


CASES = [
    ("on_train_batch_end", 5, 5),  # the last batch of the first epoch
    ("on_train_epoch_end", 1, 5),
    ("on_train_epoch_end", 3, 15),
    ("on_validation_end", 1, 5),
    ("on_validation_end", 2, 10),
    ("on_train_batch_end", 18, 18),
]


@pytest.mark.parametrize(("hook", "call", "steps"), CASES)
def test_resumed_from_a_checkpoint_of_any_hook(tmp_path, uninterrupted, hook, call, steps):
    path = tmp_path / "saved.ckpt"
    fit(tmp_path, [], [SaveAt(hook, call, path)])
    seen = []
    fit(tmp_path, seen, ckpt_path=path)
    assert [batch[2:] for batch in seen] == [batch[2:] for batch in uninterrupted[steps:]]


@pytest.mark.parametrize("steps", [3, 5, 8, 10])
def test_resumed_with_a_limit_of_steps(tmp_path, uninterrupted, steps):
    save = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=steps, save_top_k=-1)
    fit(tmp_path, [], [save], length={"max_steps": steps, "max_epochs": -1})
    seen = []
    fit(tmp_path, seen, ckpt_path=tmp_path / f"step={steps}.ckpt", length={"max_steps": 17, "max_epochs": -1})
    assert [batch[2:] for batch in seen] == [batch[2:] for batch in uninterrupted[steps:17]]


def test_resumed_between_two_validations_of_an_epoch(tmp_path, uninterrupted):
    path = tmp_path / "saved.ckpt"
    fit(tmp_path, [], [SaveAt("on_validation_end", 3, path)], val_check_interval=2)
    seen = []
    fit(tmp_path, seen, ckpt_path=path, val_check_interval=2)
    assert [batch[2:] for batch in seen] == [batch[2:] for batch in uninterrupted[7:]]


def test_lightning_leaves_the_sampler_alone(tmp_path):
    trainer = L.Trainer(default_root_dir=tmp_path, accelerator="cpu", devices=2, strategy="ddp", logger=False)
    loader = make_loader()
    prepared = trainer._data_connector._prepare_dataloader(loader, shuffle=True, mode=None)
    assert prepared is loader and not isinstance(loader.loader.sampler, DistributedSampler)
    plain = trainer._data_connector._prepare_dataloader(DataLoader(range(9)), shuffle=True, mode=None)
    assert isinstance(plain.sampler, DistributedSampler), "the check above would not notice an injection"


def epoch_rows(num_rows, batch_size, world_size, drop_last, **options):
    """For each rank, the list of its batches' rows."""
    make = lambda rank: EpochBatches(  # noqa: E731
        num_rows, batch_size, rank=rank, world_size=world_size, drop_last=drop_last, **options
    )
    return [[picks.rows for picks in make(rank)] for rank in range(world_size)], len(make(0))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 5), st.booleans(), st.integers(0, 3))
def test_ranks_share_every_row_out(num_rows, batch_size, world_size, drop_last, seed):
    least = batch_size * world_size if drop_last else world_size
    if num_rows < least:
        images = "training images" if drop_last else "images"
        with refuses(ValueError, f"{num_rows} {images}", f"{world_size} process"):
            epoch_rows(num_rows, batch_size, world_size, drop_last)
        return
    ranks, length = epoch_rows(num_rows, batch_size, world_size, drop_last, shuffle=True, seed=seed)
    assert {len(batches) for batches in ranks} == {length}
    rows = np.concatenate([batch for batches in ranks for batch in batches])
    assert len(set(rows.tolist())) == len(rows)
    if drop_last:
        assert {len(batch) for batches in ranks for batch in batches} == {batch_size}
        assert len(rows) == num_rows // (batch_size * world_size) * batch_size * world_size
    else:
        assert sorted(rows.tolist()) == list(range(num_rows))
        assert max(len(batch) for batches in ranks for batch in batches) <= max(batch_size, 2)


def test_a_step_has_the_same_images_for_any_number_of_ranks():
    alone, _ = epoch_rows(50, 8, 1, True, shuffle=True, seed=3)
    four, _ = epoch_rows(50, 2, 4, True, shuffle=True, seed=3)
    for step, rows in enumerate(alone[0]):
        assert sorted(rows.tolist()) == sorted(np.concatenate([rank[step] for rank in four]).tolist())


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        loader = make_loader(seed=seed)
        loader.set_epoch(epoch)
        torch.rand(3), np.random.rand(3)
        return [tuple(batch["id"]) for batch in loader]

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3) and order(1, 2) != order(2, 2)


def test_only_the_first_pass_after_loading_is_shortened():
    whole = [batch["id"] for batch in make_loader()]
    loader = make_loader()
    loader.load_state_dict({**make_loader().state_dict(), "batch": 3})
    assert loader.state_dict()["batch"] == 3 and len(loader) == 5
    assert [batch["id"] for batch in loader] == whole[3:]
    assert [batch["id"] for batch in loader] == whole


def test_a_changed_order_is_refused_within_an_epoch_only():
    loader = make_loader()
    batches = iter(loader)
    next(batches), next(batches)
    state = loader.state_dict()
    assert state["batch"] == 2
    with refuses(ValueError, "training images", 23, 30, "data.epoch_size"):
        make_loader(num_rows=30).load_state_dict(state)
    list(batches)
    other = make_loader(num_rows=30)
    other.load_state_dict(loader.state_dict())
    other.set_epoch(1)
    assert len(list(other)) == 7


def test_one_batch_too_few_says_what_to_set():
    with refuses(ValueError, "batch_size", 32, "20 training images", "data.batch_size"):
        EpochBatches(20, 32, drop_last=True)
