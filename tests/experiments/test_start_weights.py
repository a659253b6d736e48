"""Weights that a run starts from: `ckpt`, `autoencoder.pretrained`, and autoencoders of a class of one's own."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import open_dict
from tiny_runs import AUTOENCODER, DDPM_TRAIN, VAE_TRAIN

from experiments.autoencoders import recipe_fingerprint
from experiments.composition import compose_config
from experiments.loading import load_generator
from experiments.session import Run

pytestmark = pytest.mark.slow
ALONE = ["trainer.max_epochs=1", "~callbacks.frechet", "~callbacks.agreement", "~callbacks.sample_grid"]
STILL = ["model.diffusion.learning_rate=0.0", "model.diffusion.warmup_steps=1"]

MY_AUTOENCODER = '''
from types import SimpleNamespace

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution


class Mine(torch.nn.Module):
    """A third party's autoencoder: one convolution each way."""

    def __init__(self, latent_channels=3):
        super().__init__()
        self.config = SimpleNamespace(latent_channels=latent_channels, in_channels=3, block_out_channels=(8, 8))
        self.down = torch.nn.Conv2d(3, 2 * latent_channels, 2, stride=2)
        self.up = torch.nn.ConvTranspose2d(latent_channels, 3, 2, stride=2)

    def encode(self, x):
        return SimpleNamespace(latent_dist=DiagonalGaussianDistribution(self.down(x)))

    def decode(self, z):
        return SimpleNamespace(sample=self.up(z))
'''

MY_CALLBACK = """
import lightning


class Mine(lightning.Callback):
    def on_train_end(self, trainer, pl_module):
        with open("heard.txt", "w") as file:
            file.write(type(pl_module).__name__)
"""


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def test_training_starts_from_a_checkpoint(command, here):
    """On other images, at rate 0: the averaged weights, the autoencoder and its scale are those of the checkpoint."""
    assert command(*DDPM_TRAIN, *ALONE, "output_dir=first").code == 0
    start = "first/checkpoints/last.ckpt"
    result = command(*DDPM_TRAIN, *ALONE, *STILL, "output_dir=second", "seed=3", f"ckpt={start}")
    assert result.code == 0, result.err
    assert f"start from {start}" in result.out
    first, second = (weights(here / run / "checkpoints/last.ckpt") for run in ("first", "second"))
    same = [name for name in first if name.startswith("autoencoder.")]
    assert {"autoencoder.latent_shift", "autoencoder.latent_scale"} < set(same)
    for name in same:
        assert torch.equal(first[name], second[name]), name
    averaged = [
        name for name, tensor in first.items() if name.startswith("ema.network.") and tensor.is_floating_point()
    ]
    assert averaged
    for name in averaged:
        assert torch.allclose(first[name], second[name], atol=1e-6), name
        assert torch.allclose(first[name], second[name.removeprefix("ema.")], atol=1e-6), name
    assert any(not torch.equal(first[name], first[name.removeprefix("ema.")]) for name in averaged)
    assert load_generator(here / "second/checkpoints/last.ckpt").autoencoder.measured


def test_a_start_of_another_architecture_is_refused_early(command, here):
    assert command(*DDPM_TRAIN, *ALONE, "output_dir=first").code == 0
    start = "ckpt=first/checkpoints/last.ckpt"
    wider = command(*DDPM_TRAIN, *ALONE, start, "model.denoiser.channels=[16,32]", "output_dir=second")
    assert wider.code == 1 and "of another architecture" in wider.err and "model.denoiser.channels" in wider.err
    assert "data, by the index" not in wider.out  # before anything heavy
    both = command(*DDPM_TRAIN, *ALONE, start, "autoencoder.pretrained=first/checkpoints/last.ckpt")
    assert both.code == 1 and "Give one of the two" in both.err
    lost = command(*DDPM_TRAIN, *ALONE, "ckpt=first/checkpoints/lost.ckpt")
    assert lost.code == 1 and "ckpt=first/checkpoints/lost.ckpt: no such checkpoint" in lost.err
    assert "best.ckpt, last.ckpt" in lost.err and "data, by the index" not in lost.out


def test_the_autoencoder_starts_from_a_checkpoint(command, here):
    assert command(*VAE_TRAIN, "output_dir=first", "model.autoencoder.block_channels=[12,12]").code == 0
    rate = ["autoencoder.module.learning_rate=0.0", "autoencoder.module.weight_decay=0.0", "trainer.max_epochs=1"]
    result = command(*VAE_TRAIN, *rate, "output_dir=second", "ckpt=first/checkpoints/last.ckpt")
    assert result.code == 0, result.err
    first, second = (weights(here / run / "checkpoints/last.ckpt") for run in ("first", "second"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items() if name.startswith("network."))


def test_a_pretrained_autoencoder_is_seen_in_the_preview(command, here):
    """Its own downsampling and size count, not those of model/autoencoder."""
    small = ["model.autoencoder.block_channels=[8,8,8]", "output_dir=vae"]
    assert command(*VAE_TRAIN, *small).code == 0
    words = [*DDPM_TRAIN, *ALONE, "autoencoder.pretrained=vae/checkpoints/last.ckpt", "output_dir=out"]
    result = command(*words)
    assert result.code == 0, result.err
    assert load_generator(here / "out/checkpoints/last.ckpt").latent_shape == (4, 2, 2)
    refused = command(*words[:-1], "data.image_size=12", "output_dir=other")
    assert refused.code == 1 and "downsampling of 8" in refused.err and "data, by the index" not in refused.out


def test_an_autoencoder_class_of_ones_own_trains_and_is_found_again(command, here, monkeypatch):
    (here / "third_party_ae.py").write_text(MY_AUTOENCODER)
    monkeypatch.syspath_prepend(here)
    (here / "conf/model/autoencoder").mkdir(parents=True)
    (here / "conf/model/autoencoder/mine.yaml").write_text(
        "# Mine.\n_target_: third_party_ae.Mine\nlatent_channels: 3\n"
    )
    words = [word for word in DDPM_TRAIN if word not in AUTOENCODER[:2]]
    words += [*ALONE, "model/autoencoder=mine"]
    options = ["--config-dir", str(here / "conf")]
    first = command(*words, "output_dir=first", *options)
    assert first.code == 0, first.err
    again = command(*words, "output_dir=second", *options)
    assert again.code == 0 and "training one first" in first.out and "training one first" not in again.out
    generator = load_generator(here / "second/checkpoints/last.ckpt", trusted=["third_party_ae"])
    assert generator.latent_shape[0] == 3
    trained = weights(here / "first/checkpoints/last.ckpt")
    assert torch.equal(generator.autoencoder.network.down.weight, trained["autoencoder.network.down.weight"])
    monkeypatch.delitem(sys.modules, "third_party_ae")


def test_a_callback_of_ones_own_hears_the_autoencoder(command, here, monkeypatch):
    (here / "third_party_callback.py").write_text(MY_CALLBACK)
    monkeypatch.syspath_prepend(here)
    result = command(*VAE_TRAIN, "+callbacks.mine._target_=third_party_callback.Mine", "output_dir=out")
    assert result.code == 0, result.err
    assert (here / "heard.txt").read_text() == "Autoencoder"
    monkeypatch.delitem(sys.modules, "third_party_callback")


def test_an_extractor_option_brings_its_own_class(command, here):
    (here / "conf/extractor").mkdir(parents=True)
    (here / "conf/extractor/mine.yaml").write_text("# Mine.\n_target_: nowhere.to_be_found\n")
    words = [word for word in DDPM_TRAIN if "extractor" not in word]
    found = command(*words, f"hydra.searchpath=[file://{here}/conf]", "extractor@callbacks.frechet.extractor=mine")
    assert found.code == 2 and "cannot import 'nowhere'" in found.err


def test_a_resumed_run_keeps_the_autoencoder_that_it_began_with(command, here):
    """Though the file that it came from holds another by now."""
    assert command(*VAE_TRAIN, "output_dir=vae").code == 0
    words = [*DDPM_TRAIN, *ALONE[1:], "autoencoder.pretrained=vae/checkpoints/last.ckpt", "output_dir=out"]
    assert command(*words, "trainer.max_epochs=1").code == 0
    first = weights(here / "out/checkpoints/last.ckpt")
    (here / "vae").rename(here / "vae_before")
    assert command(*VAE_TRAIN, "output_dir=vae", "seed=7").code == 0
    latents = sorted((here / "cache/latents").iterdir())
    resumed = command(*words, "trainer.max_epochs=2", "resume=auto")
    assert resumed.code == 0, resumed.err
    last = weights(here / "out/checkpoints/last.ckpt")
    assert all(torch.equal(first[name], last[name]) for name in first if name.startswith("autoencoder."))
    assert sorted((here / "cache/latents").iterdir()) == latents, "its latents are those of the start"


def test_an_autoencoder_of_a_shorter_training_is_not_taken_for_this_one(command):
    trial = command(*DDPM_TRAIN, *ALONE, "data.epoch_size=16", "model.diffusion.warmup_steps=1", "output_dir=trial")
    assert trial.code == 0, trial.err
    longer = command(*DDPM_TRAIN, *ALONE, "data.epoch_size=24", "model.diffusion.warmup_steps=1", "output_dir=longer")
    assert longer.code == 0 and "training one first" in longer.out
    again = command(*DDPM_TRAIN, *ALONE, "data.epoch_size=24", "model.diffusion.warmup_steps=1", "output_dir=again",
                    "trainer.max_epochs=2", "trainer.log_every_n_steps=2")  # fmt: skip
    assert again.code == 0 and "training one first" not in again.out


def test_words_that_would_have_no_effect_are_refused(command):
    gan = ["autoencoder=gan", "autoencoder.module.discriminator.channels=16", "autoencoder.module.disc_start=5000"]
    few = ["autoencoder.module.discriminator.num_downsamplings=1", "output_dir=gan"]
    for words, said in {
        (*VAE_TRAIN, *gan, *few): "the discriminator would never join",
        (*VAE_TRAIN, "autoencoder.pretrained=x.ckpt"): "vae_train starts from weights with ckpt=<path>",
        (*VAE_TRAIN, "+trainer.strategy=ddp"): "trainer.strategy is not given there: use strategy=<option>",
        (*VAE_TRAIN, "trainer.precision=bf16-true"): "trainer.precision=bf16-true must be one of: 32, ",
        (*DDPM_TRAIN, "+data.grid.conditions.odd.dr_grade=7"): "'dr_grade': use 0..4",
    }.items():
        result = command(*words)
        assert result.code == 1 and said in result.err, (words[-1], result.err)
        assert "Epoch" not in result.out, words


def test_the_autoencoder_takes_its_batch_size_and_the_trainers_limits(command, here):
    result = command(*VAE_TRAIN, "autoencoder.batch_size=4", "trainer.max_steps=3", "output_dir=out")
    assert result.code == 0, result.err
    assert "effective batch 4 " in result.out
    assert torch.load(here / "out/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3


def test_an_autoencoder_from_before_a_setting_was_added_is_found_again():
    cfg, data = compose_config(["+exp=ddpm_train", "output_dir=x"]), SimpleNamespace(training_images="phantoms")
    before = compose_config(["+exp=ddpm_train", "output_dir=x"])
    with open_dict(before):
        del before.autoencoder.module["equivariance"]
    other = compose_config(["+exp=ddpm_train", "output_dir=x", "autoencoder.module.equivariance=0.5"])
    runs = [Run(one) for one in (cfg, before, other)]
    for run in runs:
        run.trial = SimpleNamespace(world_size=1)
    same, later, changed = (recipe_fingerprint(run, data) for run in runs)
    assert same == later != changed
