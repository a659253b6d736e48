"""Checkpoints of every kind without the training: tiny networks, weights at random, none of them left at zero."""

from pathlib import Path

import torch
from omegaconf import OmegaConf
from tiny_runs import AUTOENCODER, DIFFUSION, GAN, UNET

from experiments.assembly import build_autoencoder, build_classifier, build_diffusion, build_gan, build_segmenter
from experiments.backbone_names import spelt_out
from experiments.composition import compose_config
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.classifier import Classifier
from lightning_modules.gan import PairGAN
from lightning_modules.latent_diffusion import LatentDiffusion
from lightning_modules.segmenter import Segmenter

SIZE = 16
DIT = ["model/denoiser=dit_s", "model.denoiser.hidden=16", "model.denoiser.depth=2", "model.denoiser.heads=2"]
PLAIN_KL = ["model.autoencoder.patch_size=1", "model.autoencoder.linear_shortcut=false"]
FOLDED_KL = ["model.autoencoder.linear_shortcut=false"]


@torch.no_grad()
def stirred(network: torch.nn.Module, seed: int) -> None:
    """Add noise to every weight, so that those that start at zero have a part."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in network.parameters():
        tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))


def autoencoder(*words: str) -> Autoencoder:
    """An autoencoder of 16 pixels, its latents measured."""
    cfg = compose_config(["+exp=vae_train", f"data.image_size={SIZE}", *AUTOENCODER, *words])
    module = build_autoencoder(cfg, with_judges=False)
    stirred(module.network, 1)
    module.measure_latents([torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))])
    return module.eval()


def generator(*words: str, denoiser: list[str] = UNET) -> LatentDiffusion:
    """A generator of 16 pixels, whose averaged weights are not its raw ones."""
    common = [f"data.image_size={SIZE}", *AUTOENCODER, *DIFFUSION, *denoiser, *words]
    cfg = compose_config(["+exp=ddpm_train", *common])
    of_the_autoencoder = [word for word in words if word.startswith(("model.autoencoder", "model/autoencoder"))]
    module = build_diffusion(cfg, autoencoder(*of_the_autoencoder))
    stirred(module.network, 3)
    stirred(module.ema.network, 4)
    if module.network.label_maps is not None:
        for network in (module.network, module.ema.network):
            torch.nn.init.normal_(network.label_maps.table, generator=torch.Generator().manual_seed(5))
            torch.nn.init.normal_(network.label_maps.mean, generator=torch.Generator().manual_seed(6))
            network.label_maps.num_fitted.fill_(4)
    return module.eval()


def gan(*words: str) -> PairGAN:
    """A GAN of images and masks of 16 pixels."""
    sizes = [f"data.image_size={SIZE}", "model.mask_levels=[background,polyp]", *GAN, *words]
    return build_gan(compose_config(["+exp=gan_train", *sizes])).eval()


def classifier(*words: str, backbone: str = "resnet10t", findings: str = "dr_grade,is_gc,eye_side") -> Classifier:
    """A classifier that says something else of every image."""
    own = [f"model/backbone={backbone}", f"data.image_size={2 * SIZE}", f"model.findings=[{findings}]", *words]
    cfg = compose_config(spelt_out(["+exp=classifier_train", "model/init=random", *own]))
    module = build_classifier(cfg)
    torch.nn.init.normal_(module.network.heads.directions.weight, std=0.3)
    torch.nn.init.normal_(module.network.heads.offsets, std=0.5)
    return module.eval()


def segmenter(*words: str) -> Segmenter:
    """A segmenter of disc and cup whose threshold is not the one that it starts with."""
    own = ["model.network.encoder=tu-resnet10t", "+model.network.options.decoder_channels=[8,8,8,8,8]", *words]
    cfg = compose_config(["+exp=segmenter_train", f"data.image_size={2 * SIZE}", *own])
    module = build_segmenter(OmegaConf.merge(cfg, {"model": {"mask_levels": ["background", "disc", "cup"]}}))
    module.threshold.fill_(0.35)
    return module.eval()


def saved(module: torch.nn.Module, path: Path) -> Path:
    """What a Trainer writes of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = {"state_dict": module.state_dict(), "global_step": 7}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path
