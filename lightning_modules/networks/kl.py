"""Autoencoder networks: diffusers' AutoencoderKL, built from flat sizes or loaded from where its weights lie."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.checkpoint import load_state
from lightning_modules.checkpoint_shards import REST

NETWORK_KEY = "synfundus_autoencoder_network"  # of a checkpoint: what AutoencoderKL was built with
WEIGHT_SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors")


class FoldedAutoencoderKL(AutoencoderKL):
    """AutoencoderKL that folds p x p pixels into channels first, and unfolds them last.

    No layer works at full resolution, which is where a plain one spends most of its time and memory. p follows from
    `in_channels` = 3 p^2. Source of the folding: Shi et al. 2016 (arXiv 1609.05158), sub-pixel convolution.
    """

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple:
        """Images [B, 3, H, W] -> posterior of latents."""
        return super().encode(F.pixel_unshuffle(x, folding(self.config)), return_dict=return_dict)

    def decode(self, z: Tensor, return_dict: bool = True, generator: None = None) -> DecoderOutput | tuple:
        """Latents -> images [B, 3, H, W]."""
        sample = F.pixel_shuffle(super().decode(z, return_dict=False)[0], folding(self.config))
        return DecoderOutput(sample=sample) if return_dict else (sample,)


class ShortcutAutoencoderKL(FoldedAutoencoderKL):
    """FoldedAutoencoderKL whose convolutions learn what a linear code of each cell leaves over.

    A linear map from a cell's pixels to its moments, and one back, are added to encoder and decoder. They start as the
    mean colour of the cell, and the convolutions start small: from the first step on there is a blurred image to
    improve, where a plain network spends its first thousand steps on finding the colours.

    Source: residual autoencoding of Chen et al. 2024 (arXiv 2410.10733). Differs from the paper: the shortcuts are
    learnt, and one spans the whole network instead of each stage.
    """

    def __init__(self, **config: object):
        super().__init__(**config)
        self.register_to_config(linear_shortcut=True)
        fold, latents = folding(self.config), self.config.latent_channels
        side = downsampling(self.config) // fold  # of a cell, in folded pixels
        self.shortcut_in = nn.Conv2d(3 * fold**2, 2 * latents, side, stride=side)
        self.shortcut_out = nn.ConvTranspose2d(latents, 3 * fold**2, side, stride=side)
        with torch.no_grad():
            for part in (self.shortcut_in, self.shortcut_out):
                part.weight.zero_()
                part.bias.zero_()
            for colour in range(min(3, latents)):
                folded = slice(colour * fold**2, (colour + 1) * fold**2)
                self.shortcut_in.weight[colour, folded] = 2 / (side * fold) ** 2
                self.shortcut_out.weight[colour, folded] = 0.5
            for convolution in (self.encoder.conv_out, self.decoder.conv_out):
                convolution.weight.mul_(0.1)

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple:
        """Images [B, 3, H, W] -> posterior of latents."""
        folded = F.pixel_unshuffle(x, folding(self.config))
        moments = self.quant_conv(self.encoder(folded)) + self.shortcut_in(folded)
        posterior = DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True, generator: None = None) -> DecoderOutput | tuple:
        """Latents -> images [B, 3, H, W]."""
        folded = self.decoder(self.post_quant_conv(z)) + self.shortcut_out(z)
        sample = F.pixel_shuffle(folded, folding(self.config))
        return DecoderOutput(sample=sample) if return_dict else (sample,)


def folding(config: object) -> int:
    """Pixels of the side of a fold, 1 for a plain AutoencoderKL; from the config it was built with."""
    return math.isqrt(config.in_channels // 3)


def downsampling(config: object) -> int:
    """Pixels of the side of a latent cell; from the config that an AutoencoderKL was built with."""
    return folding(config) * 2 ** (len(config.block_out_channels) - 1)


def _build(linear_shortcut: bool = False, **config: object) -> AutoencoderKL:
    if linear_shortcut:
        return ShortcutAutoencoderKL(**config)
    return (AutoencoderKL if config["in_channels"] == 3 else FoldedAutoencoderKL)(**config)


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
    try:
        return AutoencoderKL.from_pretrained(str(path) if path.is_dir() else source, subfolder=subfolder)
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
