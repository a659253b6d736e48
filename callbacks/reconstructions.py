"""How faithful an autoencoder is: validation images above their reconstructions, and PSNR and SSIM over the set.

The sheets show photographs of the validation split: they stay in the run's folder and its loggers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from callbacks.due import is_due
from callbacks.image_sheet import compose, publish
from callbacks.isolation import demand, isolated, to_uint8
from callbacks.ranks import Ranks
from datamodules.errors import UserError

BETTER = {"psnr": "max", "ssim": "max"}


class Reconstructor(Protocol):
    """What the trained module must be able to do."""

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images float32 [B, 3, H, W] in [0, 1] -> the same after encoding and decoding."""


class Reconstructions(Callback):
    """Log `val/psnr` (dB) and `val/ssim`, write `<output_dir>/samples/reconstructions_0007.png`, after validation.

    Both are means over images of the figure of each, for reconstructions cut to [0, 1]; every rank takes its share.

    Args:
        output_dir: folder of the run.
        num_images: images on the sheet, evenly spaced in the split.
        every_n_epochs: epochs between measurements; the last epoch of max_epochs is measured in any case.
        num_metric_images: images that PSNR and SSIM are measured on, evenly spaced; None = all.
        batch_size: images at a time on each rank.
        split: the split the images come from.

    Raises:
        ValueError: a count below 1; a module or datamodule that lacks what is needed.
    """

    def __init__(
        self,
        output_dir: str,
        num_images: int = 8,
        every_n_epochs: int = 1,
        num_metric_images: int | None = None,
        batch_size: int = 16,
        split: str = "val",
    ) -> None:
        counts = {"num_images": num_images, "every_n_epochs": every_n_epochs, "batch_size": batch_size}
        for name, value in {**counts, "num_metric_images": num_metric_images}.items():
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}: Reconstructions needs at least 1")
        self.output_dir = output_dir
        self.num_images = num_images
        self.every_n_epochs = every_n_epochs
        self.num_metric_images = num_metric_images
        self.batch_size = batch_size
        self.split = split

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that everything needed is there."""
        demand("Reconstructions", "pl_module", pl_module, "reconstruct")
        demand("Reconstructions", "trainer.datamodule", trainer.datamodule, "images")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log on every rank, write on rank 0."""
        if trainer.sanity_checking or not is_due(trainer, self.every_n_epochs):
            return
        images = trainer.datamodule.images(self.split)
        if len(images) == 0:
            raise UserError(f"split {self.split!r} has no images: Reconstructions has nothing to show")
        with isolated(pl_module):
            psnr, ssim = self._fidelity(images, pl_module, Ranks.of(trainer))
            originals = _batch(images, _spaced(len(images), self.num_images), pl_module.device)
            shown = torch.stack([originals, to_uint8(pl_module.reconstruct(originals.float() / 255))])
        # Every rank holds the same figures; their maximum is exact, where a mean would round.
        pl_module.log_dict({"val/psnr": psnr, "val/ssim": ssim}, sync_dist=True, reduce_fx="max")
        if trainer.is_global_zero:
            rows = shown.permute(0, 1, 3, 4, 2).cpu().numpy()
            path = Path(self.output_dir) / "samples" / f"reconstructions_{trainer.current_epoch:04d}.png"
            publish(trainer, compose(rows, ["original", "reconstruction"]), path, "samples/reconstructions")

    def _fidelity(self, images: Sequence[np.ndarray], module: LightningModule, ranks: Ranks) -> tuple[float, float]:
        chosen = _spaced(len(images), self.num_metric_images or len(images))
        share = [chosen[item] for item in ranks.share(len(chosen))]
        figures = []
        for start in range(0, len(share), self.batch_size):
            originals = _batch(images, share[start : start + self.batch_size], module.device).float() / 255
            figures.append(_psnr_and_ssim(module.reconstruct(originals).float().clamp(0, 1), originals))
        psnr, ssim = ranks.gather(torch.cat(figures), len(chosen)).double().mean(dim=0).tolist()
        return psnr, ssim


def _psnr_and_ssim(reconstructed: Tensor, originals: Tensor) -> Tensor:
    """Return the two figures of each image, [B, 2]."""
    psnr = peak_signal_noise_ratio(reconstructed, originals, data_range=1.0, reduction="none", dim=(1, 2, 3))
    ssim = structural_similarity_index_measure(reconstructed, originals, data_range=1.0, reduction="none")
    return torch.stack([psnr, ssim.reshape(psnr.shape)], dim=1)


def _spaced(num_all: int, num_wanted: int) -> list[int]:
    num_wanted = min(num_wanted, num_all)
    return [k * num_all // num_wanted for k in range(num_wanted)]


def _batch(images: Sequence[np.ndarray], indices: Sequence[int], device: torch.device) -> Tensor:
    """Return images uint8 [B, 3, H, W] on the device."""
    return torch.from_numpy(np.stack([np.asarray(images[i]) for i in indices])).to(device).permute(0, 3, 1, 2)
