"""What is made of all training images before a denoiser is trained: latents, the code of masks, the label maps."""

from collections.abc import Iterator

import numpy as np
import torch

from datamodules.augment import mirror_labels, to_unit_range
from datamodules.fundus import FundusDataModule
from datamodules.latents import LatentCache
from datamodules.masks import to_levels
from experiments.report import say
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.checkpoint import weights_fingerprint
from lightning_modules.latent_diffusion import LatentDiffusion
from lightning_modules.masks import mask_dice

MOST_IMAGES, BATCH = 20_000, 64  # to which label maps are fitted, and how many at once


def cache_latents(cache_dir: str, datamodule: FundusDataModule, autoencoder: Autoencoder) -> LatentCache:
    """Latents of the training images, both ways round; made once for these images and these weights."""
    device = autoencoder.device

    def encode(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = autoencoder.encode(images.to(device))
        return mean.cpu(), std.cpu()

    fingerprint = {"images": datamodule.fingerprint, "split": datamodule.split_fingerprint,
                   "autoencoder": weights_fingerprint(autoencoder.network)}  # fmt: skip
    return LatentCache.build(encode, datamodule.images("train"), fingerprint, cache_dir)


def fit_mask_code(module: LatentDiffusion, datamodule: FundusDataModule) -> None:
    """Fit the code of masks, where there is one that comes with no weights; on every process alike."""
    code = module.mask_code
    if code is None or code.fitted:
        return

    def masks() -> Iterator[torch.Tensor]:
        return (batch["mask"] for batch in label_batches(datamodule) if "mask" in batch)

    module.fit_mask_code(masks())
    kept = [mask_dice(code.harden(code.decode(code.encode(mask.to(module.device)))).cpu(), mask) for mask in masks()]
    number, share = sum(len(one) for one in kept), float(torch.cat(kept).mean())
    say(
        f"mask code: {code.channels} channels a cell, fitted to {number} training masks; it keeps a Dice of "
        f"{share:.3f} of them"
    )


def fit_label_maps(module: LatentDiffusion, datamodule: FundusDataModule) -> None:
    """Fit the label maps, where there are any that come with no weights; on every process alike."""
    maps = module.network.label_maps
    if maps is None or maps.fitted:
        return
    number = module.fit_label_maps(label_batches(datamodule))
    say(f"label maps fitted to {number} training images{', mirrored ones among them' if datamodule.flip else ''}")


def label_batches(datamodule: FundusDataModule) -> Iterator[dict[str, torch.Tensor]]:
    """Training images with their labels, and as often mirrored, of at most MOST_IMAGES evenly spread."""
    dataset, cache = datamodule.dataset("train"), datamodule.latents
    images, labels, masks = dataset.images, dataset.labels, dataset.masks
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), MOST_IMAGES)).astype(np.int64))
    for rows in np.array_split(chosen, -(-len(chosen) // BATCH)):
        for mirrored in (False, True)[: 1 + datamodule.flip]:
            theirs = labels[torch.from_numpy(rows)]
            batch = {"labels": mirror_labels(theirs) if mirrored else theirs}
            if masks is not None:
                mask = to_levels(torch.from_numpy(masks[rows][..., 0]))
                batch["mask"] = mask.flip(-1) if mirrored else mask
            if cache is not None:
                mean, std = torch.from_numpy(cache.latents[rows, int(mirrored)]).float().unbind(1)
                yield batch | {"latent_mean": mean, "latent_std": std}
            else:
                image = to_unit_range(torch.from_numpy(images[rows]).permute(0, 3, 1, 2))
                yield batch | {"image": image.flip(-1) if mirrored else image}
