"""A resumed training goes on with the same images, or is refused where they are others."""

import pytest
import torch
from fundus_training import fit
from lightning.pytorch.callbacks import ModelCheckpoint
from refusals import refuses


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_resumed_run_sees_the_same_pixels(make, tmp_path, num_workers):
    whole = fit(make(num_workers=num_workers), tmp_path, max_epochs=3)
    save = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    fit(make(), tmp_path, [save], max_epochs=2)
    resumed = fit(make(num_workers=num_workers), tmp_path, max_epochs=3, ckpt_path=tmp_path / "step=4.ckpt")
    assert len(resumed.batches) == len(whole.batches) - 4 > 0
    for batch, expected in zip(resumed.batches, whole.batches[4:], strict=True):
        assert batch["id"] == expected["id"]
        assert torch.equal(batch["image"], expected["image"]) and torch.equal(batch["labels"], expected["labels"])


def test_a_loader_that_was_made_before_the_checkpoint_was_read_goes_on_too(make):
    """Strategies that share out weights restore them, and all else, once the optimiser and so the loader are made."""
    whole = make()
    whole.setup("fit")
    batches = list(whole.train_dataloader())
    state = {"train_loader": {**whole.state_dict()["train_loader"], "batch": 2}}
    resumed = make()
    resumed.setup("fit")
    loader = resumed.train_dataloader()
    resumed.load_state_dict(state)
    rest = list(loader)
    assert len(rest) == len(batches) - 2 > 0
    assert [batch["id"] for batch in rest] == [batch["id"] for batch in batches[2:]]
    resumed.teardown("fit")
    assert len(list(resumed.train_dataloader())) == len(batches)  # of a training that begins anew


def other_pixels(photographs, save_photograph):
    save_photograph(photographs / "P00_L.png", width=120, height=100, radius=46, seed=77)


def other_labels(photographs, save_photograph):
    table = photographs / "labels.csv"
    table.write_text(table.read_text().replace("P00_L.png,P00,1", "P00_L.png,P00,"))


CHANGES = [(other_pixels, {}), (other_labels, {}), (None, {"flip": False})]


@pytest.mark.parametrize(("change", "options"), CHANGES)
def test_resuming_on_other_training_images_is_refused_within_an_epoch_only(
    make, tmp_path, photographs, save_photograph, change, options
):
    save = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    num_batches = len(fit(make(), tmp_path, [save], max_epochs=1).batches)
    other = make(ready=False, **options)  # writes the table, which is read later
    if change is not None:
        change(photographs, save_photograph)
    with refuses(ValueError, "checkpoint", "data.image_size", "job.repeat_threshold", "data.augment"):
        fit(other, tmp_path, max_epochs=2, limit_val_batches=0, ckpt_path=tmp_path / "step=1.ckpt")
    at_end = tmp_path / f"step={num_batches}.ckpt"
    resumed = fit(other, tmp_path, max_epochs=2, limit_val_batches=0, ckpt_path=at_end)
    assert len(resumed.batches) == num_batches
