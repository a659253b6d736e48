"""Autoencoder networks: diffusers' AutoencoderKL, built from flat sizes or loaded from where its weights lie."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from lightning_modules.checkpoint import load_state
from lightning_modules.checkpoint_shards import REST
from lightning_modules.networks.folded import FoldedAutoencoderKL, ShortcutAutoencoderKL

NETWORK_KEY = "synfundus_autoencoder_network"  # of a checkpoint: what AutoencoderKL was built with
WEIGHT_SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors")


def _class_of(config: Mapping[str, Any]) -> type[AutoencoderKL]:
    """The class of a network by what it was built with."""
    if config.get("linear_shortcut"):
        return ShortcutAutoencoderKL
    return AutoencoderKL if config.get("in_channels", 3) == 3 else FoldedAutoencoderKL


def _build(linear_shortcut: bool = False, **config: object) -> AutoencoderKL:
    return _class_of({**config, "linear_shortcut": linear_shortcut})(**config)


def kl_autoencoder(
    latent_channels: int = 4,
    block_channels: Sequence[int] = (64, 128, 128),
    layers_per_block: int = 1,
    norm_groups: int = 32,
    mid_attention: bool = True,
    patch_size: int = 1,
    linear_shortcut: bool = False,
) -> AutoencoderKL:
    """Autoencoder with a normal posterior of `latent_channels`.

    It downsamples by patch_size * 2 ** (len(block_channels) - 1); a `patch_size` above 1 folds pixels into channels
    first, which makes it several times faster. `linear_shortcut` adds a linear code of each cell, which makes it learn
    several times faster (ShortcutAutoencoderKL).

    Source: Rombach et al. 2022 (arXiv 2112.10752), appendix G. Images in [-1, 1].

    Raises:
        ValueError: a width that `norm_groups` does not divide.
    """
    for level, width in enumerate(block_channels):
        if width % norm_groups:
            raise ValueError(f"block_channels[{level}]={width} is not divisible by norm_groups={norm_groups}.")
    if patch_size < 1:
        raise ValueError(f"patch_size={patch_size} must be at least 1; 1 folds nothing.")
    levels = len(block_channels)
    return _build(
        linear_shortcut,
        in_channels=3 * patch_size**2,
        out_channels=3 * patch_size**2,
        latent_channels=latent_channels,
        block_out_channels=tuple(block_channels),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=layers_per_block,
        norm_num_groups=norm_groups,
        mid_block_add_attention=mid_attention,
    )


def pretrained(source: str, subfolder: str | None = None, network: torch.nn.Module | None = None) -> torch.nn.Module:
    """Autoencoder network with trained weights.

    Args:
        source: a checkpoint of an autoencoder trained here (.ckpt), a folder in diffusers' layout (config.json and
            diffusion_pytorch_model.safetensors), or the name of a repository on the Hugging Face hub ("owner/name").
        subfolder: folder inside `source` that holds the autoencoder, e.g. "vae".
        network: takes the weights of a checkpoint whose network is no AutoencoderKL and so cannot be rebuilt from it.

    Raises:
        FileNotFoundError: nothing at that path, or the hub cannot be reached; says where to put the files.
        ValueError: a file that is no checkpoint, one that holds no autoencoder, or one of another architecture than
            `network`.
    """
    path = Path(source).expanduser()
    if path.is_file() or (path / REST).is_file():
        return _from_checkpoint(path, network)
    names_a_path = source.startswith(("/", ".", "~")) or source.count("/") != 1 or path.suffix in WEIGHT_SUFFIXES
    if names_a_path and not path.is_dir():
        raise FileNotFoundError(f"autoencoder source={source!r}: no such file or folder ({path.absolute()}).")
    inside = f"{subfolder}/" if subfolder else ""
    place = str(path) if path.is_dir() else source
    try:
        network = _class_of(AutoencoderKL.load_config(place, subfolder=subfolder))
        return network.from_pretrained(place, subfolder=subfolder)
    except OSError as error:
        where = path.absolute() if path.is_dir() else f"https://huggingface.co/{source}"
        raise FileNotFoundError(
            f"pretrained autoencoder source={source!r}: cannot load {inside}config.json and "
            f"{inside}diffusion_pytorch_model.safetensors from {where}. On a machine without a network, download both "
            "files elsewhere, put them into one folder, and give that folder as `source` (without `subfolder`)."
        ) from error


def network_config(network: torch.nn.Module) -> dict | None:
    """Plain containers to rebuild an AutoencoderKL with; None for another class."""
    if not isinstance(network, AutoencoderKL):
        return None
    plain = {key: value for key, value in network.config.items() if not key.startswith("_")}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


def _from_checkpoint(path: Path, network: torch.nn.Module | None) -> torch.nn.Module:
    try:
        checkpoint = load_state(path)
    except ValueError as error:
        raise ValueError(f"{error} For a diffusers autoencoder give its folder.") from error
    if NETWORK_KEY not in checkpoint:
        raise ValueError(
            f"{path}: not a checkpoint of an autoencoder trained here (no {NETWORK_KEY!r}; it holds "
            f"{', '.join(sorted(checkpoint)[:8])}). For a diffusers autoencoder give its folder."
        )
    config = checkpoint[NETWORK_KEY]
    if config is not None:
        network = _build(**config)
    elif network is None:
        raise ValueError(f"{path}: its autoencoder is of a class that it cannot be rebuilt from; give the network.")
    nested = any(name.startswith("autoencoder.") for name in checkpoint["state_dict"])
    prefix = "autoencoder.network." if nested else "network."
    state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: its autoencoder is of another architecture than model/autoencoder: {error}"
        ) from error
    return network
