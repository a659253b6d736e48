"""A checkpoint is enough: it rebuilds its generator, and measuring during training changes nothing of the training."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from refusals import refuses
from tiny_runs import AUTOENCODER, DATA, DDPM_TRAIN, DIFFUSION, TRAINER, VAE_TRAIN, column

from callbacks.agreement import LabelAgreement
from experiments.composition import compose_config
from experiments.loading import load_generator
from experiments.session import Run
from experiments.synthesize import generator_of
from experiments.training import monitored
from experiments.typed_text import as_typed
from lightning_modules.checkpoint import CONFIG_KEY, load_state

ALONE = ["trainer.max_epochs=1", "~callbacks.frechet", "~callbacks.agreement", "~callbacks.sample_grid"]
SEEDS = [3, 4, 5]


def labels() -> torch.Tensor:
    rows = torch.full((3, 16), -1)
    rows[1, 0], rows[2, 15] = 4, 1
    return rows


@pytest.mark.parametrize("network", [[], ["model/denoiser=dit_s", "model.denoiser.hidden=16", "model.denoiser.depth=1",
                                          "model.denoiser.heads=2", "model/autoencoder=kl_f8_s",
                                          "model.autoencoder.block_channels=[8,8]"]])  # fmt: skip
def test_a_checkpoint_rebuilds_its_generator(command, here, monkeypatch, network):
    words = [*DDPM_TRAIN, *ALONE]
    if network:  # the sizes of a U-Net mean nothing to it
        words = ["+exp=ddpm_train", *DATA, *network, *AUTOENCODER[1:], *DIFFUSION, *TRAINER, *ALONE]
    assert command(*words, "output_dir=out", "seed=5").code == 0
    path = here / "out/checkpoints/last.ckpt"
    state = torch.load(path, weights_only=True)
    assert state[CONFIG_KEY]["seed"] == 5
    kept = here / "alone.ckpt"
    path.rename(kept)
    for folder in ("out", "cache"):  # nothing but the file
        (here / folder).rename(here / f"away_{folder}")
    torch.manual_seed(1)
    first = load_generator(kept)
    torch.manual_seed(2)
    second = load_generator(kept)
    images = first.sample(labels(), SEEDS)
    assert images.shape == (3, 3, 16, 16) and images.min() >= 0 and images.max() <= 1
    assert torch.equal(images, second.sample(labels(), SEEDS))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, state["state_dict"][name]), name
    assert not first.training


def test_the_generator_has_the_autoencoder_that_it_was_trained_with(command, here):
    """With an autoencoder from elsewhere, of which the configuration does not know the size."""
    assert command(*VAE_TRAIN, "output_dir=vae", "model.autoencoder.block_channels=[12,12]").code == 0
    words = [*DDPM_TRAIN, *ALONE, "output_dir=out", "autoencoder.pretrained=vae/checkpoints/last.ckpt"]
    result = command(*words)
    assert result.code == 0, result.err
    (here / "vae").rename(here / "away")
    module = load_generator("out/checkpoints/last.ckpt")
    trained = torch.load(here / "away/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for name in ("latent_shift", "latent_scale", "network.encoder.conv_in.weight"):
        found = {**dict(module.autoencoder.named_buffers()), **dict(module.autoencoder.named_parameters())}
        assert torch.equal(found[name], trained[name]), name


@pytest.mark.parametrize(
    ("path", "facts"),
    [
        ("vae/checkpoints/last.ckpt", ["ckpt=vae/checkpoints/last.ckpt", "ddpm_train"]),
        ("vae/checkpoints/lost.ckpt", ["'vae/checkpoints/lost.ckpt'", "best.ckpt, last.ckpt"]),
    ],
)
def test_what_is_no_generator(command, path, facts):
    assert command(*VAE_TRAIN, "output_dir=vae", "trainer.max_epochs=1").code == 0
    with refuses((ValueError, FileNotFoundError), *facts):
        load_generator(path)


def test_measuring_does_not_change_the_training(command, here):
    losses = {}
    grid, frechet, agreement = "~callbacks.sample_grid", "~callbacks.frechet", "~callbacks.agreement"
    for name, without in {"all": [], "one": [grid, agreement], "none": [grid, frechet, agreement]}.items():
        words = [word for word in DDPM_TRAIN if not any(word.startswith(gone[1:]) for gone in without)]
        result = command(*words, *without, f"output_dir={name}")
        assert result.code == 0, result.err
        losses[name] = [column(Path(name), "train/loss"), column(Path(name), "val/loss")]
    assert len(losses["all"][0]) == 8 and all(found == losses["none"] for found in losses.values())
    assert len(column(Path("all"), "val/fd_efficientnet_lite0")) >= 2 and (here / "all/samples").exists()
    assert len(column(Path("all"), "val/agreement")) == 2 and (here / "all/agreement.csv").exists()
    assert not column(Path("none"), "val/fd_efficientnet_lite0") and not (here / "none/samples").exists()


def test_a_runs_folder_stands_for_its_best_checkpoint(command, here):
    assert command(*DDPM_TRAIN, *ALONE, "output_dir=out").code == 0
    cfg = compose_config(["+exp=synthesize", "ckpt=out"])
    found = generator_of(Run(cfg))
    assert cfg.ckpt == "out/checkpoints/best.ckpt"
    best = load_state(cfg.ckpt)["state_dict"]
    assert all(torch.equal(tensor, best[name]) for name, tensor in found.state_dict().items())


def test_the_figure_that_chooses_the_best_checkpoint():
    cfg = compose_config(["+exp=ddpm_train", *as_typed(["job.monitor=null"])])
    distance, measured = SimpleNamespace(tag="val/fd_x", every_n_epochs=2), LabelAgreement
    callbacks = [distance, SimpleNamespace(tag=measured.tag, mode=measured.mode, every_n_epochs=3), object()]
    assert monitored(cfg.job.monitor, callbacks) == ("val/fd_x", "min", 2)
    assert monitored("val/agreement", callbacks) == ("val/agreement", "max", 3)
    assert monitored(None, []) == monitored("val/loss", callbacks) == ("val/loss", "min", 1)
    unknown = SimpleNamespace(tag="val/roughness")
    with refuses(ValueError, "job.monitor=val/roughness", "SimpleNamespace", "mode", "'max'", "'min'"):
        monitored(None, [unknown])
    assert monitored(None, [SimpleNamespace(tag="val/roughness", mode="min")]) == ("val/roughness", "min", 1)
    with refuses(ValueError, "job.monitor=val/fid", "val/fd_x, val/agreement"):
        monitored("val/fid", callbacks)
