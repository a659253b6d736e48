"""Autoencoder: images to normal posteriors over small latents and back, with or without a discriminator.

Legend:
    B batch    H, W pixels    C latent channels    h, w latent cells = H, W / downsampling
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from lightning_modules.adversarial import AdversarialSteps, Adversary
from lightning_modules.equivariance import turned_and_shrunk
from lightning_modules.latent_statistics import LatentStatistics
from lightning_modules.names import check_name
from lightning_modules.networks.folded import downsampling
from lightning_modules.networks.kl import NETWORK_KEY, network_config
from lightning_modules.randomness import seed_global_stream, step_generator
from lightning_modules.ranks import RankSlice, mean_over_ranks
from lightning_modules.training import Blocks, Optimisation, TrainedModule, accepts_fields

LOSSES = ("reconstruction", "kl", "perceptual")  # logged beside their sum; less of each is better
RECONSTRUCTIONS = {"l1": nn.functional.l1_loss, "l2": nn.functional.mse_loss}


@dataclass(frozen=True)
class ReconstructionTerms:
    """What a reconstruction is judged by, and what latents go through before they are decoded in training.

    Args:
        reconstruction: "l1" or "l2", mean over pixels in [-1, 1].
        latent_noise: in training each image's latents get noise of a deviation drawn between 0 and this times the
            batch's deviation of their channel, so that what is decoded does not hang on digits that a denoiser cannot
            predict. 0 adds none. Source: the noise of denoising autoencoders, Vincent et al. 2008.
        equivariance: chance of a training step to decode latents that were turned and shrunk, and to compare with the
            image turned and shrunk alike; 0 for never. Latents are then as smooth as images are, and a denoiser learns
            them sooner. Source: EQ-VAE, Kouzelis et al. 2025 (arXiv 2502.09509), eq. 5. Differs from the paper: one
            transformation a batch, shrunk to half and not to a quarter at most, sides in whole cells.

    Raises:
        ValueError: an unknown reconstruction; an equivariance that is no chance.
    """

    reconstruction: str = "l1"
    kl_weight: float = 1e-6
    perceptual_weight: float = 1.0
    latent_noise: float = 0.0
    equivariance: float = 0.0

    def __post_init__(self) -> None:
        check_name("reconstruction", self.reconstruction, RECONSTRUCTIONS)
        if not 0 <= self.equivariance <= 1:
            raise UserError(f"equivariance={self.equivariance} must be from 0 to 1: the chance of a training step.")


@accepts_fields(terms=ReconstructionTerms, adversary=Adversary, optimisation=Optimisation, blocks=Blocks)
class Autoencoder(AdversarialSteps, TrainedModule):
    """KL autoencoder, trained with pixel, perceptual and optionally adversarial losses.

    Source: Rombach et al. 2022 (arXiv 2112.10752), section 3.1 and appendix G. Differs from the paper: the
    discriminator's weight is fixed, not adapted to gradient norms, and the pixel loss has no learned variance.

    loss = reconstruction + perceptual_weight * perceptual + kl_weight * kl / (3 H W) + disc_weight * adversarial.
    `kl` is in nats an image, mean over the batch; divided by the number of the image's values it weighs against a
    reconstruction that is a mean over them, so `kl_weight` means what it means in the paper (1e-6 there), at any size.

    Without a discriminator optimisation is automatic. With one it is manual: two optimisers, of which only the
    autoencoder's counts in `global_step`; the discriminator joins at step `disc_start`; it computes in float32; a step
    whose gradient is not finite is left out and counted in `train/skipped_steps`.

    Images are [B, 3, H, W] in [0, 1] outside, in [-1, 1] inside. Latents of `encode` and `decode` are raw;
    `standardise` uses the mean and standard deviation of `measure_latents`, kept in the checkpoint.

    Args:
        network: diffusers' AutoencoderKL or the like (`encode(x).latent_dist`, `decode(z).sample`, `config`).
        perceptual: distance of two batches in [0, 1], e.g. PerceptualLoss.
        discriminator: images in [-1, 1] -> logits.
        gradient_clip: largest norm of the gradient of either optimiser; None does not clip.
        seed: of the posterior's noise and of dropout.
    """

    latent_shift: Tensor
    latent_scale: Tensor
    num_measured: Tensor

    def __init__(
        self,
        network: nn.Module,
        perceptual: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        terms: ReconstructionTerms = ReconstructionTerms(),
        adversary: Adversary = Adversary(),
        optimisation: Optimisation = Optimisation(),
        gradient_clip: float | None = None,
        seed: int = 0,
        channels_last: bool = False,
        blocks: Blocks = Blocks(),
    ):
        super().__init__(optimisation, blocks, seed)
        self.network, self.perceptual, self.discriminator = network, perceptual, discriminator
        self.terms, self.adversary, self.gradient_clip = terms, adversary, gradient_clip
        self.pixel_loss = RECONSTRUCTIONS[terms.reconstruction]
        self.automatic_optimization = discriminator is None
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.register_buffer("latent_shift", torch.zeros(self.latent_channels))
        self.register_buffer("latent_scale", torch.ones(self.latent_channels))
        self.register_buffer("num_measured", torch.zeros((), dtype=torch.int64))
        self.register_buffer("skipped_steps", torch.zeros((), dtype=torch.int64))

    # --- the border: images in [0, 1], raw latents ----------------------------------------------------------------

    @property
    def latent_channels(self) -> int:
        """C, channels of the latents."""
        return self.network.config.latent_channels

    @property
    def downsampling(self) -> int:
        """Pixels of the side of a latent cell."""
        return downsampling(self.network.config)

    @property
    def measured(self) -> bool:
        """Whether `measure_latents` has run, here or before the checkpoint was written."""
        return bool(self.num_measured > 0)

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] -> mean and standard deviation of the raw latents, float32 [B, C, h, w] each.

        Raises:
            ValueError: a height or width that `downsampling` does not divide.
        """
        posterior = self._posterior(2 * images - 1)
        return posterior.mean.float(), posterior.std.float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents [B, C, h, w] -> images float32 in [0, 1]."""
        return (self.network.decode(latents).sample.float() / 2 + 0.5).clamp(0, 1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images in [0, 1] -> the same through the posterior's mean."""
        return self.decode(self.encode(images)[0])

    def standardise(self, latents: Tensor) -> Tensor:
        """Raw latents -> zero mean and unit variance a channel, over the images of `measure_latents`."""
        return (latents - self.latent_shift.view(-1, 1, 1)) / self.latent_scale.view(-1, 1, 1)

    def unstandardise(self, latents: Tensor) -> Tensor:
        """Inverse of `standardise`."""
        return latents * self.latent_scale.view(-1, 1, 1) + self.latent_shift.view(-1, 1, 1)

    def measure_latents(self, batches: Iterable[Mapping[str, Any] | Tensor]) -> int:
        """Set `latent_shift` and `latent_scale` from the posteriors of images.

        In a distributed run the sums of the ranks are added, so all ranks end with the same figures.

        Args:
            batches: images [B, 3, H, W], float in [0, 1] or uint8, or batches that hold them under "image".

        Returns:
            Number of images measured.

        Raises:
            ValueError: no image.
        """
        statistics = LatentStatistics(self.latent_channels)
        for batch in batches:
            images = batch["image"] if isinstance(batch, Mapping) else batch
            images = images.to(self.device)
            statistics.add(*self.encode(images / 255 if images.dtype == torch.uint8 else images))
        statistics.add_ranks(self.device)
        mean, std = statistics.mean_and_std()
        self.latent_shift.copy_(mean)
        self.latent_scale.copy_(std)
        self.num_measured.fill_(statistics.num_images)
        return statistics.num_images

    def drop_judges(self) -> None:
        """Let go of the perceptual network and the discriminator: what is left encodes and decodes."""
        self.perceptual, self.discriminator = None, None
        self.automatic_optimization = True

    # --- losses ---------------------------------------------------------------------------------------------------

    def _posterior(self, x: Tensor) -> Any:
        """Posterior of images in [-1, 1]."""
        height, width = x.shape[-2:]
        factor = self.downsampling
        if height % factor or width % factor:
            valid = [f"{max(side // factor, 1) * factor} or {-(-side // factor) * factor}" for side in (height, width)]
            raise UserError(
                f"image of {height} x {width} pixels: the autoencoder downsamples by {factor}, which must divide both. "
                f"Nearest valid height {valid[0]}, width {valid[1]} (data.image_size)."
            )
        return self.network.encode(x).latent_dist

    def losses(self, x: Tensor, generator: torch.Generator | None) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Losses apart and their sum, the image in [-1, 1] and its reconstruction; from the mean without a generator.

        The image is x, or x turned and shrunk where the step is one of `equivariance`.
        """
        posterior, num_values = self._posterior(x), x[0].numel()
        mean, std, logvar = posterior.mean.float(), posterior.std.float(), posterior.logvar.float()
        z = mean
        if generator is not None:
            z, x = self._transformed(mean + std * self._drawn(torch.randn, mean.shape, generator), x, generator)
            z = self._noisy(z, generator)
        y = self.network.decode(z).sample.float()
        # Kingma & Welling 2014 (arXiv 1312.6114), appendix B, with the sign of a loss.
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean()
        losses = {"reconstruction": self.pixel_loss(y, x), "kl": kl}
        losses["loss"] = losses["reconstruction"] + self.terms.kl_weight * kl / num_values
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual(y / 2 + 0.5, x / 2 + 0.5)
            losses["loss"] = losses["loss"] + self.terms.perceptual_weight * losses["perceptual"]
        return losses, x, y

    def _transformed(self, z: Tensor, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents and images, turned and shrunk alike in some of the steps."""
        chance = self.terms.equivariance
        if not chance or torch.rand((), generator=generator, device=generator.device) >= chance:
            return z, x
        return turned_and_shrunk(z, x, generator)

    def _noisy(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Latents with the noise of `latent_noise`."""
        if not self.terms.latent_noise:
            return z
        share = self._drawn(torch.rand, (len(z), 1, 1, 1), generator)
        noise = self._drawn(torch.randn, z.shape, generator)
        return z + self.terms.latent_noise * share * self._deviation(z.detach()) * noise

    def _drawn(self, draw: Callable[..., Tensor], shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """What this rank has of a draw for the batch of all ranks."""
        part = RankSlice.of_module(self)
        return part.of(lambda num: draw(num, *shape[1:], generator=generator, device=generator.device), shape[0])

    def _deviation(self, z: Tensor) -> Tensor:
        """Standard deviation of each channel over the batch of all ranks, [1, C, 1, 1]."""
        num_ranks = RankSlice.of_module(self).num_ranks
        if num_ranks == 1:
            return z.std((0, 2, 3), keepdim=True)
        mean = mean_over_ranks(self, z.mean((0, 2, 3), keepdim=True))
        square = mean_over_ranks(self, (z - mean).square().mean((0, 2, 3), keepdim=True))
        num = num_ranks * z[:, 0].numel()
        return (square * num / (num - 1)).sqrt()

    # --- training -------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Spread what is learnt over the processes, where the strategy does that."""
        self.prepare(self.network, (*self.network.children(), self.discriminator))

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor | None:
        """One step; all noise is a function of (seed, epoch, batch) and of the place in the batch of all ranks."""
        seed_global_stream(self.seed, self.global_rank, self.current_epoch, batch_idx)  # dropout
        generator = step_generator(self.device, "autoencoder", self.seed, 0, self.current_epoch, batch_idx)
        x = 2 * batch["image"] - 1
        losses, x, y = self.losses(x, generator)
        if self.discriminator is not None:
            self._adversarial_step(losses, x, y)
        logged = {f"train/{name}": value.detach() for name, value in losses.items()}
        self.log_dict(logged, on_step=True, on_epoch=False, sync_dist=True, batch_size=len(x))
        return losses["loss"] if self.discriminator is None else None

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by `gradient_clip` unless the Trainer has a value of its own (automatic optimisation only)."""
        value = self.gradient_clip if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(optimizer, value, gradient_clip_algorithm or "norm")

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Log the losses of the posterior's mean, without the discriminator."""
        losses, *_ = self.losses(2 * batch["image"] - 1, None)
        logged = {f"val/{name}": value for name, value in losses.items()}
        self.log_dict(logged, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch["image"]))

    def configure_optimizers(self) -> Any:
        """AdamW with its schedule, and with a discriminator a second one at a constant rate.

        Raises:
            ValueError: a strategy or precision that two optimisers do not work with; a discriminator that never joins.
        """
        scheduled = self.scheduled(self.adamw([(self.network, self.optimisation.weight_decay)]))
        if self.discriminator is None:
            return scheduled
        return [scheduled["optimizer"], self._joining_optimizer()], [scheduled["lr_scheduler"]["scheduler"]]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add how the network was built too."""
        checkpoint[NETWORK_KEY] = network_config(self.network)
        super().on_save_checkpoint(checkpoint)
