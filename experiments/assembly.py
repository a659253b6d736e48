"""Objects from a configuration: the only place, with the jobs, where the two meet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules.fundus import FundusDataModule
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.checkpoint import (
    CONFIG_KEY,
    TRAINED_ON_KEY,
    check_targets,
    load_state,
    load_weights,
)
from lightning_modules.checkpoint_shards import REST
from lightning_modules.latent_diffusion import LatentDiffusion
from lightning_modules.networks.kl import pretrained


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration in plain containers, as checkpoints and records keep it."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def build_callbacks(cfg: DictConfig) -> list[L.Callback]:
    """The callbacks of the configuration, in its order."""
    return [instantiate(callback) for callback in cfg.callbacks.values() if callback is not None]


def build_datamodule(cfg: DictConfig) -> FundusDataModule:
    """The data module of `cfg.data`."""
    return instantiate(cfg.data.module)


def build_autoencoder(cfg: DictConfig, with_judges: bool = True, start: str | None = None) -> Autoencoder:
    """The autoencoder of `cfg.model.autoencoder` with the settings of `cfg.autoencoder`.

    Args:
        with_judges: False leaves the perceptual network and the discriminator out: it is not going to be trained.
        start: where trained weights are, with their own sizes, as `autoencoder.pretrained`; None draws them at random.
    """
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    network = instantiate(cfg.model.autoencoder)
    if start:
        network = pretrained(start, network=network)
    judges = {} if with_judges else {"perceptual": None, "discriminator": None}
    module = instantiate(cfg.autoencoder.module, network=network, **judges)
    module.config = plain(cfg)
    return module


def pretrained_autoencoder(cfg: DictConfig, source: str) -> Autoencoder:
    """An autoencoder with trained weights: a checkpoint of ours, with its latents measured, or a diffusers one.

    Raises:
        FileNotFoundError, ValueError: it cannot be had; says which, from where, and where to put it.
    """
    module = build_autoencoder(cfg, with_judges=False, start=source)
    if holds_checkpoint(source):
        state = load_state(source)["state_dict"]
        prefix = "autoencoder." if any(name.startswith("autoencoder.network.") for name in state) else ""
        for name in ("latent_shift", "latent_scale", "num_measured"):
            getattr(module, name).copy_(state[prefix + name])
    return module


def holds_checkpoint(source: str) -> bool:
    """Whether this is a checkpoint of ours, in one file or in shares; else it is a folder or a name of diffusers'."""
    path = Path(source).expanduser()
    return path.is_file() or (path / REST).is_file()


def check_image_size(image_size: int, downsampling: int) -> int:
    """Latent cells along a side.

    Raises:
        ValueError: `downsampling` does not divide the size; names the nearest sizes that it divides.
    """
    if image_size % downsampling:
        lower = max(image_size // downsampling, 1) * downsampling
        raise ValueError(
            f"data.image_size={image_size} cannot be divided by the autoencoder's downsampling of {downsampling}. "
            f"Nearest sizes: {lower} and {lower + downsampling}; or another model/autoencoder."
        )
    return image_size // downsampling


def build_diffusion(cfg: DictConfig, autoencoder: Autoencoder) -> LatentDiffusion:
    """The latent diffusion model of `cfg.model` on this autoencoder, weights at random."""
    latent_size = check_image_size(cfg.data.image_size, autoencoder.downsampling)
    L.seed_everything(cfg.seed, workers=True, verbose=False)  # the same start whether or not an autoencoder was trained
    denoiser = instantiate(
        cfg.model.denoiser,
        latent_channels=autoencoder.latent_channels,
        latent_size=latent_size,
        cond_dim=cfg.model.conditioning.dim,
    )
    conditioning = instantiate(cfg.model.conditioning)
    objective = instantiate(cfg.model.objective)
    module = instantiate(
        cfg.model.diffusion,
        autoencoder=autoencoder,
        denoiser=denoiser,
        conditioning=conditioning,
        objective=objective,
        _convert_="all",
    )
    module.config = plain(cfg)
    return module


def load_generator(checkpoint: str | Path, trusted: Sequence[str] = ()) -> LatentDiffusion:
    """Rebuild a latent diffusion model from its checkpoint alone.

    Args:
        trusted: modules besides ours whose classes the checkpoint's configuration may name and so call.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: a checkpoint without a configuration, of another kind, or that names a class of elsewhere.
    """
    state = load_state(checkpoint)
    if CONFIG_KEY not in state or "denoiser" not in state[CONFIG_KEY].get("model", {}):
        raise ValueError(f"ckpt={checkpoint}: it was not written by ddpm_train; give the checkpoint of a generator.")
    check_targets(state[CONFIG_KEY], trusted, str(checkpoint))
    cfg = OmegaConf.create(state[CONFIG_KEY])
    module = build_diffusion(cfg, build_autoencoder(cfg, with_judges=False, start=str(checkpoint)))
    load_weights(module, state)
    module.trained_on = state.get(TRAINED_ON_KEY)
    return module.eval()


def start_from(module: LatentDiffusion, checkpoint: str | Path) -> None:
    """Take the averaged weights of another run's network, autoencoder included, as the start of training.

    Raises:
        FileNotFoundError, ValueError: no such checkpoint, or one of another architecture.
    """
    load_weights(module, load_state(checkpoint))
    module.network.load_state_dict(module.ema.network.state_dict())
