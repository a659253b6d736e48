"""Objects from a configuration: the only place, with the jobs, where the two meet."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from datamodules.errors import UserError
from datamodules.findings import NAMES
from datamodules.fundus import FundusDataModule
from experiments.clusters import cluster_features
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.checkpoint import load_state
from lightning_modules.checkpoint_shards import REST
from lightning_modules.classifier import Classifier
from lightning_modules.clusters import ClusterConditioning
from lightning_modules.gan import PairGAN
from lightning_modules.latent_diffusion import LatentDiffusion
from lightning_modules.mask_channels import num_channels
from lightning_modules.masks import MaskCode
from lightning_modules.networks.kl import pretrained
from lightning_modules.segmenter import Segmenter
from lightning_modules.weights_file import check_finite

Make = Callable[..., Any]  # a node of the configuration, and arguments besides its own -> what it describes
MAKE: Make = partial(instantiate, _convert_="all")  # of the command line's, which may name any class
MEASURES = ("latent_shift", "latent_scale", "num_measured")  # buffers of an Autoencoder
AUTOENCODER_PARTS = ("model.autoencoder", "autoencoder.module")
DIFFUSION_PARTS = ("model.denoiser", "model.conditioning", "model.objective", "model.diffusion")
GAN_PARTS = ("model.generator", "model.discriminator", "model.conditioning", "model.augmentation", "model.gan")
OPTIONAL_PARTS = (
    "label_maps",
    "guide",
    "masks",
)  # of `model`: null, or absent from older checkpoints, where there are none


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration in plain containers, as checkpoints and records keep it."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def build_callbacks(cfg: DictConfig) -> list[L.Callback]:
    """The callbacks of the configuration, in its order."""
    return [instantiate(callback) for callback in cfg.callbacks.values() if callback is not None]


def build_datamodule(cfg: DictConfig) -> FundusDataModule:
    """The data module of `cfg.data`."""
    return instantiate(cfg.data.module)


def seed_all(seed: int | None) -> None:
    """Let random numbers begin by the configuration's `seed`; for null Lightning would take one of the environment.

    Raises:
        ValueError: it is no number that seeds.
    """
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed!r}, and must be a whole number of 0 to {2**32 - 1}.")
    L.seed_everything(seed, workers=True, verbose=False)


def build_autoencoder(
    cfg: DictConfig, with_judges: bool = True, start: str | None = None, make: Make = MAKE
) -> Autoencoder:
    """The autoencoder of `cfg.model.autoencoder` with the settings of `cfg.autoencoder`.

    Args:
        with_judges: False leaves the perceptual network and the discriminator out: it is not going to be trained.
        start: where trained weights are, with their own sizes, as `autoencoder.pretrained`; None draws them at random.
        make: what builds from a node; a Rebuilder where the configuration is a checkpoint's.
    """
    seed_all(cfg.get("seed"))
    network = make(cfg.model.autoencoder)
    if start:
        network = pretrained(start, network=network)
    judges = {} if with_judges else {"perceptual": None, "discriminator": None}
    module = make(cfg.autoencoder.module, network=network, **judges)
    module.config = plain(cfg)
    return module


def pretrained_autoencoder(cfg: DictConfig, source: str, make: Make = MAKE) -> Autoencoder:
    """An autoencoder with trained weights: a checkpoint of ours, with its latents measured, or a diffusers one.

    Raises:
        FileNotFoundError, ValueError: it cannot be had; says which, from where, and where to put it.
    """
    module = build_autoencoder(cfg, with_judges=False, start=source, make=make)
    if holds_checkpoint(source):
        state = load_state(source)["state_dict"]
        prefix = "autoencoder." if any(name.startswith("autoencoder.network.") for name in state) else ""
        _take_measures(module, {name: state.get(prefix + name) for name in MEASURES}, source)
    return module


def _take_measures(module: Autoencoder, found: Mapping[str, Tensor | None], source: str) -> None:
    """Give an autoencoder the figures of its latents that a checkpoint holds, if they can be such."""
    ours = {name: getattr(module, name) for name in MEASURES}
    if any(tensor is None or tensor.shape != ours[name].shape for name, tensor in found.items()):
        raise UserError(
            f"{source}: it does not hold mean and deviation of its {module.latent_channels} latent channels "
            f"({', '.join(MEASURES)}). Remedy: a checkpoint of vae_train or ddpm_train."
        )
    check_finite(found, source)
    for name, tensor in ours.items():
        tensor.copy_(found[name])
    check_scale(module, source)


def check_scale(module: Autoencoder, source: str) -> None:
    """See that latents can be divided by their deviations."""
    if not (module.latent_scale > 0).all():
        raise UserError(
            f"{source}: the deviation of a latent channel (latent_scale) is not above 0. Remedy: another checkpoint."
        )


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
        raise UserError(
            f"data.image_size={image_size} cannot be divided by the autoencoder's downsampling of {downsampling}. "
            f"Nearest sizes: {lower} and {lower + downsampling}; or another model/autoencoder."
        )
    return image_size // downsampling


def build_diffusion(cfg: DictConfig, autoencoder: Autoencoder, make: Make = MAKE) -> LatentDiffusion:
    """The latent diffusion model of `cfg.model` on this autoencoder, weights at random; `make` as above."""
    latent_size = check_image_size(cfg.data.image_size, autoencoder.downsampling)
    seed_all(cfg.get("seed"))  # the same start whether or not an autoencoder was trained
    channels, seen, parts = autoencoder.latent_channels, 0, {}
    if cfg.model.get("masks") is not None:
        masks = parts["masks"] = make(cfg.model.masks, cell=autoencoder.downsampling)
        channels, seen = (channels + masks.channels, 0) if isinstance(masks, MaskCode) else (channels, masks.channels)
    if cfg.model.get("label_maps") is not None:
        parts["label_maps"] = make(cfg.model.label_maps, shape=(channels, latent_size, latent_size))
        seen += channels
    sizes = {"latent_channels": channels, "latent_size": latent_size, "cond_dim": cfg.model.conditioning.dim}
    sizes |= {"map_channels": seen} if seen else {}
    try:
        denoiser = make(cfg.model.denoiser, **sizes)
    except Exception as error:  # Hydra raises one of its own
        if "unexpected keyword argument 'map_channels'" not in str(error):
            raise
        raise UserError(
            f"{cfg.model.denoiser._target_} takes no map_channels, by which label maps and masks reach it. Remedy: "
            "model.label_maps=null, and model/masks=none or joint; or take them in its constructor "
            "(docs/adding-a-backbone.md)."
        ) from error
    conditioning = make(cfg.model.conditioning)  # after the denoiser, by which the same seed draws the same weights
    if cfg.model.get("guide") is not None:
        parts["guide"] = make(cfg.model.guide, latent_channels=channels, num_levels=list(conditioning.levels))
    if cfg.model.get("clusters") is not None:
        num_features = cluster_features(cfg.model.get("masks") is not None)
        parts["clusters"] = ClusterConditioning(cfg.model.clusters, conditioning.dim, num_features)
    module = make(
        cfg.model.diffusion,
        autoencoder=autoencoder,
        denoiser=denoiser,
        conditioning=conditioning,
        objective=make(cfg.model.objective),
        **parts,
    )
    module.config = plain(cfg)
    return module


def build_gan(cfg: DictConfig, make: Make = MAKE) -> PairGAN:
    """The GAN of `cfg.model`, whose `mask_levels` are named, weights at random; `make` as above."""
    seed_all(cfg.get("seed"))
    levels = list(cfg.model.mask_levels)
    sizes = {"image_size": cfg.data.image_size, "num_channels": num_channels(len(levels)),
             "cond_dim": cfg.model.conditioning.dim}  # fmt: skip
    module = make(
        cfg.model.gan,
        generator=make(cfg.model.generator, **sizes),
        discriminator=make(cfg.model.discriminator, **sizes),
        conditioning=make(cfg.model.conditioning),
        augmentation=make(cfg.model.augmentation),
        mask_levels=levels,
    )
    module.config = plain(cfg)
    return module


def mask_levels(data: DictConfig) -> list[str]:
    """Names of the levels of the data's masks, background first.

    Raises:
        UserError: data without masks.
    """
    source = getattr(instantiate(data.module), "source", None)
    levels = list(getattr(source, "mask_levels", ()))
    if not levels:
        raise UserError(
            f"the data have no masks ({getattr(source, 'name', 'no photographs')}), and this run learns masks. Remedy: "
            "data=kvasir_seg, drive or another set with masks (docs/datasets.md), or data=phantom_masks; or, of a "
            "generator, model/masks=none."
        )
    return levels


def columns_of(findings: Iterable[str]) -> dict[str, int]:
    """Column of each of these findings among the labels."""
    return {name: NAMES.index(name) for name in findings}


def build_classifier(cfg: DictConfig, make: Make = MAKE) -> Classifier:
    """The classifier of `cfg.model`, weights at random by `cfg.seed`; `make` as `build_autoencoder` has it."""
    seed_all(cfg.get("seed"))
    backbone: nn.Module = make(cfg.model.backbone)
    module = make(cfg.model.classifier, backbone=backbone, columns=columns_of(cfg.model.findings))
    module.config = plain(cfg)
    return module


def build_segmenter(cfg: DictConfig, make: Make = MAKE) -> Segmenter:
    """The segmenter of `cfg.model`, weights at random by `cfg.seed`; `make` as `build_autoencoder` has it."""
    seed_all(cfg.get("seed"))
    network: nn.Module = make(cfg.model.network, num_levels=len(cfg.model.mask_levels))
    module = make(cfg.model.segmenter, network=network)
    module.config = plain(cfg)
    return module
