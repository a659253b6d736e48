"""Autoencoder networks: diffusers' AutoencoderKL, built from flat sizes or loaded from where its weights lie."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from datamodules.errors import UserError
from lightning_modules.checkpoint import check_architecture, load_state
from lightning_modules.checkpoint_shards import REST
from lightning_modules.networks.folded import FoldedAutoencoderKL, ShortcutAutoencoderKL
from lightning_modules.weights_file import check_finite, not_of_the_file

NETWORK_KEY = "synfundus_autoencoder_network"  # of a checkpoint: what AutoencoderKL was built with
CLASSES = ("AutoencoderKL", "FoldedAutoencoderKL", "ShortcutAutoencoderKL")  # of a folder in diffusers' layout
FILES = ("config.json", "diffusion_pytorch_model.safetensors")
SHOWN = 4
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
            raise UserError(f"block_channels[{level}]={width} is not divisible by norm_groups={norm_groups}.")
    if patch_size < 1:
        raise UserError(f"patch_size={patch_size} must be at least 1; 1 folds nothing.")
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
            `network`; a folder of another class, or whose weights do not fill the network; weights that are NaN.
    """
    path = Path(source).expanduser()
    if path.is_file() or (path / REST).is_file():
        return _from_checkpoint(path, network)
    names_a_path = source.startswith(("/", ".", "~")) or source.count("/") != 1 or path.suffix in WEIGHT_SUFFIXES
    if names_a_path and not path.is_dir():
        raise FileNotFoundError(f"autoencoder source={source!r}: no such file or folder ({path.absolute()}).")
    inside = f"{subfolder}/" if subfolder else ""
    place = str(path) if path.is_dir() else source
    where = path.absolute() if path.is_dir() else f"https://huggingface.co/{source}"
    try:
        return _from_folder(place, subfolder, f"pretrained autoencoder source={source!r}")
    except OSError as error:
        if not_of_the_file(error) and path.is_dir():
            raise
        if path.is_dir() and all((path / inside / name).is_file() for name in FILES):
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"pretrained autoencoder source={source!r}: {' or '.join(FILES)} is damaged: {reason} Remedy: copy "
                "both files anew."
            ) from error
        raise FileNotFoundError(
            f"pretrained autoencoder source={source!r}: cannot load {' and '.join(inside + name for name in FILES)} "
            f"from {where}. On a machine without a network, download both "
            "files elsewhere, put them into one folder, and give that folder as `source` (without `subfolder`)."
        ) from error


def _from_folder(place: str, subfolder: str | None, origin: str) -> AutoencoderKL:
    """A network of the hub, or of a folder in its layout, all of whose weights are there."""
    remedy = "Remedy: the folder of an AutoencoderKL, or a checkpoint of vae_train or ddpm_train."
    try:
        config = AutoencoderKL.load_config(place, subfolder=subfolder)
        named = config.get("_class_name", "AutoencoderKL") if isinstance(config, Mapping) else type(config).__name__
        if named not in CLASSES:
            raise UserError(f"its config.json describes a {named}, and {', '.join(CLASSES)} are known here. {remedy}")
        network, report = _class_of(config).from_pretrained(place, subfolder=subfolder, output_loading_info=True)
    except Exception as error:  # of what kind depends on what the two files are instead
        if isinstance(error, OSError) or not_of_the_file(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        said = reason if remedy in reason else f"config.json and its weights do not make a network: {reason}. {remedy}"
        raise UserError(f"{origin}: {said}") from error
    lacking = sorted(report["missing_keys"]) + [str(key) for key in report["mismatched_keys"]]
    if lacking:
        more = f", … ({len(lacking)} in all)" if len(lacking) > SHOWN else ""
        raise UserError(
            f"{origin}: its weights do not fill the network, which would be at random there: "
            f"{', '.join(lacking[:SHOWN])}{more}. {remedy}"
        )
    check_finite(network.state_dict(), origin)
    return network


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
        raise UserError(f"{error} For a diffusers autoencoder give its folder.") from error
    if NETWORK_KEY not in checkpoint:
        raise UserError(
            f"{path}: not a checkpoint of an autoencoder trained here (no {NETWORK_KEY!r}; it holds "
            f"{', '.join(sorted(checkpoint)[:8])}). For a diffusers autoencoder give its folder."
        )
    config = checkpoint[NETWORK_KEY]
    if config is not None:
        network = _rebuilt(config, path)
    elif network is None:
        raise UserError(f"{path}: its autoencoder is of a class that it cannot be rebuilt from; give the network.")
    nested = any(name.startswith("autoencoder.") for name in checkpoint["state_dict"])
    prefix = "autoencoder.network." if nested else "network."
    state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    try:
        check_architecture(network, {"state_dict": state})
    except ValueError as error:
        raise UserError(
            f"{path}: its autoencoder is of another architecture than model/autoencoder: {error}"
        ) from error
    check_finite(state, str(path))
    network.load_state_dict(state)
    return network


def _rebuilt(config: Any, path: Path) -> AutoencoderKL:
    """The network that a checkpoint says its autoencoder is: sizes alone, for one of the classes known here."""
    try:
        return _build(**config)
    except MemoryError:
        raise
    except Exception as error:  # of what kind depends on what somebody wrote there
        raise UserError(
            f"checkpoint {str(path)!r}: what it says of its autoencoder ({NETWORK_KEY}) describes no AutoencoderKL: "
            f"{str(error).partition(chr(10))[0]}. Remedy: another checkpoint of the run."
        ) from error
