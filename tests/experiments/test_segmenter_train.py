"""The segmenter by its command: what is measured, what a checkpoint gives back, how it goes on, what is refused."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tiny_runs import DATA, TRAINER, column

from callbacks.metrics.segmentation import compare_masks
from datamodules import phantom
from experiments.loading import load_segmenter
from lightning_modules.segmenter import Segmenter

SMALL = [
    "+exp=segmenter_train", *DATA, *TRAINER, "data.image_size=32", "model/init=random",
    "model.network.encoder=tu-resnet10t", "+model.network.options.decoder_channels=[8,8,8,8,8]",
    "model.segmenter.warmup_steps=1", "job.num_replicates=20",
]  # fmt: skip
STEPS_PER_EPOCH = 4


def test_what_is_left_is_what_the_checkpoint_finds(command, here):
    """Every figure of the table and of the record again, from the checkpoint alone and the phantoms themselves."""
    assert command(*SMALL, "job.thin=[cup]", "output_dir=out").code == 0
    table = pq.read_table("out/masks.parquet").to_pylist()
    evaluation = json.loads(Path("out/evaluation.json").read_text())
    module = load_segmenter("out")
    assert [row["split"] for row in table].count("test") == 2 * evaluation["test"]["disc"]["num_images"]
    state = torch.load("out/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert float(module.threshold) == float(state["threshold"])
    thresholds = [float(value) for _, value in column(here / "out", "val/threshold")]
    assert float(module.threshold) in np.float32(thresholds)
    for row in table:
        shown = phantom.render(0, int(row["id"].rpartition("-")[2]), 32)
        levels = module.segment(torch.from_numpy(shown.image).permute(2, 0, 1)[None] / 255)[0].numpy()
        drawn = {"disc": shown.masks["disc"] & ~shown.masks["cup"] & 1, "cup": shown.masks["cup"]}[row["level"]] > 0
        wanted = compare_masks(levels == {"disc": 1, "cup": 2}[row["level"]], drawn, row["level"] == "cup")
        assert {name: row[name] for name in wanted} == pytest.approx(wanted)
        assert row["drawn_area"] == drawn.sum() and (row["cldice"] is None) == (row["level"] == "disc")
    for split in ("val", "test"):
        mean = np.mean([row["dice"] for row in table if row["split"] == split])
        assert evaluation[split]["macro"]["dice"]["value"] == pytest.approx(mean)
    metrics = json.loads(Path("out/record.json").read_text())["metrics"]
    assert metrics["test/dice"] == pytest.approx(evaluation["test"]["macro"]["dice"]["value"])
    assert metrics["val/dice"] == pytest.approx(max(float(v) for _, v in column(here / "out", "val/dice")))


@pytest.mark.slow
def test_killed_in_mid_epoch_it_ends_as_the_one_that_never_stopped(command, here, monkeypatch):
    words = [*SMALL, "augment=camera", "data.field_of_view=true", "model.segmenter.ema_decay=0.9",
             "model.segmenter.focal_weight=0.5", "checkpoint_every_n_steps=3", "trainer.max_epochs=3"]  # fmt: skip
    assert command(*words, "output_dir=whole").code == 0
    step = Segmenter.training_step

    def die(self, batch, batch_idx):
        if self.global_step == STEPS_PER_EPOCH + 3:
            raise SystemError("the machine went away")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "training_step", die)
        assert command(*words, "output_dir=stopped").code == 1
    assert torch.load("stopped/checkpoints/last.ckpt", weights_only=True)["global_step"] == STEPS_PER_EPOCH + 2
    assert command(*words, "output_dir=stopped", "resume=auto").code == 0
    for name in ("train/loss", "val/loss", "val/dice", "val/iou", "val/threshold", "lr-AdamW"):
        assert column(here / "stopped", name) == column(here / "whole", name), name
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = (torch.load(f"{run}/checkpoints/{name}", weights_only=True) for run in ("stopped", "whole"))
        assert ours["state_dict"].keys() == theirs["state_dict"].keys()
        for key, tensor in ours["state_dict"].items():
            assert torch.equal(tensor, theirs["state_dict"][key]), key
    ours, theirs = (pq.read_table(f"{run}/masks.parquet") for run in ("stopped", "whole"))
    assert ours.equals(theirs)


def test_data_without_masks_or_with_other_levels_are_refused_before_anything_is_read(command, here):
    plain = command(*SMALL, "data=phantom", "output_dir=out")
    assert plain.code == 1 and "phantom" in plain.err and "data=phantom_masks" in plain.err
    named = command(*SMALL, "model.mask_levels=[background,vessel]", "output_dir=out")
    assert named.code == 1 and "model.mask_levels" in named.err and "'cup'" in named.err
    hub = command(*SMALL, "model/init=imagenet", "output_dir=out")
    assert hub.code == 1 and "model/init=imagenet" in hub.err and "tu-resnet10t" in hub.err
    assert "model.init.path" in hub.err and not list(here.glob("cache/*"))


def test_it_starts_from_another_segmenter_of_the_same_levels_alone(command, here):
    words = [*SMALL, "trainer.max_epochs=1"]
    assert command(*words, "output_dir=out").code == 0
    path = "out/checkpoints/best.ckpt"
    again = command(*words, f"ckpt={path}", "output_dir=again")
    assert again.code == 0 and f"weights of the segmenter: {path}" in again.out
    refused = command(*words, "data.masks=[vessel,fovea]", f"ckpt={path}", "output_dir=other")
    assert refused.code == 1 and path in refused.err and "'vessel'" in refused.err and "'cup'" in refused.err


def test_masks_that_show_nothing_are_counted_and_all_of_them_refused(command, here):
    """Half of 40 phantoms shows no cotton wool; none shows what no disease paints at this prevalence."""
    some = command(*SMALL, "data.masks=[hard_exudate]", "trainer.max_epochs=1", "output_dir=some")
    assert some.code == 0, some.err
    shown = [phantom.render(0, index, 32).masks["hard_exudate"].any() for index in range(40)]
    table = pq.read_table("some/masks.parquet").to_pylist()
    empty = {row["id"]: row for row in table if row["drawn_area"] == 0}
    assert empty and all(not shown[int(name.rpartition("-")[2])] for name in empty)
    assert "masks of train have no foreground" in some.out
    absent = next(
        name for name in phantom.MASK_NAMES if not any(phantom.render(0, i, 32).masks[name].any() for i in range(40))
    )
    none = command(*SMALL, f"data.masks=[{absent}]", "output_dir=none")
    assert none.code == 1 and absent in none.err
