"""Jobs besides the default generator, under strategies in shares: clipped, accumulated, stopped and gone on, as one."""

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from tiny_runs import AUTOENCODER, DATA, TRAINER, column, one_of_each_kind, run_process

from lightning_modules.checkpoint import load_state

pytestmark = pytest.mark.slow
# Twelve images a step, in two batches of six; epochs of four steps. Clipping bites: gradients are longer than 0.01.
SIZES = ["data.num_images=60", "data.epoch_size=48", "trainer.accumulate_grad_batches=2", "seed=3"]
DATA = [word for word in DATA if not word.startswith(("data.batch_size", "data.epoch_size", "data.num_images"))]
# Eleven and seven channels: three processes divide few of the tensors.
VAE = ["+exp=vae_train", *DATA, *AUTOENCODER[3:], *SIZES, "model.autoencoder.block_channels=[7,11]",
       "model.autoencoder.norm_groups=1", "autoencoder.module.gradient_clip=0.01",
       "autoencoder.module.learning_rate=1.0e-4", "autoencoder.module.lr_schedule=constant"]  # fmt: skip
GAN = ["autoencoder=gan", "autoencoder.module.discriminator.channels=16", "autoencoder.module.disc_start=2",
       "autoencoder.module.discriminator.num_downsamplings=1", "trainer.accumulate_grad_batches=1"]  # fmt: skip
# No batch normalisation, which differs by the number of processes.
CLASSIFIER = ["+exp=classifier_train", *DATA, *SIZES, "model/backbone=convnext_atto", "data.image_size=32",
              "model/init=random", "model.classifier.warmup_steps=1", "model.classifier.lr_schedule=constant",
              "trainer.gradient_clip_val=0.01"]  # fmt: skip

JOBS = {"vae": VAE, "gan": [*VAE, *GAN], "classifier": CLASSIFIER}


def run(folder, name, words, epochs, *more):
    words = [*words, *TRAINER[:1], "trainer.log_every_n_steps=1", f"trainer.max_epochs={epochs}", f"output_dir={name}"]
    result = run_process(*words, *more, cwd=folder)
    assert result.code == 0, result.err
    return result


def by(strategy, num):
    return [f"strategy={strategy}", f"trainer.devices={num}", f"data.batch_size={6 // num}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("jobs")


@pytest.mark.parametrize(
    "job, strategy, num",
    one_of_each_kind(
        [("vae", "fsdp2", 3), ("vae", "deepspeed_zero2", 3), ("vae", "deepspeed_zero3", 3), ("gan", "fsdp2", 2),
         ("classifier", "fsdp2", 2), ("classifier", "deepspeed_zero3", 2)],
        ("vae", "deepspeed_zero3", 3),
    ),
)  # fmt: skip
def test_stopped_after_an_epoch_and_gone_on_equals_one_process(folder, job, strategy, num):
    name, words = f"{job}-{strategy}", JOBS[job]
    if not (folder / job).exists():  # on one process, two epochs at once
        run(folder, job, words, 2, *by("single", 1))
    run(folder, name, words, 1, *by(strategy, num))
    run(folder, name, words, 2, *by(strategy, num), "resume=auto")
    columns = ("train/loss", "val/loss")
    for key in columns:
        first, second = ([float(value) for _, value in column(folder / at, key)] for at in (job, name))
        assert first and second == pytest.approx(first, abs=1e-4), key
    saved = [load_state(folder / at / "checkpoints/last.ckpt") for at in (job, name)]
    assert saved[0]["global_step"] == saved[1]["global_step"] > 0
    for key, tensor in saved[0]["state_dict"].items():
        torch.testing.assert_close(saved[1]["state_dict"][key], tensor, atol=1e-4, rtol=1e-3, msg=key)
    moments = [state["optimizer_states"][0]["state"] for state in saved]
    first, second = (torch.cat([values["exp_avg"].flatten() for values in state.values()]) for state in moments)
    assert float((first - second).norm()) <= 1e-2 * float(first.norm())
    if job == "classifier":  # each image once, whatever the shares were filled up with
        tables = [pq.read_table(folder / at / "predictions.parquet").to_pandas().set_index("id") for at in (job, name)]
        assert tables[0].index.is_unique and set(tables[0].index) == set(tables[1].index)
        pd.testing.assert_frame_equal(tables[1].loc[tables[0].index], tables[0], atol=1e-3, rtol=0)
